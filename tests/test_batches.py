"""Samples that come batch by batch."""

from __future__ import annotations

import errno
import gc
import tempfile

import numpy as np
import pytest
import torch

from subspan import KMeans, load
from subspan._batches import is_series, spool
from subspan._validation import check_samples
from subspan.errors import InvalidInputError, ResourceError


class Frame:
    """As data frames are: iterable, and convertible."""

    def __iter__(self):
        return iter(["a"])

    def __array__(self, dtype=None, copy=None):
        return np.ones((2, 1))


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int16])
@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 4, 5)])
def test_batches_become_one_array(dtype, shape):
    X = (100 * RNG.random((23, *shape))).astype(dtype)
    found = spool(X[a : a + 10] for a in range(0, 23, 10))
    assert isinstance(found, np.memmap)
    assert found.dtype == dtype
    assert np.array_equal(found, X)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_tensors_strided_rows_and_empty_batches_are_taken():
    X = RNG.random((12, 6)).astype(np.float32)
    parts = [torch.from_numpy(X[:4]), X[4:4], np.asfortranarray(X[4:8]), torch.from_numpy(X[8:].T.copy()).T]
    assert np.array_equal(spool(parts), X)
    half = torch.ones(2, 3, dtype=torch.bfloat16)
    assert spool([half]).dtype == np.float32


@pytest.mark.parametrize("wrap", [list, tuple])
def test_one_array_in_a_list_or_tuple_is_a_batch(wrap):
    X = torch.rand(10, 4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X), batch_size=3)
    for batches in (loader, (wrap([part.numpy()]) for part in X.split(3))):
        assert np.array_equal(check_samples(batches).batch(slice(0, 10)), X)


def test_a_data_loader_is_a_series_and_data_are_not():
    X = torch.rand(10, 4)
    loader = torch.utils.data.DataLoader(X, batch_size=3)
    assert is_series(loader)
    assert np.array_equal(check_samples(loader).batch(slice(0, 10)), X)
    assert is_series(iter([1]))
    for data in (X, X.numpy(), X.tolist(), tuple(X.tolist()), "text", {"a": 1}, {1, 2}, 3, None, Frame()):
        assert not is_series(data)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "X yields no samples"),
        ([np.ones((0, 3))], "X yields no samples"),
        ([np.ones((2, 3)), np.ones((2, 4))], r"batch 1 holds float64 samples of shape \(4,\), but the first one"),
        ([np.ones((2, 3)), np.ones((2, 3), np.float32)], "batch 1 holds float32 samples"),
        ([[1.0]], "batch 0 of X is a list"),
        ([[np.ones((2, 3)), np.ones(2)]], "batch 0 of X is a list: yield .* without labels"),
        ([(np.ones((2, 3)), np.ones(2))], "batch 0 of X is a tuple: yield .* without labels"),
        ([np.ones(3)], r"batch 0 of X is an array of shape \(3,\)"),
        ([np.array([["a"]])], "batch 0 of X is an array"),
        ([np.ma.masked_less(np.arange(6.0).reshape(2, 3), 2)], "batch 0 of X is a MaskedArray"),
    ],
)
def test_what_is_no_series_of_batches_is_named(batches, words):
    with pytest.raises(InvalidInputError, match=words):
        check_samples(iter(batches))


def test_values_are_checked_as_in_an_array():
    with pytest.raises(InvalidInputError, match="NaN in 1 of 4 rows"):
        check_samples(iter([np.ones((2, 3)), np.array([[1.0, np.nan, 1.0], [1, 1, 1]])]))


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(ResourceError, match=r"temporary file, which cannot be made .*absent.*: set TMPDIR"):
        spool([np.ones((2, 3))])


def test_a_full_disk_is_named(monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(ResourceError, match=r"do not fit into .*No space left on device.* set TMPDIR"):
        spool([np.ones((2, 3))])


def test_a_disk_that_is_full_at_the_last_bytes_is_named(monkeypatch):
    """A small batch would fit into a buffer, and closing the file would fail once more."""

    def full(*, prefix, buffering=-1):
        return open("/dev/full", "wb", buffering=buffering)

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        spool([np.ones((2, 3))])


def test_a_file_that_takes_a_few_bytes_at_a_time_gets_all(monkeypatch):
    class Slow:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            return self.file.write(data[:7])

    plain = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Slow(plain(**options)))
    X = RNG.random((5, 3))
    assert np.array_equal(spool([X[:2], X[2:]]), X)


def test_a_sparse_batch_is_named():
    with pytest.raises(TypeError, match="Sparse data was passed"):
        spool([torch.eye(3).to_sparse()])


def test_the_file_vanishes_with_the_array(monkeypatch, tmp_path):
    """Also by name: nothing is left in the folder, even while the array is in use."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = spool(iter([np.ones((3, 2))]))
    view = found[1:]
    del found
    gc.collect()
    assert view.sum() == 4
    assert list(tmp_path.iterdir()) == []


def test_estimators_fit_and_predict_batches(tmp_path):
    X = np.concatenate([RNG.normal(size=(40, 5)), RNG.normal(size=(40, 5)) + 9])
    whole = KMeans(2, random_state=0).fit(X)
    parts = KMeans(2, random_state=0).fit(X[a : a + 30] for a in range(0, 80, 30))
    assert np.array_equal(parts.labels_, whole.labels_)
    assert parts.n_features_in_ == 5
    assert np.array_equal(parts.predict(X[a : a + 7] for a in range(0, 80, 7)), whole.labels_)
    parts.save(tmp_path)
    assert np.array_equal(load(tmp_path).predict(iter([X])), whole.labels_)
