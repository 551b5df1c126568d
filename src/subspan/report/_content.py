"""Everything a report says about a run, as plain values for the template and for the script in the page."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from subspan._json import to_json
from subspan.datasets import Dataset
from subspan.report._curves import make_curves
from subspan.report._features import Features, read_features
from subspan.report._notices import find_notices
from subspan.report._palette import cluster_colours
from subspan.report._scores import PROBABILITY, Scores, read_codes, read_scores
from subspan.report._select import Members, Pair, choose_map_rows, choose_members, choose_pairs, project
from subspan.report._sprites import BORDER, Sprites, make_sprites
from subspan.runs import Run, read_history

_REDRAWN = {"clusters.png", "training.png"}  # figures of a run that the page draws itself
_FIGURE_BYTES = 3_000_000  # of all figures together
_NAMES_LENGTH = 4_000_000  # in base64; longer ones are left out of the table
_HIGHEST = {"uint8": 255, "uint16": 65_535, "uint32": 2**32 - 1}


@dataclass(frozen=True)
class Content:
    """What the template shows.

    Attributes
    ----------
    run : Run
    data : Dataset
        Without true labels.
    k : int
        Clusters, empty ones included.
    sizes : int array of shape (k,)
    scores : Scores
    members : list of Members
    pairs : list of Pair
    map_rows, points, shares : arrays of shape (m,), (m, 2) and (2,)
        The samples on the map, where they lie, and what the two axes explain.
    has_transform : bool
    features : Features or None
        Of vectors.
    sprites : Sprites or None
        Of images.
    curves : dict
    """

    run: Run
    data: Dataset
    k: int
    sizes: np.ndarray
    scores: Scores
    members: list[Members]
    pairs: list[Pair]
    map_rows: np.ndarray
    points: np.ndarray
    shares: np.ndarray
    has_transform: bool
    features: Features | None
    sprites: Sprites | None
    curves: dict[str, Any]

    @property
    def name(self) -> str:
        source = str(self.run.config.get("source", self.data.name))
        return Path(source).name or source

    @property
    def made(self) -> str:
        return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")

    @property
    def border(self) -> int:
        return BORDER

    @property
    def by_probability(self) -> bool:
        return self.scores.measure == PROBABILITY

    @cached_property
    def colours(self) -> list[str]:
        return cluster_colours(self.k)

    @property
    def notices(self) -> list[str]:
        return find_notices(self.sizes, self.run.config, self.data.skipped)

    @property
    def names_left_out(self) -> bool:
        return self.data.names is not None and self._packed_names is None

    @cached_property
    def _packed_names(self) -> str | None:
        packed = None if self.data.names is None else _deflate(self.data.names)
        return None if packed is None or len(packed) > _NAMES_LENGTH else packed

    def sample_name(self, row: int) -> str:
        return str(row) if self.data.names is None else self.data.names[row]

    def values(self, row: int, columns: np.ndarray) -> list[str]:
        """Entries of a vector as short text."""
        return [short(value) for value in np.asarray(self.data.X[row])[columns].tolist()]

    def median(self, cluster: int | None = None) -> float:
        mine = slice(None) if cluster is None else self.scores.labels == cluster
        return float(np.median(self.scores.confidence[mine]))

    def figures(self) -> list[tuple[str, str]]:
        """Names and ``data:`` addresses of the pictures in the run folder, as far as they fit."""
        found, room = [], _FIGURE_BYTES
        paths = [path for path in sorted(self.run.figures.glob("*.png")) if path.name not in _REDRAWN]
        for path in paths:
            content = path.read_bytes()
            room -= len(content)
            if room >= 0:
                found.append((path.stem, f"data:image/png;base64,{base64.b64encode(content).decode()}"))
        return found

    def settings(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """The configuration as titled groups of names and values."""
        config = to_json(self.run.config)
        loose = {key: value for key, value in config.items() if not isinstance(value, dict)}
        groups = {"run": loose, **{key: value for key, value in config.items() if isinstance(value, dict)}}
        return [(title, [(name, _text(value)) for name, value in group.items()]) for title, group in groups.items()]

    def for_script(self) -> dict[str, Any]:
        """What the script of the page reads."""
        scores = self.scores
        low = 0.0 if self.by_probability else -1.0
        return {
            "n": len(scores.labels),
            "k": self.k,
            "colours": self.colours,
            "labels": pack(scores.labels, "uint16"),
            "runnerUp": pack(scores.runner_up, "uint16"),
            "confidence": pack(_quantise(scores.confidence, low, 1.0), "uint16"),
            "low": low,
            "names": self._packed_names,
            "map": {"rows": pack(self.map_rows, "uint32"), "xy": pack(_fit_square(self.points), "uint16")},
            "thumbs": None if self.sprites is None else self._thumbs(self.sprites),
            "features": None if self.features is None else self.features.names,
            "facts": self._facts(),
            "curves": self.curves,
        }

    def _thumbs(self, sprites: Sprites) -> dict[str, Any]:
        return {
            "rows": pack(sprites.rows, "uint32"),
            "columns": sprites.columns,
            "perSheet": sprites.per_sheet,
        }

    def _facts(self) -> dict[str, Any] | None:
        """The most unusual entries of the vectors that are shown: columns and values, one line per sample."""
        if self.features is None:
            return None
        rows = shown_rows(self.map_rows, self.members, self.pairs)
        vectors = np.asarray(self.data.X[rows], dtype=np.float64)
        tops = [self.features.of_sample(x) for x in vectors]
        return {
            "rows": pack(rows, "uint32"),
            "entries": [[[j, short(x[j])] for j in top.tolist()] for x, top in zip(vectors, tops, strict=True)],
        }


def gather(run: Run, data: Dataset, labels: np.ndarray, estimator: Any) -> Content:
    """Read the estimator once and choose what to show.

    Parameters
    ----------
    run : Run
    data : Dataset
    labels : int array of shape (n,)
    estimator : fitted estimator
    """
    k = max(int(run.config.get("parameters", {}).get("n_clusters") or 0), int(labels.max()) + 1)
    scores = read_scores(estimator, data.X, labels, k)
    members, pairs = choose_members(scores, k), choose_pairs(scores)
    map_rows = choose_map_rows(labels, k)
    codes = read_codes(estimator, data.X[map_rows]) if scores.codes is None else scores.codes[map_rows]
    points, shares = project(codes)
    vectors = data.kind == "vectors"
    return Content(
        run=run,
        data=data,
        k=k,
        sizes=np.bincount(labels, minlength=k),
        scores=scores,
        members=members,
        pairs=pairs,
        map_rows=map_rows,
        points=points,
        shares=shares,
        has_transform=hasattr(estimator, "transform"),
        features=read_features(data.X, labels, k, data.columns) if vectors else None,
        sprites=None if vectors else make_sprites(data.X, shown_rows(map_rows, members, pairs)),
        curves=make_curves(read_history(run)),
    )


def shown_rows(map_rows: np.ndarray, members: list[Members], pairs: list[Pair]) -> np.ndarray:
    """Every sample that appears in a section of the report, ascending."""
    parts = [rows for chosen in members for rows in chosen]
    parts += [rows for pair in pairs for rows in (pair.of_first, pair.of_second)]
    return np.unique(np.concatenate([map_rows, *parts]).astype(np.int64))


def short(value: float) -> str:
    """A number in at most four significant digits, whole numbers in full."""
    value = float(value)
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e7 else f"{value:.4g}"


def pack(values: np.ndarray, kind: str) -> str:
    """Whole numbers as base64 of little-endian integers; too large ones at the top of the range."""
    clipped = np.clip(values, 0, _HIGHEST[kind])
    return base64.b64encode(clipped.astype(np.dtype(kind).newbyteorder("<")).tobytes()).decode()


def _quantise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.round((np.nan_to_num(values, nan=low) - low) / (high - low) * 65_535)


def _fit_square(points: np.ndarray) -> np.ndarray:
    """Points in 0 .. 65535, both axes by the same factor, in the middle of the square; y grows downwards."""
    points = points * [1.0, -1.0]
    low, high = points.min(axis=0), points.max(axis=0)
    return np.round(((points - (low + high) / 2) / max((high - low).max(), 1e-12) + 0.5) * 65_535)


def _deflate(names: list[str]) -> str:
    return base64.b64encode(zlib.compress(json.dumps(names).encode(), 6)).decode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
