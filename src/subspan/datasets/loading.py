"""One entrance to all loaders."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from subspan.datasets._types import Dataset
from subspan.datasets.arrays import load_npy, load_npz
from subspan.datasets.folder import load_folder
from subspan.datasets.known import known_names, load_known
from subspan.datasets.tables import load_csv, load_parquet
from subspan.errors import DataNotFoundError, InvalidInputError

_FILES: dict[str, Callable[[Path, str], Dataset]] = {
    ".npy": lambda path, labels: load_npy(path),
    ".npz": load_npz,
    ".csv": load_csv,
    ".parquet": load_parquet,
}


def load_dataset(
    source: str | Path,
    *,
    labels: str = "auto",
    image_size: int | tuple[int, int] | None = None,
    color: str = "auto",
) -> Dataset:
    """Load samples, and the true labels if the source has any.

    Parameters
    ----------
    source : str or Path
        Name of a known set (see :func:`~subspan.datasets.list_datasets`), a folder of images, or a .npy, .npz, .csv or
        .parquet file. A known name comes first: write ``./mnist`` for a folder of that name. Of
        "stanford-online-products" a part can be named: "stanford-online-products:classes=mug,sofa:size=2000".
    labels : str
        ``"auto"``: labels where they are recognised. ``"none"``: no labels. Else the column (.csv, .parquet) or array
        (.npz) that holds them.
    image_size : int, (height, width) or None
        For a folder of images: size to resize to. None: their own size if all are equal, else 32 x 32. Also for
        "stanford-online-products" (None: 32 x 32).
    color : {"auto", "gray", "rgb"}
        For a folder of images: ``"auto"`` is rgb if any of them is coloured. For "stanford-online-products" it is gray.

    Returns
    -------
    Dataset

    Raises
    ------
    DataNotFoundError
        If there is no such set, folder or file.
    InvalidInputError
        If it cannot be read as samples.

    Examples
    --------
    >>> data = load_dataset("digits")
    >>> data.X.shape, data.y.shape
    ((1797, 8, 8), (1797,))
    """
    known = load_known(str(source), image_size=image_size, color=color)
    if known is not None:
        return known if labels != "none" else Dataset(name=known.name, X=known.X, names=known.names)
    path = Path(source).expanduser()
    if path.is_dir():
        return load_folder(path, labels=labels, image_size=image_size, color=color)
    if not path.exists():
        raise DataNotFoundError(_not_found(str(source)))
    read = _FILES.get(path.suffix.lower())
    if read is None:
        raise InvalidInputError(
            f"{path} cannot be read as a data set: give a folder of images or a file ending in {', '.join(_FILES)}."
        )
    return read(path, labels)


def _not_found(source: str) -> str:
    names = known_names()
    near = difflib.get_close_matches(source, names, n=2, cutoff=0.5) or names
    return (
        f"There is no data set, folder or file '{source}': give a path that exists or a known name ({', '.join(near)})."
    )
