"""What is run: suites, rows and cells, read from TOML files that ship with the package.

A suite names data sets and rows; a row is a method with settings, each group of which says where its values come from
("paper", "label-free search" or "default") and which of them somebody chose by looking at labels (``oracle``). A cell
is one row on one data set with one seed and one post-processing.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from subspan.errors import DataNotFoundError, InvalidInputError
from subspan.methods import METHODS

SUITES = ("table1", "table2", "table3", "cpu", "small", "quick")
SOURCES = ("paper", "label-free search", "default")
_SHARED = "rows"  # the file of rows that suites share


@dataclass(frozen=True)
class Settings:
    """A group of values from one source; ``data`` names the sets that it is for (empty: all).

    ``values`` are parameters of the estimator, ``codes`` options of :func:`subspan.bench.codes.learn_codes`,
    ``pretraining`` the "method" and "values" of the model whose auto-encoder the estimator takes, ``where`` says more
    about the source, and ``oracle`` lists the values that were chosen with labels.
    """

    source: str
    where: str = ""
    data: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, Any] = field(default_factory=dict)
    pretraining: dict[str, Any] = field(default_factory=dict)
    oracle: tuple[str, ...] = ()

    def is_for(self, data: str) -> bool:
        return not self.data or data in self.data


@dataclass(frozen=True)
class Row:
    """A line of a table: a method with its settings, in one or more variants of post-processing.

    ``max_samples`` is for this row alone; else ``transductive`` rows get those of the suite.
    """

    name: str
    method: str
    title: str = ""
    transductive: bool = False
    max_samples: int | None = None
    settings: tuple[Settings, ...] = ()
    postprocessing: tuple[tuple[str, Settings], ...] = (("", Settings("default")),)


@dataclass(frozen=True)
class Data:
    """A data set of a suite, with the number of clusters that every method is told."""

    name: str
    n_clusters: int
    title: str = ""


@dataclass(frozen=True)
class Suite:
    """Rows times data sets, with limits for each cell."""

    name: str
    title: str
    data: tuple[Data, ...]
    rows: tuple[Row, ...]
    seeds: int = 5
    time_limit: float = 7200.0  # seconds
    memory_limit_gb: float = 16.0  # resident, of 1e9 bytes
    transductive_samples: int | None = None


@dataclass(frozen=True)
class Cell:
    """One fit and its evaluation; everything that the worker needs to know."""

    suite: str
    row: str
    title: str
    method: str
    data: str
    n_clusters: int
    max_samples: int | None
    postprocessing: str
    seed: int
    parameters: dict[str, Any]
    codes: dict[str, Any]
    pretraining: dict[str, Any]
    sources: dict[str, str]
    oracle: list[str]
    time_limit: float
    memory_limit_gb: float

    @property
    def setting(self) -> str:
        """Digest of all that decides the result but the seed."""
        names = ("method", "data", "n_clusters", "max_samples", "postprocessing", "parameters", "codes")
        decisive = {name: getattr(self, name) for name in names}
        decisive |= {"pretraining": self.pretraining} if self.pretraining else {}
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """Name of the cell; a cell with other settings has another."""
        row = f"{self.row}/{self.postprocessing}" if self.postprocessing else self.row
        return f"{self.data}:{row}:{self.setting}:{self.seed}"

    @property
    def label(self) -> str:
        """The cell for people."""
        variant = f" ({self.postprocessing})" if self.postprocessing else ""
        return f"{self.data} {self.row}{variant} seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def load_suite(name: str) -> Suite:
    """The suite that ships under that name, or the one in a .toml file.

    Raises
    ------
    DataNotFoundError
        There is no such suite or file.
    InvalidInputError
        The file is damaged, or holds unknown keys, rows or sources.
    """
    if name in SUITES:
        text = (files("subspan.bench") / "settings" / f"{name}.toml").read_text(encoding="utf-8")
    elif name.endswith(".toml") and Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        near = difflib.get_close_matches(name, SUITES, n=2, cutoff=0.5) or SUITES
        raise DataNotFoundError(f"There is no suite '{name}': choose {' or '.join(near)}, or give a .toml file.")
    shared = (files("subspan.bench") / "settings" / f"{_SHARED}.toml").read_text(encoding="utf-8")
    return parse_suite(Path(name).stem, text, shared)


def parse_suite(name: str, text: str, shared: str = "") -> Suite:
    """Suite from the text of a TOML file; ``shared`` holds the rows that it may name beside its own.

    Raises
    ------
    InvalidInputError
        As :func:`load_suite`.
    """
    content = _parse_toml(text, name)
    known = {row.name: row for row in _rows(_parse_toml(shared, _SHARED), _SHARED)}
    known |= {row.name: row for row in _rows(content, name)}
    own = [row["name"] for row in content.pop("row", [])]
    every_method = content.pop("every_method", False)
    wanted = content.pop("rows", [] if every_method else own)
    if unknown := [row for row in wanted if row not in known]:
        raise InvalidInputError(f"Suite {name} names the row '{unknown[0]}', which no [[row]] defines: add it.")
    rows = [known[row] for row in wanted]
    if every_method:
        rows += [Row(method, method) for method in METHODS if method not in {row.method for row in rows}]
    data = tuple(_make(Data, entry, name) for entry in _tables(content, "data", name))
    content.pop("data", None)
    suite = _make(Suite, {"name": name, **content, "data": data, "rows": tuple(rows)}, name)
    for key, names in (("row", [row.name for row in rows]), ("data", [entry.name for entry in data])):
        if not names:
            raise InvalidInputError(f"Suite {name} has nothing to run: add [[{key}]].")
        if twice := [one for one in names if names.count(one) > 1]:
            raise InvalidInputError(f"Suite {name} has [[{key}]] '{twice[0]}' twice: name it once.")
    return suite


def cells(suite: Suite, seeds: Iterable[int]) -> list[Cell]:
    """All cells of a suite: data sets, in each the seeds, in each the rows, so that early lines cover every row."""
    pairs = [(data, seed) for data in suite.data for seed in seeds]
    return [cell for data, seed in pairs for row in suite.rows for cell in row_cells(suite, row, data, seed)]


def row_cells(suite: Suite, row: Row, data: Data, seed: int) -> list[Cell]:
    """The cells of one row on one data set with one seed, one for each post-processing."""
    variants = [(name, variant) for name, variant in row.postprocessing if variant.is_for(data.name)]
    return [_cell(suite, row, data, seed, name, variant) for name, variant in variants]


def _cell(suite: Suite, row: Row, data: Data, seed: int, variant: str, postprocessing: Settings) -> Cell:
    parameters: dict[str, Any] = {}
    codes: dict[str, Any] = {}
    pretraining: dict[str, Any] = {}
    sources: dict[str, str] = {}
    oracle: list[str] = []
    for group in (*row.settings, postprocessing):
        if group.is_for(data.name):
            parameters |= group.values
            codes |= group.codes
            pretraining |= group.pretraining
            said = f"{group.source}: {group.where}" if group.where else group.source
            sources |= dict.fromkeys(group.values, said) | {f"codes.{key}": said for key in group.codes}
            sources |= {f"pretraining.{key}": said for key in group.pretraining}
            oracle += group.oracle
    return Cell(
        suite=suite.name,
        row=row.name,
        title=row.title or row.name,
        method=row.method,
        data=data.name,
        n_clusters=data.n_clusters,
        max_samples=row.max_samples or (suite.transductive_samples if row.transductive else None),
        postprocessing=variant,
        seed=seed,
        parameters=parameters,
        codes=codes,
        pretraining=pretraining,
        sources=sources,
        oracle=oracle,
        time_limit=suite.time_limit,
        memory_limit_gb=suite.memory_limit_gb,
    )


def choose_rows(suite: Suite, wanted: Iterable[str]) -> list[str]:
    """Names of the rows that are called so, or, where no row is, of the rows of that method; all for none.

    Raises
    ------
    InvalidInputError
        No row of the suite has such a name or method.
    """
    wanted = list(wanted)
    names = [row.name for row in suite.rows]
    for word in wanted:
        if not any(word in (row.name, row.method) for row in suite.rows):
            near = difflib.get_close_matches(word, names, n=3, cutoff=0.4) or names
            raise InvalidInputError(f"Suite {suite.name} has no row '{word}': choose from {', '.join(near)}.")
    methods = set(wanted) - set(names)
    return [row.name for row in suite.rows if not wanted or row.name in wanted or row.method in methods]


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"Suite {where} is not valid TOML ({error}): correct it.") from error


def _tables(content: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    """The tables [[key]]."""
    found = content.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, Mapping) for entry in found):
        raise InvalidInputError(f"Suite {where}: {key} is not a list of tables: write [[{key}]], with two brackets.")
    return found


def _rows(content: Mapping[str, Any], where: str) -> list[Row]:
    rows = []
    for entry in _tables(content, "row", where):
        settings = tuple(_settings(group, where) for group in _tables(entry, "settings", where))
        variants = [(dict(group), group.get("name", "")) for group in _tables(entry, "postprocessing", where)]
        named = tuple((name, _settings({k: v for k, v in g.items() if k != "name"}, where)) for g, name in variants)
        more = {"postprocessing": named} if named else {}
        rows.append(_make(Row, {**entry, "settings": settings, **more}, where))
    return rows


def _settings(group: Mapping[str, Any], where: str) -> Settings:
    found = _make(Settings, {key: tuple(v) if isinstance(v, list) else v for key, v in group.items()}, where)
    if found.pretraining and (set(found.pretraining) - {"values"}) != {"method"}:
        raise InvalidInputError(
            f"Suite {where}: pretraining has {sorted(found.pretraining)}; give 'method', and 'values' if there are any."
        )
    if found.source not in SOURCES:
        raise InvalidInputError(f"Suite {where} has the source '{found.source}': use one of {', '.join(SOURCES)}.")
    return found


def _make(cls: type, entry: Mapping[str, Any], where: str) -> Any:
    valid = {item.name for item in fields(cls)}
    if unknown := set(entry) - valid:
        raise InvalidInputError(f"Suite {where}: {cls.__name__} has no key '{min(unknown)}', only {sorted(valid)}.")
    hints = get_type_hints(cls)
    for key, value in entry.items():
        kinds = _kinds(hints[key])
        if isinstance(value, bool) != (bool in kinds) or not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
            raise InvalidInputError(f"Suite {where}: {key} is {value!r} in {cls.__name__}: give a {wanted}.")
        if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
            raise InvalidInputError(f"Suite {where}: {key} is {value!r} in {cls.__name__}: give one above 0.")
    try:
        return cls(**entry)
    except TypeError as error:
        raise InvalidInputError(f"Suite {where}: {cls.__name__} is incomplete ({error}).") from error


def _kinds(hint: Any) -> tuple[type, ...]:
    """Types of values that a type hint allows; whole numbers are numbers."""
    kinds = tuple(get_origin(kind) or kind for kind in (get_args(hint) if get_origin(hint) is UnionType else (hint,)))
    return (*kinds, int) if float in kinds else kinds
