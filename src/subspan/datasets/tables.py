"""Feature vectors in .csv and .parquet files."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from subspan.datasets._types import LABEL_KEYS, NAME_KEYS, Dataset, check_samples, encode_labels
from subspan.datasets.arrays import pick_label
from subspan.errors import InvalidInputError

MISSING = {"", "na", "n/a", "null", "none", "?", "-", "."}  # for a number that is not there


class _Layout(NamedTuple):
    delimiter: str
    header: bool
    start: int  # lines before the samples
    columns: list[str]


def load_csv(path: Path, labels: str = "auto") -> Dataset:
    """Numeric columns of a text table as float64 vectors.

    Comma, semicolon and tab are recognised as separators. A first line with a word in it is a header, and so is one of
    numbers that count, such as years, if the next line does not. A column named y, label(s), class or
    target(s) holds labels; one named name(s) or file(name), or a first column without a name, holds sample names.

    Parameters
    ----------
    path : Path
    labels : str
        ``"auto"``, ``"none"`` or the name of a column.

    Returns
    -------
    Dataset with float64 X of shape (n, p): times and large offsets lose no digits

    Raises
    ------
    InvalidInputError
        If another column is not numeric, or a value is missing or infinite; the message names the cell.
    """
    try:
        layout = _detect(path)
        features, label, name = _roles(layout.columns, labels, str(path))
        X = _read_numbers(path, layout, features)
        texts = {column: _read_text(path, layout, column) for column in (label, name) if column is not None}
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not a text file in UTF-8: save it as CSV in UTF-8.") from error
    columns = [layout.columns[i] for i in features]
    _check_finite(X, columns, path)
    y, classes = (None, None) if label is None else encode_labels(numbers_if_possible(texts[label]), len(X), str(path))
    names = None if name is None else [str(value) for value in texts[name]]
    return Dataset(name=path.stem, X=check_samples(X, str(path)), y=y, names=names, classes=classes, columns=columns)


def numbers_if_possible(values: np.ndarray) -> np.ndarray:
    """Strings as numbers if every one of them is a number."""
    try:
        return values.astype(np.float64)
    except ValueError:
        return values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def find_delimiter(line: str) -> str:
    """Comma, semicolon or tab, whichever a line has most of."""
    return max(",;\t", key=line.count)


def _detect(path: Path) -> _Layout:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        empty, line = next(((i, line) for i, line in enumerate(stream) if line.strip()), (0, ""))
        below = next((line for line in stream if line.strip()), "")
    if not line:
        raise InvalidInputError(f"{path} is empty: give a table with one sample per line.")
    delimiter = find_delimiter(line)
    cells, second = (
        [cell.strip() for cell in next(csv.reader([row], delimiter=delimiter), [])] for row in (line, below)
    )
    header = _is_header(cells, second)
    return _Layout(delimiter, header, empty + header, cells if header else [str(i) for i in range(len(cells))])


def _is_header(cells: list[str], below: list[str]) -> bool:
    """Whether the first line names columns: by a word, or by numbers that count, as years and wavelengths do."""
    words = [cell for cell in cells if not _is_number(cell) and cell.lower() not in MISSING]
    if cells[0] == "" or len(words) == len(cells) or any(letter.isalpha() for word in words for letter in word):
        return True
    return _counts(cells) and not _counts(below)


def _counts(cells: list[str]) -> bool:
    """Whether these are 0, 1, 2, or four and more numbers that rise in equal steps."""
    if len(cells) < 3 or not all(_is_number(cell) for cell in cells):
        return False
    if cells == [str(i) for i in range(len(cells))]:  # as pandas writes them
        return True
    steps = np.diff([float(cell) for cell in cells])
    return len(cells) > 3 and bool(steps[0] > 0) and np.allclose(steps, steps[0], rtol=1e-6, atol=0)


def _roles(columns: list[str], labels: str, where: str) -> tuple[list[int], int | None, int | None]:
    """Indices of the features, of the labels and of the sample names. Labels never become features."""
    found = pick_label(columns, labels, where)
    label = None if found is None else columns.index(found)
    named = [i for i, column in enumerate(columns) if column.lower() in NAME_KEYS]
    named += [i for i, column in enumerate(columns[:1]) if column == ""]  # an index that pandas wrote
    name = named[0] if named else None
    apart = {label, *named, *(i for i, column in enumerate(columns) if column.lower() in LABEL_KEYS)}
    features = [i for i in range(len(columns)) if i not in apart]
    if not features:
        raise InvalidInputError(f"{where} has no feature columns beside labels and names: add numeric columns.")
    return features, label, name


def _read(path: Path, layout: _Layout, usecols: Any, dtype: Any, ndmin: Literal[1, 2]) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input contained no data", category=UserWarning)
        return np.loadtxt(
            path,
            dtype=dtype,
            comments=None,
            delimiter=layout.delimiter,
            quotechar='"',
            skiprows=layout.start,
            usecols=usecols,
            ndmin=ndmin,
            encoding="utf-8-sig",
        )


def _read_numbers(path: Path, layout: _Layout, features: list[int]) -> np.ndarray:
    try:
        return _read(path, layout, features, np.float64, 2)
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise InvalidInputError(_bad_cell(path, layout, features)) from error


def _read_text(path: Path, layout: _Layout, column: int) -> np.ndarray:
    return np.char.strip(_read(path, layout, column, str, 1))


def _bad_cell(path: Path, layout: _Layout, features: list[int]) -> str:
    """Say which cell is not a number."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=layout.delimiter)
        for row in reader:
            if not row or (layout.header and [cell.strip() for cell in row] == layout.columns):
                continue
            bad = next((i for i in features if i >= len(row) or not _is_number(row[i])), None)
            if bad is not None:
                return _complaint(row, bad, layout, f"line {reader.line_num} of {path}")
    return f"{path} is not a table of numbers: give one sample per line, separated by commas."


def _complaint(row: list[str], i: int, layout: _Layout, where: str) -> str:
    """What is wrong with cell ``i`` of a row, and what to do about it."""
    cell, column = (row[i] if i < len(row) else row[-1]).strip(), f"Column '{layout.columns[i]}'"
    parts = re.split("[,;\t]", cell)
    if len(parts) > 1 and all(_is_number(part) for part in parts if part.strip()):
        return (
            f"Cell {cell!r} in {where} is not one number; cells are separated by {layout.delimiter!r} there: use the "
            "same separator in the whole file, and a point for decimals."
        )
    if i >= len(row):
        return f"There are {len(row)} of {len(layout.columns)} cells in {where}: complete it."
    if not cell:
        return f"{column} has an empty cell in {where}: fill it in, or remove the line or the column."
    return f"{column} is not numeric ({cell!r} in {where}): remove it, or call it 'label' or 'name' if it holds that."


def _check_finite(X: np.ndarray, columns: list[str], path: Path) -> None:
    bad = ~np.isfinite(X)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InvalidInputError(
            f"Column '{columns[column]}' of {path} has a missing or infinite value (sample {row}): fill or remove it."
        )


def load_parquet(path: Path, labels: str = "auto") -> Dataset:
    """Numeric columns, and columns of equally long lists, of a Parquet file as float64 vectors.

    Labels and names are recognised as in :func:`load_csv`.

    Raises
    ------
    InvalidInputError
        If pyarrow is not installed, the file is damaged, or another column is not numeric or has missing values.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise InvalidInputError(f"Reading {path} needs pyarrow: run pip install 'subspan[parquet]'.") from error
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInputError(f"{path} is not a readable Parquet file: save it again.") from error
    indices = (table.schema.pandas_metadata or {}).get("index_columns", [])  # of pandas: names, or ranges
    told = {*LABEL_KEYS, *NAME_KEYS}
    table = table.drop_columns([name for name in table.column_names if name in indices and name.lower() not in told])
    features, label, name = _roles(table.column_names, labels, str(path))
    parts = [_parquet_column(table, i, path) for i in features]
    X, columns = np.hstack(parts), _entry_names([table.column_names[i] for i in features], parts)
    _check_finite(X, columns, path)
    y, classes = (None, None)
    if label is not None:
        values = table.column(label).to_pylist()
        if None in values:  # a class of its own, as an empty cell is
            values = ["" if value is None else str(value) for value in values]
        y, classes = encode_labels(np.array(values), len(X), str(path))
    names = None if name is None else [str(value) for value in table.column(name).to_pylist()]
    return Dataset(name=path.stem, X=check_samples(X, str(path)), y=y, names=names, classes=classes, columns=columns)


def _entry_names(columns: list[str], parts: list[np.ndarray]) -> list[str]:
    """A name for each column of the parts (n, .): those of lists are numbered."""
    numbered = zip(columns, parts, strict=True)
    return [name if part.shape[1] == 1 else f"{name}[{j}]" for name, part in numbered for j in range(part.shape[1])]


def _parquet_column(table: Any, index: int, path: Path) -> np.ndarray:
    """One column as float64 of shape (n, 1), or (n, length of its lists)."""
    column = table.column(index).combine_chunks()
    kind = str(column.type)
    try:
        if column.null_count:
            raise ValueError("missing values")
        if kind.startswith(("list", "fixed_size_list", "large_list")):
            flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
            lengths = column.value_lengths().to_numpy(zero_copy_only=False)
            if len(set(lengths.tolist())) > 1:
                raise ValueError("lists of different lengths")
            return flat.reshape(len(column), -1)
        if not kind.startswith(("int", "uint", "float", "double", "half", "bool", "decimal")):
            raise ValueError(f"type {kind}")
        return column.to_numpy(zero_copy_only=False).astype(np.float64)[:, None]
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"Column '{table.column_names[index]}' of {path} cannot be used ({error}): give numbers without gaps, or "
            "call it 'label' or 'name' if that is what it holds."
        ) from error
