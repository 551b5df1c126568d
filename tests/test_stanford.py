"""Stanford Online Products, on a small tree of the official layout."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from subspan.cli import app
from subspan.datasets import list_datasets, load_dataset, stanford
from subspan.datasets.stanford import (
    CLASSES,
    KINDS,
    NAME,
    choose_paths,
    load_stanford_online_products,
    published_ids,
    read_ids,
)
from subspan.errors import DataNotFoundError, InvalidInputError

PER_KIND = 4


@pytest.fixture
def tree(tmp_path):
    """Four photos of each kind; all pixels of a photo have the level 20 * kind + photo."""
    root = tmp_path / NAME
    lines = {"info": [], "train": [], "test": []}
    for k, kind in enumerate(KINDS):
        (root / f"{kind}_final").mkdir(parents=True)
        for i in range(PER_KIND):
            path = f"{kind}_final/{1100 + i}_{i}.JPG"
            Image.new("RGB", (40 + i, 30), (20 * k + i,) * 3).save(root / path, format="JPEG", quality=100)
            line = f"{len(lines['info']) + 1} {k * PER_KIND + i + 1} {k + 1} {path}"
            lines["info"].append(line)
            lines["train" if i < 2 else "test"].append(line)
    for name, rows in lines.items():
        text = "\n".join(["image_id class_id super_class_id path", *rows])
        (root / f"Ebay_{name}.txt").write_text(text + "\n")
    return root


def test_images_are_gray_of_one_size_and_belong_to_their_labels(tree):
    data = load_stanford_online_products(tree, size=20)
    assert (data.X.shape, data.X.dtype) == ((20, 32, 32), np.uint8)
    assert data.y.tolist() == sorted(list(range(10)) * 2)
    assert data.classes == list(CLASSES)
    for image, name, label in zip(data.X, data.names, data.y, strict=True):
        kind, photo = name.split("/")
        assert kind == f"{data.classes[label]}_final"
        assert np.abs(image.astype(int) - (20 * label + int(photo[-5]))).max() <= 1
    assert load_stanford_online_products(tree, size=10, image_size=(8, 16), color="rgb").X.shape == (10, 8, 16, 3)


def test_the_choice_is_by_digest_and_fixed_for_ever():
    paths = [f"mug_final/{i}.JPG" for i in range(50)] + ["fan_final/1.JPG"]
    chosen, labels = choose_paths(paths[::-1], ["mug"], 3)
    by_hand = sorted(paths[:50], key=lambda p: hashlib.sha256(f"ncsc-2019:{p}".encode()).hexdigest())[:3]
    assert chosen == sorted(by_hand)
    assert labels.tolist() == [0, 0, 0]
    assert set(chosen) < set(choose_paths(paths, ["mug"], 9)[0]), "a larger choice holds the smaller"


def test_what_does_not_divide_goes_to_the_first_classes(tree):
    data = load_stanford_online_products(tree, classes=("sofa", "fan", "mug"), size=5)
    assert np.bincount(data.y).tolist() == [2, 2, 1]
    assert data.classes == ["sofa", "fan", "mug"]
    assert len(load_stanford_online_products(tree, size=None).X) == PER_KIND * 10
    assert len(load_stanford_online_products(tree, classes=KINDS, size=None).X) == PER_KIND * 12


def test_lists_of_the_parts_do_as_well_and_so_does_the_folder_of_the_archive(tree, tmp_path):
    whole = load_stanford_online_products(tree, size=30)
    (tree / "Ebay_info.txt").unlink()
    outer = tmp_path / "outer"
    outer.mkdir()
    tree.rename(outer / "Stanford_Online_Products")
    again = load_stanford_online_products(outer, size=30)
    assert again.names == whole.names
    assert np.array_equal(again.X, whole.X)


def test_mistakes_are_named(tree, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"cvgl\.stanford\.edu.*SUBSPAN_DATA"):
        load_stanford_online_products(tmp_path / "none")
    with pytest.raises(DataNotFoundError, match="download"):
        load_stanford_online_products(None)
    with pytest.raises(InvalidInputError, match="no class 'spoon'"):
        load_stanford_online_products(tree, classes=("mug", "spoon"))
    with pytest.raises(InvalidInputError, match="each once"):
        load_stanford_online_products(tree, classes=("mug", "mug"))
    with pytest.raises(InvalidInputError, match=r"4 images of 'bicycle' here and size=10056 asks for 1006"):
        load_stanford_online_products(tree)
    with pytest.raises(InvalidInputError, match="color"):
        load_stanford_online_products(tree, color="auto")
    (tree / "mug_final" / "1101_1.JPG").write_bytes(b"broken")
    with pytest.raises(InvalidInputError, match=r"mug_final/1101_1\.JPG cannot be read"):
        load_stanford_online_products(tree, size=None)
    (tree / "Ebay_info.txt").write_text("a b c\n1 2 3\n")
    with pytest.raises(InvalidInputError, match=r"Ebay_info\.txt is not the list"):
        load_stanford_online_products(tree)


# images of each class in the official lists of the training and the test part, in the order of KINDS
TRAIN = (4168, 5848, 5845, 4985, 2993, 5013, 6304, 6731, 3472, 4367, 5470, 4355)
TEST = (4145, 6220, 6226, 4713, 3003, 5101, 6226, 6895, 3959, 4019, 5638, 4357)


def test_published_ids_are_of_their_classes():
    """Ids run through the classes of the training part, then of the test part."""
    published = published_ids()
    assert list(published) == list(CLASSES)
    assert [len(images) for images in published.values()] == [1006] * 6 + [1005] * 4
    ends = np.cumsum(TRAIN + TEST)
    assert ends[-1] == 120_053
    for label, images in enumerate(published.values()):
        assert images == sorted(set(images))
        kinds = np.searchsorted(ends, images) % len(KINDS)  # ids begin at one
        assert (kinds == label).all()
        assert 0.3 < np.mean(np.array(images) > sum(TRAIN)) < 0.7, "both parts are drawn from"


def test_the_default_part_must_be_the_published_one(tree, monkeypatch):
    monkeypatch.setattr(stanford, "SIZE", 20)
    with pytest.raises(InvalidInputError, match=r"image 3 is the first of 10074 in only one of both"):
        load_stanford_online_products(tree, size=20)
    part = load_stanford_online_products(tree, classes=KINDS[:9], size=18)
    assert len(part.X) == 18, "other parts have no published list"
    listed = read_ids(tree)
    own = [listed[path] for path in choose_paths(list(listed), CLASSES, 20)[0]]
    monkeypatch.setattr(stanford, "published_ids", lambda: {"all": own})
    assert [listed[path] for path in load_stanford_online_products(tree, size=20).names] == own


def test_the_set_has_a_name(tree, monkeypatch):
    monkeypatch.setenv("SUBSPAN_DATA", str(tree.parent))
    monkeypatch.setattr("subspan.datasets.known.SOP_SIZE", 40)
    data = load_dataset(NAME, image_size=16)
    assert data.X.shape == (40, 16, 16)
    assert load_dataset(NAME, labels="none").y is None
    assert {row.name: row.available for row in list_datasets()}[NAME]
    monkeypatch.setenv("SUBSPAN_DATA", str(tree))
    assert not {row.name: row.available for row in list_datasets()}[NAME]
    with pytest.raises(DataNotFoundError, match="download"):
        load_dataset(NAME)


def test_a_part_has_a_name(tree, monkeypatch):
    monkeypatch.setenv("SUBSPAN_DATA", str(tree.parent))
    part = load_dataset(f"{NAME}:classes=sofa,mug:size=6")
    whole = load_stanford_online_products(tree, classes=("sofa", "mug"), size=6)
    assert part.names == whole.names
    assert part.classes == ["sofa", "mug"]
    assert len(load_dataset(f"{NAME}:size=all").X) == PER_KIND * 10
    for wrong in ("size=some", "kinds=mug", "classes=", "mug"):
        with pytest.raises(InvalidInputError, match="classes=mug,sofa:size=2000"):
            load_dataset(f"{NAME}:{wrong}")


def test_options_of_the_command_line_choose_a_part(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("SUBSPAN_DATA", str(tree.parent))
    fit = ["fit", NAME, "-k", "2", "--method", "kmeans", "--classes", "mug,sofa", "--size", "8", "-q"]
    done = CliRunner().invoke(app, [*fit, "-o", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n"] == 8
    rows = (tmp_path / "run" / "labels.csv").read_text().splitlines()
    assert {row.split("_final/")[0] for row in rows[1:]} == {"mug", "sofa"}
    again = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert again.exit_code == 0, again.output
    wrong = CliRunner().invoke(app, ["fit", "digits", "-k", "2", "--size", "8", "-o", str(tmp_path / "other")])
    assert wrong.exit_code == 2
    assert "leave them out for digits" in wrong.output


def test_the_archive_is_checked(tmp_path, monkeypatch):
    archive = tmp_path / "Stanford_Online_Products.zip"
    archive.write_bytes(b"half of it")
    with pytest.raises(InvalidInputError, match="damaged"):
        load_stanford_online_products(tmp_path)
    monkeypatch.setattr(stanford, "ARCHIVE_MD5", hashlib.md5(b"half of it").hexdigest())
    with pytest.raises(DataNotFoundError, match="not unpacked"):
        load_stanford_online_products(tmp_path)
