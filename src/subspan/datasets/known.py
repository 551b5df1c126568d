"""The sets that subspan knows by name: digits, MNIST, Fashion-MNIST, Stanford Online Products, and every ``NAME.npz``
in ``$SUBSPAN_DATA``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np

from subspan.datasets._types import Dataset, DatasetInfo, check_samples
from subspan.datasets.arrays import load_npz, npz_summary
from subspan.datasets.idx import read_idx, unordered_digest
from subspan.datasets.stanford import CLASSES as SOP_CLASSES
from subspan.datasets.stanford import IMAGE_SIDE as SOP_SIDE
from subspan.datasets.stanford import NAME as SOP_NAME
from subspan.datasets.stanford import SIZE as SOP_SIZE
from subspan.datasets.stanford import find_root, load_stanford_online_products, parse_part
from subspan.errors import DataNotFoundError, InvalidInputError

Fetcher = Callable[[str], tuple[np.ndarray, np.ndarray]]

IDX_PARTS = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


@dataclass(frozen=True)
class IdxSpec:
    """A set kept as four IDX files; training and test part are joined.

    ``digest`` is :func:`~subspan.datasets.idx.unordered_digest` of all images, so that any mirror and any order of the
    same images passes; ``class_sizes`` are the numbers of samples with label 0, 1, ...
    """

    name: str
    openml_name: str
    image_shape: tuple[int, int]
    class_sizes: tuple[int, ...]
    digest: str

    @property
    def n(self) -> int:
        return sum(self.class_sizes)


MNIST = IdxSpec(
    name="mnist",
    openml_name="mnist_784",
    image_shape=(28, 28),
    class_sizes=(6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958),
    digest="724ccaabe9f5c4830e12f5bccb4c5faf7dbbb4ee49f33ee08e5dc5b7ffa560f6",
)
FASHION_MNIST = IdxSpec(
    name="fashion-mnist",
    openml_name="Fashion-MNIST",
    image_shape=(28, 28),
    class_sizes=(7000,) * 10,
    digest="9cb49d69e193579213f830b240c0744afb2b9f7972cd52679eebce55fa2035c2",
)
IDX_SETS = {spec.name: spec for spec in (MNIST, FASHION_MNIST)}


def data_dir() -> Path | None:
    """The folder that the environment variable ``SUBSPAN_DATA`` names, or None."""
    value = os.environ.get("SUBSPAN_DATA")
    return Path(value).expanduser() if value else None


def load_digits() -> Dataset:
    """The 1,797 handwritten digits that ship with scikit-learn, as uint8 images (1797, 8, 8) with values 0 to 16."""
    from sklearn.datasets import load_digits as load

    bunch = load()
    return Dataset(name="digits", X=bunch.images.astype(np.uint8), y=bunch.target.astype(np.int64))


def load_idx_set(spec: IdxSpec, folder: Path | None, fetch: Fetcher | None = None) -> Dataset:
    """All samples of a set of IDX files in ``folder``, else from OpenML.

    Parameters
    ----------
    spec : IdxSpec
        Which set, and how to recognise it.
    folder : Path or None
        Folder with the four files, each raw or ``.gz``. If none of them is there, ``fetch`` is called.
    fetch : callable, optional
        ``fetch(openml_name) -> (X, y)``; scikit-learn's downloader by default.

    Returns
    -------
    Dataset with uint8 X of shape (n, h, w), training part first

    Raises
    ------
    DataNotFoundError
        If the files are missing and the download fails.
    InvalidInputError
        If the content is not that of the published set.
    """
    files = None if folder is None else _idx_files(spec, folder)
    if files is None:
        X, y = _fetch(spec, fetch or fetch_openml)
        origin = f"The download of {spec.openml_name} from OpenML"
    else:
        X = np.concatenate([read_idx(images) for images, _ in files])
        y = np.concatenate([read_idx(labels) for _, labels in files]).astype(np.int64)
        origin = str(folder)
    sizes = tuple(np.bincount(y.ravel(), minlength=len(spec.class_sizes)).tolist())
    if X.shape[1:] != spec.image_shape or sizes != spec.class_sizes or unordered_digest(X) != spec.digest:
        raise InvalidInputError(
            f"{origin} does not hold {spec.name} as published (damaged, or another version): get the files again, or "
            "load your version as an .npz file under another name."
        )
    return Dataset(name=spec.name, X=X, y=y)


def _idx_files(spec: IdxSpec, folder: Path) -> list[tuple[Path, Path]] | None:
    """Paths of the (images, labels) pairs; None if no file is there at all."""
    found: dict[str, Path] = {}
    wanted = [stem for pair in IDX_PARTS for stem in pair]
    for stem in wanted:
        for path in (folder / f"{stem}.gz", folder / stem):
            if path.is_file():
                found.setdefault(stem, path)
    if not found:
        return None
    missing = [stem for stem in wanted if stem not in found]
    if missing:
        raise DataNotFoundError(f"{folder} lacks {', '.join(missing)} (.gz): add the missing files of {spec.name}.")
    return [(found[images], found[labels]) for images, labels in IDX_PARTS]


def _fetch(spec: IdxSpec, fetch: Fetcher) -> tuple[np.ndarray, np.ndarray]:
    try:
        X, y = fetch(spec.openml_name)
    except (OSError, ValueError, HTTPException) as error:
        raise DataNotFoundError(
            f"{spec.name} is not on this machine and could not be downloaded ({error}): put its four IDX files into "
            f"$SUBSPAN_DATA/{spec.name}, or run again with access to openml.org."
        ) from error
    X = np.asarray(X)
    if X.ndim != 2 or X.shape[1] != int(np.prod(spec.image_shape)):
        raise InvalidInputError(f"OpenML's {spec.openml_name} has shape {X.shape}: use the IDX files of {spec.name}.")
    return X.astype(np.uint8).reshape(-1, *spec.image_shape), np.asarray(y).astype(np.int64)


def fetch_openml(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Download a set with scikit-learn, which checks and caches it; works without pandas, slower."""
    from importlib.util import find_spec

    from sklearn.datasets import fetch_openml as fetch

    parser = "pandas" if find_spec("pandas") else "liac-arff"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A network error occurred", category=UserWarning)
        return fetch(name, version=1, return_X_y=True, as_frame=False, parser=parser, n_retries=1, delay=0.1)


def load_known(name: str, *, image_size: int | tuple[int, int] | None = None, color: str = "auto") -> Dataset | None:
    """The set with that name, or None if there is none; size and colour are for sets of photos ("auto" is gray).

    A part of Stanford Online Products has a name too: :func:`subspan.datasets.stanford.parse_part`.
    """
    root = data_dir()
    if name == "digits":
        return load_digits()
    if name in IDX_SETS:
        return load_idx_set(IDX_SETS[name], None if root is None else root / name)
    base, _, part = name.partition(":")
    if base == SOP_NAME:
        return load_stanford_online_products(
            None if root is None else root / base,
            image_size=image_size or SOP_SIDE,
            color="gray" if color == "auto" else color,
            **({"size": SOP_SIZE} | parse_part(part)),
        )
    if root is not None and name in {path.stem for path in _archives(root)}:
        return load_npz(root / f"{name}.npz")
    return None


def known_names() -> list[str]:
    """Names that :func:`load_known` answers to now."""
    root = data_dir()
    return ["digits", *IDX_SETS, SOP_NAME, *([] if root is None else [path.stem for path in _archives(root)])]


def list_datasets() -> list[DatasetInfo]:
    """Every known set, whether it is on this machine, and where it comes from.

    Returns
    -------
    list of DatasetInfo
        ``digits`` first, then the sets of IDX files, Stanford Online Products, and each ``.npz`` file in
        ``$SUBSPAN_DATA``.
    """
    root = data_dir()
    rows = [DatasetInfo("digits", 1797, (8, 8), 10, True, "ships with scikit-learn")]
    for spec in IDX_SETS.values():
        here = root is not None and _complete(spec, root / spec.name)
        origin = f"$SUBSPAN_DATA/{spec.name}" if here else f"$SUBSPAN_DATA/{spec.name}, else OpenML {spec.openml_name}"
        rows.append(DatasetInfo(spec.name, spec.n, spec.image_shape, len(spec.class_sizes), here, origin))
    here = root is not None and find_root(root / SOP_NAME) is not None
    origin = f"$SUBSPAN_DATA/{SOP_NAME}" if here else f"$SUBSPAN_DATA/{SOP_NAME}, see docs/bench.md"
    rows.append(DatasetInfo(SOP_NAME, SOP_SIZE, (SOP_SIDE, SOP_SIDE), len(SOP_CLASSES), here, origin))
    for path in [] if root is None else _archives(root):
        try:
            shape, classes = npz_summary(path)
            check_samples(np.empty((1, *shape[1:]), np.uint8), str(path))
        except InvalidInputError:
            continue
        rows.append(DatasetInfo(path.stem, shape[0], shape[1:], classes, True, f"$SUBSPAN_DATA/{path.name}"))
    return rows


def _complete(spec: IdxSpec, folder: Path) -> bool:
    try:
        return _idx_files(spec, folder) is not None
    except DataNotFoundError:
        return False


def _archives(root: Path) -> list[Path]:
    return sorted(root.glob("*.npz")) if root.is_dir() else []
