"""Loaders: what comes back is what was written, and whatever is damaged is named."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from subspan.datasets import known as known_module
from subspan.datasets import labels_from_names, list_datasets, load_dataset, read_label_file
from subspan.datasets.idx import read_idx, unordered_digest
from subspan.datasets.known import IDX_PARTS, IdxSpec, load_idx_set
from subspan.errors import DataNotFoundError, InvalidInputError, ResourceError


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def small_set(tmp_path: Path) -> tuple[IdxSpec, Path, np.ndarray, np.ndarray]:
    """Twelve images of 5 x 4 pixels as four IDX files (labels not compressed), and the spec that knows them."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (12, 5, 4), dtype=np.uint8), np.arange(12) % 3
    folder = tmp_path / "tiny"
    folder.mkdir()
    for (images, labels), part in zip(IDX_PARTS, (slice(0, 8), slice(8, 12)), strict=True):
        write_idx(folder / f"{images}.gz", X[part])
        write_idx(folder / labels, y[part])
    return IdxSpec("tiny", "Tiny", (5, 4), (4, 4, 4), unordered_digest(X)), folder, X, y


def test_digits_are_images_with_their_labels() -> None:
    data = load_dataset("digits")
    assert data.X.shape == (1797, 8, 8)
    assert data.X.dtype == np.uint8
    assert data.X.max() == 16
    assert np.bincount(data.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert load_dataset("digits", labels="none").y is None


def test_idx_set_joins_training_and_test_part(small_set) -> None:
    spec, folder, X, y = small_set
    data = load_idx_set(spec, folder)
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.y, y)


def test_digest_ignores_order_and_sees_one_changed_byte() -> None:
    X = np.random.default_rng(1).integers(0, 256, (50, 6, 6), dtype=np.uint8)
    assert unordered_digest(X[::-1]) == unordered_digest(X)
    changed = X.copy()
    changed[17, 3, 3] ^= 1
    assert unordered_digest(changed) != unordered_digest(X)
    assert unordered_digest(np.concatenate([X, X[:1]])) != unordered_digest(X)


def test_idx_set_with_one_changed_pixel_is_refused(small_set) -> None:
    spec, folder, X, _ = small_set
    X[3, 2, 2] ^= 1
    write_idx(folder / f"{IDX_PARTS[0][0]}.gz", X[:8])
    with pytest.raises(InvalidInputError, match="damaged, or another version"):
        load_idx_set(spec, folder)


def test_idx_set_with_wrong_labels_is_refused(small_set) -> None:
    spec, folder, _, _ = small_set
    write_idx(folder / IDX_PARTS[1][1], np.zeros(4))
    with pytest.raises(InvalidInputError, match="damaged, or another version"):
        load_idx_set(spec, folder)


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x0d\x01", b"\x00\x00\x08\x01\x00\x00\x00\x09abc", b"GIF89a"])
def test_broken_idx_file_is_named(tmp_path: Path, content: bytes) -> None:
    for path, stored in ((tmp_path / "file", content), (tmp_path / "file.gz", gzip.compress(content)[:-3])):
        path.write_bytes(stored)
        with pytest.raises(InvalidInputError, match=f"{path.name} is damaged"):
            read_idx(path)


def test_idx_set_names_the_missing_file(small_set) -> None:
    spec, folder, _, _ = small_set
    (folder / IDX_PARTS[1][1]).unlink()
    with pytest.raises(DataNotFoundError, match="t10k-labels-idx1-ubyte"):
        load_idx_set(spec, folder)


def test_idx_set_falls_back_to_openml_and_checks_it(small_set, tmp_path: Path) -> None:
    spec, _, X, y = small_set
    order = np.random.default_rng(2).permutation(12)
    asked = []

    def fetch(name: str):
        asked.append(name)
        return X[order].reshape(12, -1).astype(float), y[order].astype(str)

    data = load_idx_set(spec, tmp_path / "nowhere", fetch)
    assert asked == ["Tiny"]
    np.testing.assert_array_equal(data.X, X[order])
    np.testing.assert_array_equal(data.y, y[order])
    with pytest.raises(InvalidInputError, match="another version"):
        load_idx_set(spec, None, lambda name: (255.0 - X.reshape(12, -1), y))


def test_no_files_and_no_network_tells_both_ways(small_set) -> None:
    def fail(name: str):
        raise OSError("no route to host")

    with pytest.raises(DataNotFoundError, match=r"\$SUBSPAN_DATA/tiny, or run again with access to openml.org"):
        load_idx_set(small_set[0], None, fail)


def test_npz_in_the_data_folder_has_a_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SUBSPAN_DATA", str(tmp_path))
    X, y = np.arange(48).reshape(4, 3, 4), np.array([0, 1, 1, 2])
    np.savez_compressed(tmp_path / "shapes.npz", meta=np.arange(3), X=X, y=y)
    np.savez(tmp_path / "useless.npz", meta=np.arange(3))
    data = load_dataset("shapes")
    np.testing.assert_array_equal(data.X, X)
    np.testing.assert_array_equal(data.y, y)
    rows = {row.name: row for row in list_datasets()}
    assert rows["shapes"][1:5] == (4, (3, 4), 3, True)
    assert "useless" not in rows
    assert rows["mnist"].available is False
    assert rows["digits"].available is True


def test_mnist_is_looked_for_in_the_data_folder(tmp_path: Path, small_set, monkeypatch) -> None:
    spec, _, X, _ = small_set
    monkeypatch.setenv("SUBSPAN_DATA", str(tmp_path))
    monkeypatch.setitem(known_module.IDX_SETS, "tiny", spec)
    np.testing.assert_array_equal(load_dataset("tiny").X, X)
    assert {row.name: row.available for row in list_datasets()}["tiny"]


def test_unknown_source_names_the_nearest() -> None:
    with pytest.raises(DataNotFoundError, match=r"'mnits'.*known name \(mnist"):
        load_dataset("mnits")


def test_file_of_another_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.xlsx").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match=r"\.npy, \.npz, \.csv, \.parquet"):
        load_dataset(tmp_path / "data.xlsx")


# --- arrays ---


def test_npy_is_a_memory_map(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(20, 5))
    np.save(tmp_path / "x.npy", X)
    data = load_dataset(tmp_path / "x.npy")
    assert isinstance(data.X, np.memmap)
    assert not data.X.flags.writeable
    np.testing.assert_array_equal(data.X, X)
    assert data.y is None


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickles_are_never_read(tmp_path: Path, suffix: str) -> None:
    objects = np.array([[{"a": 1}, None], [None, None]], dtype=object)
    path = tmp_path / f"x.{suffix}"
    np.save(path, objects) if suffix == "npy" else np.savez(path, X=objects)
    with pytest.raises(InvalidInputError, match="of numbers: save it again"):
        load_dataset(path)


@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet"])
def test_damaged_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(b"\x93NUMPY not really, nor PK")
    with pytest.raises(InvalidInputError, match=rf"broken\.{suffix}"):
        load_dataset(path)


@pytest.mark.parametrize("X", [np.arange(5.0), np.zeros((0, 3)), np.zeros((2, 2), complex), np.full((2, 2), "a")])
def test_unusable_arrays_are_refused(tmp_path: Path, X: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InvalidInputError, match=r"x\.npy"):
        load_dataset(tmp_path / "x.npy")


def test_npz_without_usual_names_takes_the_first_matrix(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.arange(3), b=np.ones((3, 2)), Labels=np.array(["u", "v", "u"]))
    data = load_dataset(tmp_path / "x.npz")
    np.testing.assert_array_equal(data.X, np.ones((3, 2)))
    assert data.y.tolist() == [0, 1, 0]
    assert data.classes == ["u", "v"]
    assert load_dataset(tmp_path / "x.npz", labels="a").y.tolist() == [0, 1, 2]
    with pytest.raises(InvalidInputError, match="no labels 'c'"):
        load_dataset(tmp_path / "x.npz", labels="c")


def test_labels_of_an_npz_are_never_its_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", y=np.ones((5, 1), int), feats=np.zeros((5, 7)))
    for labels in ("auto", "none"):
        assert load_dataset(tmp_path / "x.npz", labels=labels).X.shape == (5, 7)


def test_npz_with_too_few_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=np.ones((3, 2)), y=np.arange(2))
    with pytest.raises(InvalidInputError, match="one label per sample"):
        load_dataset(tmp_path / "x.npz")


# --- tables ---


def csv(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_large_numbers_keep_their_digits(tmp_path: Path, suffix: str) -> None:
    """Seconds since 1970, which float32 rounds to two minutes."""
    times, path = [1_700_000_000.25, 1_700_000_060.5, 1_700_000_120.0], tmp_path / f"t.{suffix}"
    if suffix == "csv":
        csv(tmp_path, "time,x\n" + "".join(f"{time},1\n" for time in times))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"time": times, "x": [1, 1, 1]}), path)
    assert load_dataset(path).X[:, 0].tolist() == times


def test_empty_lines_before_a_table_do_not_matter(tmp_path: Path) -> None:
    for head in ("a,b\n", ""):
        data = load_dataset(csv(tmp_path, f"\n  \n{head}1,2\n\n3,4\n"))
        assert data.X.tolist() == [[1, 2], [3, 4]]


def test_csv_with_header_labels_and_names(tmp_path: Path) -> None:
    data = load_dataset(csv(tmp_path, 'name,a,Label,b\nu,1.5,cat,2\n"v,w",3,dog,4e1\nx,5,cat,6\n'))
    np.testing.assert_array_equal(data.X, np.float32([[1.5, 2], [3, 40], [5, 6]]))
    assert data.y.tolist() == [0, 1, 0]
    assert data.classes == ["cat", "dog"]
    assert data.names == ["u", "v,w", "x"]
    assert data.columns == ["a", "b"]


def test_csv_labels_never_become_features(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,y\n1,7\n2,8\n")
    assert load_dataset(path).y.tolist() == [7, 8]
    without = load_dataset(path, labels="none")
    assert without.y is None
    assert without.columns == ["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),  # no header
        ("a;b\n1;2\n", [[1, 2]]),
        ("1\t2\n3\t4\n", [[1, 2], [3, 4]]),
        ("0,1,2\n5,6,7\n", [[5, 6, 7]]),  # column numbers
        ("2019,2020,2021,2022\n5,6,7,9\n1,7,8,0\n", [[5, 6, 7, 9], [1, 7, 8, 0]]),  # years
        ("400.5,400.75,401,401.25\n5,6,7,9\n", [[5, 6, 7, 9]]),
        ("5,6,7,8\n1,2,3,4\n", [[5, 6, 7, 8], [1, 2, 3, 4]]),  # samples that count
        ("5,6,7,9\n1,2,3,4\n", [[5, 6, 7, 9], [1, 2, 3, 4]]),
        ("4,5,6\n1,2,9\n", [[4, 5, 6], [1, 2, 9]]),
        ("sample_id,400,401\n7,1,2\n8,3,4\n", [[7, 1, 2], [8, 3, 4]]),
        (",0,1\n0,5,6\n1,7,8\n", [[5, 6], [7, 8]]),  # an index column as pandas writes it
        ("\ufeffa,b\n1,2\n\n3,4\n", [[1, 2], [3, 4]]),  # byte order mark, empty line
        ("\ufeff1,2\n3,4\n", [[1, 2], [3, 4]]),
    ],
)
def test_csv_layouts(tmp_path: Path, text: str, expected: list) -> None:
    np.testing.assert_array_equal(load_dataset(csv(tmp_path, text)).X, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,kind\n1,red\n2,blue\n", r"Column 'kind' is not numeric \('red' in line 2 of .*\): remove it"),
        ("a,kind\n1,red; blue\n", r"Column 'kind' is not numeric \('red; blue' in line 2"),
        ("sample_id,400,401\ns1,1,2\n", "Column 'sample_id' is not numeric .'s1' in line 2"),
        ("NA,1,2\n3,4,5\n", "Column '0' is not numeric .'NA' in line 1"),
        ("a,b\n1,2\n3,\n", "Column 'b' has an empty cell in line 3 of .*: fill it in"),
        ("1, ,2\n3,4,5\n", "Column '1' has an empty cell in line 1 of"),
        (
            "1,5;2,5;3,5\n",
            "Cell '5;2' in line 1 of .* not one number; cells are separated by ',' .* point for decimals",
        ),
        ("a;b\n1,5;2\n", "Cell '1,5' in line 2 of .*; cells are separated by ';'"),
        ("a,b\n1;2\n", "Cell '1;2' in line 2 of .* use the same separator"),
        ("a,b\n1,2\n3,nan\n", "Column 'b' .* missing or infinite"),
        ("a,b\n1,2\n3\n", "There are 1 of 2 cells in line 3 of"),
        ("", "is empty"),
        ("a,b\n", "is empty"),
        ("label,name\n1,2\n", "no feature columns"),
    ],
)
def test_csv_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_dataset(csv(tmp_path, text))


def test_csv_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(InvalidInputError, match="UTF-8"):
        load_dataset(path)


def test_parquet_columns_and_embedding_lists(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"v": [[1.0, 2.0], [3.0, 4.0]], "a": [5, 6], "target": ["p", "q"], "file": ["f", "g"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    data = load_dataset(tmp_path / "t.parquet")
    np.testing.assert_array_equal(data.X, [[1, 2, 5], [3, 4, 6]])
    assert data.y.tolist() == [0, 1]
    assert data.names == ["f", "g"]


@pytest.mark.parametrize(("index", "names", "labels"), [("name", ["f", "g"], False), ("label", None, True)])
def test_an_index_of_pandas_that_is_called_so_holds_names_or_labels(tmp_path: Path, index, names, labels) -> None:
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 5.0]}, index=pandas.Index(["f", "g"], name=index))
    frame.to_parquet(tmp_path / "t.parquet")
    data = load_dataset(tmp_path / "t.parquet")
    np.testing.assert_array_equal(data.X, [[1, 3], [2, 5]])
    assert data.names == names
    assert (data.classes == ["f", "g"]) == labels


def test_entries_of_parquet_lists_have_names_and_the_index_of_pandas_is_no_feature(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"v": [[1.0, 2.0], [3.0, 4.0]], "a": [5, 6], "y": ["p", None], "__index_level_0__": [7, 900]})
    meta = {"index_columns": ["__index_level_0__"], "columns": [], "pandas_version": "2.2.0"}
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(meta)}), tmp_path / "t.parquet")
    data = load_dataset(tmp_path / "t.parquet")
    assert data.columns == ["v[0]", "v[1]", "a"]
    np.testing.assert_array_equal(data.X, [[1, 2, 5], [3, 4, 6]])
    assert data.y.tolist() == [1, 0], "no label is a class of its own, as an empty cell is"
    assert data.classes == ["", "p"]


def test_no_column_of_names_is_a_feature(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",file,a,name\n0,7,1.5,u\n1,8,2.5,v\n")
    data = load_dataset(tmp_path / "t.csv")
    assert data.columns == ["a"]
    assert data.names == ["7", "8"], "a named column before the index"


def test_a_run_in_the_folder_of_its_images_is_no_part_of_them(tmp_path: Path) -> None:
    for name in ("a.png", "run/figures/clusters.png", "run/model/x.png", "config/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "config" / "config.json").write_text("{}")  # of something else
    assert load_dataset(tmp_path).names == ["a.png", "config/b.png"]


def test_folders_behind_links_are_read_but_not_for_ever(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "a", elsewhere / "deep"):
        folder.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "x.png")
    (root / "b").symlink_to(elsewhere)
    (elsewhere / "deep" / "up").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to(root)
    assert load_dataset(root).names == ["a/x.png", "b/deep/x.png"]


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")
def test_a_name_that_is_not_utf_8_is_left_out(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "b.png")
    data = load_dataset(tmp_path)
    assert data.names == ["b.png"]
    assert data.skipped[0].reason == "its name is not UTF-8: rename it"


def test_a_dark_image_of_16_bits_is_dark(tmp_path: Path) -> None:
    for name, value in (("a", 200), ("b", 60_000)):
        pixels = np.full((8, 8), value, ">u2").tobytes()
        (tmp_path / f"{name}.pgm").write_bytes(b"P5 8 8 65535\n" + pixels)
    assert load_dataset(tmp_path).X[:, 0, 0].tolist() == [1, 233]


@pytest.mark.parametrize(
    ("column", "message"),
    [([1, None], "missing values"), (["x", "y"], "type string"), ([[1.0], [1.0, 2.0]], "different lengths")],
)
def test_parquet_says_what_is_wrong(tmp_path: Path, column: list, message: str) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"bad": column}), tmp_path / "t.parquet")
    with pytest.raises(InvalidInputError, match=rf"Column 'bad' .*{message}"):
        load_dataset(tmp_path / "t.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"subspan\[parquet\]"):
        load_dataset(tmp_path / "t.parquet")


# --- folders of images ---


def image(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def ramp(h: int = 6, w: int = 4) -> np.ndarray:
    return np.arange(h * w, dtype=np.uint8).reshape(h, w) * 5


def test_folder_keeps_pixels_names_and_labels(tmp_path: Path) -> None:
    for i, name in enumerate(["dog/b.png", "cat/deep/a.png", "cat/c.bmp"]):
        image(tmp_path / name, ramp() + i)
    image(tmp_path / ".hidden" / "d.png", ramp())
    data = load_dataset(tmp_path)
    assert data.names == ["cat/c.bmp", "cat/deep/a.png", "dog/b.png"]
    np.testing.assert_array_equal(data.X, np.stack([ramp() + 2, ramp() + 1, ramp()]))
    assert data.y.tolist() == [0, 0, 1]
    assert data.classes == ["cat", "dog"]
    assert load_dataset(tmp_path, labels="none").y is None


def test_official_layout_of_online_products(tmp_path: Path) -> None:
    for name in ("bicycle_final/1_0.JPG", "chair_final/2_0.JPG"):
        path = tmp_path / name
        path.parent.mkdir()
        Image.fromarray(ramp(40, 40)).save(path, format="JPEG")
    for text in ("Ebay_info.txt", "Ebay_train.txt"):
        (tmp_path / text).write_text("image_id class_id super_class_id path\n")
    data = load_dataset(tmp_path, image_size=32, color="gray")
    assert data.X.shape == (2, 32, 32)
    assert data.classes == ["bicycle_final", "chair_final"]
    assert [(item.path, item.reason) for item in data.skipped] == [
        ("Ebay_info.txt", "not an image"),
        ("Ebay_train.txt", "not an image"),
    ]


def test_unreadable_images_are_skipped_and_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        image(tmp_path / f"{name}.png", rng.integers(0, 256, (40, 40), dtype=np.uint8))
    good = np.asarray(Image.open(tmp_path / "c.png"))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:600])  # header intact, pixels cut off
    (tmp_path / "z.png").write_bytes(b"no image at all")
    data = load_dataset(tmp_path)
    assert data.names == ["a.png", "c.png"]
    np.testing.assert_array_equal(data.X[1], good)
    assert [item.path for item in data.skipped] == ["b.png", "z.png"]


def test_folder_of_one_size_keeps_it_and_mixed_sizes_become_32(tmp_path: Path) -> None:
    image(tmp_path / "a.png", ramp(6, 4))
    assert load_dataset(tmp_path).X.shape == (1, 6, 4)
    image(tmp_path / "b.png", ramp(4, 6))
    assert load_dataset(tmp_path).X.shape == (2, 32, 32)
    assert load_dataset(tmp_path, image_size=10).X.shape == (2, 10, 10)
    assert load_dataset(tmp_path, image_size=(5, 7)).X.shape == (2, 5, 7)


def test_resizing_keeps_what_the_image_shows(tmp_path: Path) -> None:
    halves = np.zeros((64, 64), np.uint8)
    halves[:, 32:] = 200
    image(tmp_path / "a.png", halves)
    small = load_dataset(tmp_path, image_size=8).X[0]
    assert (small[:, :3] == 0).all()
    assert (small[:, 5:] == 200).all()


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn by 90 degrees clockwise to see it upright
    picture = np.zeros((16, 32), np.uint8)
    picture[:, :16] = 255
    image(tmp_path / "a.jpg", picture, exif=exif, quality=95)
    X = load_dataset(tmp_path).X
    assert X.shape == (1, 32, 16)
    assert X[0, :12].min() > 200
    assert X[0, 20:].max() < 50


def test_colour_is_decided_by_the_pixels(tmp_path: Path) -> None:
    gray = np.repeat(ramp()[..., None], 3, axis=-1)
    image(tmp_path / "a.png", gray)
    np.testing.assert_array_equal(load_dataset(tmp_path).X[0], ramp())  # stored as RGB, but gray
    assert load_dataset(tmp_path, color="rgb").X.shape == (1, 6, 4, 3)
    coloured = gray.copy()
    coloured[0, 0] = [255, 0, 0]
    image(tmp_path / "b.png", coloured)
    image(tmp_path / "c.png", ramp())
    X = load_dataset(tmp_path).X
    np.testing.assert_array_equal(X, np.stack([gray, coloured, gray]))
    assert load_dataset(tmp_path, color="gray").X.shape == (3, 6, 4)


def test_transparency_becomes_white_and_16_bits_become_8(tmp_path: Path) -> None:
    see_through = np.zeros((4, 4, 4), np.uint8)
    see_through[:2, :, 3] = 255
    image(tmp_path / "a.png", see_through)
    deep = np.full((4, 4), 65535, np.uint16)
    deep[0] = 257 * 7
    image(tmp_path / "b.png", deep)
    X = load_dataset(tmp_path, color="gray").X
    assert X[0, :2].max() == 0
    assert X[0, 2:].min() == 255
    assert X[1, 0].tolist() == [7] * 4
    assert X[1, 1:].min() == 255


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InvalidInputError, match="No readable image"):
        load_dataset(tmp_path)
    image(tmp_path / "b.png", np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:600])
    with pytest.raises(InvalidInputError, match="damaged"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("options", [{"image_size": 0}, {"image_size": (3, 3, 3)}, {"color": "blue"}, {"labels": "x"}])
def test_wrong_options_of_a_folder(tmp_path: Path, options: dict) -> None:
    image(tmp_path / "a.png", ramp())
    with pytest.raises(InvalidInputError, match=f"{next(iter(options))} is"):
        load_dataset(tmp_path, **options)


def test_images_larger_than_memory_are_refused_before_they_are_read(tmp_path: Path) -> None:
    image(tmp_path / "a.png", ramp())
    with pytest.raises(ResourceError, match="smaller image_size"):
        load_dataset(tmp_path, image_size=10_000_000)


# --- label files ---


def test_labels_from_names() -> None:
    y, classes = labels_from_names(["b/1", "a/2", "b/x/3"])
    assert y.tolist() == [1, 0, 1]
    assert classes == ["a", "b"]
    assert labels_from_names(["a/1", "2"]) == (None, None)
    assert labels_from_names(["a/1", "a/2"]) == (None, None)


def test_label_files(tmp_path: Path) -> None:
    assert read_label_file(csv(tmp_path, "3\n1\n3\n", "a.csv")).y.tolist() == [3, 1, 3]
    named = read_label_file(csv(tmp_path, "name,label\nq,red\np,blue\n", "b.csv"))
    assert named.y.tolist() == [1, 0]
    assert named.names == ["q", "p"]
    for text in ("name;label\nq;red\np;blue\n", ",label\nq,red\np,blue\n", "\nlabel\tfile\nred\tq\nblue\tp\n"):
        other = read_label_file(csv(tmp_path, text, "b.csv"))
        assert (other.y.tolist(), other.names) == (named.y.tolist(), named.names)
    np.save(tmp_path / "c.npy", np.array([2, 0]))
    assert read_label_file(tmp_path / "c.npy").y.tolist() == [2, 0]
    np.savez(tmp_path / "d.npz", X=np.ones((2, 2)), y=np.array([1, 0]))
    assert read_label_file(tmp_path / "d.npz").y.tolist() == [1, 0]


def test_label_files_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="There is no file"):
        read_label_file(tmp_path / "none.csv")
    with pytest.raises(InvalidInputError, match="none called 'label'"):
        read_label_file(csv(tmp_path, "1,2\n3,4\n"))
    with pytest.raises(InvalidInputError, match="none called 'label'"):
        read_label_file(csv(tmp_path, "s0;a\ns1;b\n"))
    with pytest.raises(InvalidInputError, match="holds no labels"):
        read_label_file(csv(tmp_path, ""))
    (tmp_path / "x.npy").write_bytes(b"junk")
    with pytest.raises(InvalidInputError, match="damaged"):
        read_label_file(tmp_path / "x.npy")
