"""Stanford Online Products (Song, Xiang, Jegelka, Savarese; CVPR 2016): product photos of twelve kinds, from eBay.

The NCSC paper clusters 10,056 of the 120,053 images, of ten kinds, as 32 x 32 gray, and does not say which. Our choice
is fixed here, without looking at any result: the first ten kinds in alphabetical order, the same number of images of
each (one more of the first ones where it does not divide), and of a kind those whose path has the smallest SHA-256
together with :data:`SEED`. The digest, unlike a random generator, is the same in every version of every library.
The ids of these images are in ``stanford_online_products.txt`` beside this file, and what is loaded is compared with
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from subspan.datasets._types import Dataset
from subspan.datasets.folder import decode_files
from subspan.errors import DataNotFoundError, InvalidInputError

NAME = "stanford-online-products"
KINDS = (
    "bicycle",
    "cabinet",
    "chair",
    "coffee_maker",
    "fan",
    "kettle",
    "lamp",
    "mug",
    "sofa",
    "stapler",
    "table",
    "toaster",
)
CLASSES = KINDS[:10]
SIZE = 10_056
SEED = "ncsc-2019"
IMAGE_SIDE = 32

_HEAD = ["image_id", "class_id", "super_class_id", "path"]
_UNPACKED = "Stanford_Online_Products"  # the folder inside the archive
ARCHIVE, ARCHIVE_MD5 = f"{_UNPACKED}.zip", "7f73d41a2f44250d4779881525aea32e"  # as many loaders of the set have it
HOW_TO_GET = (
    f"download {ARCHIVE} (2.9 GB, MD5 {ARCHIVE_MD5}) from https://cvgl.stanford.edu/projects/lifted_struct/ and unpack "
    f"it into $SUBSPAN_DATA/{NAME}"
)


def load_stanford_online_products(
    folder: Path | None,
    *,
    classes: Sequence[str] = CLASSES,
    size: int | None = SIZE,
    image_size: int | tuple[int, int] = IMAGE_SIDE,
    color: str = "gray",
) -> Dataset:
    """A fixed part of Stanford Online Products, in the order of classes and, within one, of paths.

    Parameters
    ----------
    folder : Path or None
        Where the archive was unpacked: ``<class>_final/*.JPG``, ``Ebay_info.txt`` (or ``Ebay_train.txt`` and
        ``Ebay_test.txt``), or a folder ``Stanford_Online_Products`` with them.
    classes : sequence of str
        Of :data:`KINDS`; ``y[i]`` is an index into it.
    size : int or None
        Number of images over all classes; None for all images.
    image_size : int or (height, width)
        Size to resize to, without keeping the aspect ratio.
    color : {"gray", "rgb"}

    Returns
    -------
    Dataset with uint8 X of shape (n, h, w) or (n, h, w, 3)

    Raises
    ------
    DataNotFoundError
        The files are not there, or the archive is and was not unpacked.
    InvalidInputError
        The archive or a list is damaged, a class unknown, there are fewer images of a class than asked for, or the
        default part is not the published one.
    """
    if unknown := [name for name in classes if name not in KINDS]:
        raise InvalidInputError(f"There is no class '{unknown[0]}' in {NAME}: choose from {', '.join(KINDS)}.")
    if not classes or len(set(classes)) != len(classes):
        raise InvalidInputError(f"classes is {list(classes)}: give at least one, and each once.")
    if color not in ("gray", "rgb"):
        raise InvalidInputError(f"color is {color!r}: choose 'gray' or 'rgb'.")
    root = find_root(folder)
    if root is None:
        if folder is not None and (folder / ARCHIVE).is_file():
            check_archive(folder / ARCHIVE)
            raise DataNotFoundError(f"{folder / ARCHIVE} is whole but not unpacked: unzip it there.")
        raise DataNotFoundError(f"{NAME} is not on this machine: {HOW_TO_GET}.")
    listed = read_ids(root)
    paths, labels = choose_paths(list(listed), classes, size)
    if (tuple(classes), size) == (CLASSES, SIZE):
        check_published(listed, paths)
    X, kept, skipped = decode_files(root, paths, image_size, rgb=color == "rgb")
    if skipped:
        raise InvalidInputError(
            f"{skipped[0].path} cannot be read ({skipped[0].reason}), nor can {len(skipped) - 1} more images of "
            f"{NAME}: unpack the archive again."
        )
    return Dataset(name=NAME, X=X, y=labels, names=kept, classes=list(classes))


def parse_part(text: str) -> dict[str, Any]:
    """Keywords of :func:`load_stanford_online_products` from text like ``classes=mug,sofa:size=2000``.

    ``size=all`` is None, and "" are the defaults.

    Raises
    ------
    InvalidInputError
        The text says something else.
    """
    part: dict[str, Any] = {}
    for piece in text.split(":") if text else []:
        name, _, value = piece.partition("=")
        if name == "classes" and value:
            part["classes"] = tuple(value.split(","))
        elif name == "size" and (value == "all" or value.isdecimal()):
            part["size"] = None if value == "all" else int(value)
        else:
            raise InvalidInputError(
                f"'{piece}' is no part of {NAME}: write {NAME}:classes=mug,sofa:size=2000, either or both."
            )
    return part


def name_part(**part: str | None) -> str:
    """Name of a part, from the texts that :func:`parse_part` reads; None for a default."""
    return ":".join([NAME, *(f"{name}={value}" for name, value in part.items() if value is not None)])


def check_archive(path: Path) -> None:
    """Compare the MD5 of the archive with that of the published one.

    Raises
    ------
    InvalidInputError
        They differ.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    if digest != ARCHIVE_MD5:
        raise InvalidInputError(f"{path} is damaged (MD5 {digest}, not {ARCHIVE_MD5}): download it again.")


def find_root(folder: Path | None) -> Path | None:
    """The folder that holds the lists of images, or None."""
    for root in [] if folder is None else [folder, folder / _UNPACKED]:
        if (root / "Ebay_info.txt").is_file() or all((root / f"Ebay_{p}.txt").is_file() for p in ("train", "test")):
            return root
    return None


def read_ids(root: Path) -> dict[str, int]:
    """Image id of every path, training and test part, from the lists.

    Raises
    ------
    InvalidInputError
        A list has another form.
    """
    names = ["Ebay_info.txt"] if (root / "Ebay_info.txt").is_file() else ["Ebay_train.txt", "Ebay_test.txt"]
    ids: dict[str, int] = {}
    for name in names:
        rows = [line.split() for line in (root / name).read_text(encoding="utf-8").splitlines() if line.strip()]
        if not rows or rows[0] != _HEAD or any(len(row) != len(_HEAD) or not row[0].isdecimal() for row in rows[1:]):
            raise InvalidInputError(f"{root / name} is not the list of {NAME}: unpack the archive again.")
        ids |= {row[-1]: int(row[0]) for row in rows[1:]}
    return ids


def published_ids() -> dict[str, list[int]]:
    """Ids of the images of the default part by class, ascending, as this project publishes them."""
    text = (files("subspan.datasets") / "stanford_online_products.txt").read_text(encoding="utf-8")
    rows = [line.split(": ") for line in text.splitlines() if not line.startswith("#")]
    return {name: [int(image) for image in images.split()] for name, images in rows}


def check_published(ids: Mapping[str, int], chosen: Sequence[str]) -> None:
    """Compare the ids of the chosen paths with the published ones.

    Raises
    ------
    InvalidInputError
        They differ: the lists are not those of the official archive, and figures on them could not be compared.
    """
    published = {image for images in published_ids().values() for image in images}
    if strange := sorted({ids[path] for path in chosen} ^ published):
        raise InvalidInputError(
            f"The lists of {NAME} here lead to other images than the published {len(published)} (image {strange[0]} is "
            f"the first of {len(strange)} in only one of both): they are not those of the official archive, unpack it "
            "again."
        )


def choose_paths(paths: Sequence[str], classes: Sequence[str], size: int | None) -> tuple[list[str], np.ndarray]:
    """The images of a part of the set, and their labels of shape (n,).

    Raises
    ------
    InvalidInputError
        There are fewer images of a class than asked for.
    """
    chosen: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = sorted(path for path in paths if path.split("/")[0] == f"{name}_final")
        if size is not None:
            count = size // len(classes) + (label < size % len(classes))
            if not 1 <= count <= len(own):
                raise InvalidInputError(
                    f"{NAME} has {len(own)} images of '{name}' here and size={size} asks for {count}: give a size from "
                    f"{len(classes)} to {len(classes)} times the smallest class, or None for all."
                )
            own = sorted(sorted(own, key=_digest)[:count])
        chosen += own
        labels += [label] * len(own)
    return chosen, np.array(labels, dtype=np.int64)


def _digest(path: str) -> str:
    return hashlib.sha256(f"{SEED}:{path}".encode()).hexdigest()
