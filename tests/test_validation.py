from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from subspan._scaling import Scaling
from subspan._validation import check_n_clusters, check_same_features, check_samples, fit_scaling, iter_slices
from subspan.datasets import Dataset
from subspan.errors import InvalidInputError

RNG = np.random.default_rng(0)
DTYPES = ["bool", "uint8", "int16", "uint16", "int64", "float16", "float32", "float64", ">f4"]


def images(n=7, c=3, h=6, w=5, dtype="float32"):
    return (RNG.random((n, c, h, w)) * 200).astype(dtype)


def scaled(X, **options):
    samples = check_samples(X, **options)
    return samples.with_scaling(fit_scaling(samples))


class ArrayLike:
    """What a data frame looks like to NumPy."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array.astype(dtype) if dtype else self.array


# --- layouts -----------------------------------------------------------------------------------------------------


def test_all_layouts_of_the_same_images_give_the_same_batches():
    nchw = images()
    first = scaled(nchw)
    last = scaled(np.ascontiguousarray(nchw.transpose(0, 2, 3, 1)))
    assert (first.layout, last.layout) == ("nchw", "nhwc")
    assert first.shape == last.shape == (3, 6, 5)
    assert torch.equal(first.batch(slice(0, 7)), last.batch(slice(0, 7)))
    assert last.batch(slice(0, 2)).is_contiguous()


def test_gray_images_get_one_channel():
    gray = images(c=1)
    samples = scaled(gray[:, 0])
    assert samples.layout == "nhw"
    assert samples.shape == (1, 6, 5)
    assert torch.equal(samples.batch(slice(0, 7)), scaled(gray).batch(slice(0, 7)))


@pytest.mark.parametrize(
    ("shape", "axis", "inside"),
    [
        ((2, 3, 8, 9), "auto", (3, 8, 9)),
        ((2, 8, 9, 3), "auto", (3, 8, 9)),
        ((2, 4, 5, 4), "auto", (4, 4, 5)),  # a tie: the last axis
        ((2, 9, 8, 3), 1, (9, 8, 3)),
        ((2, 3, 8, 9), -1, (9, 3, 8)),
        ((2, 6), "auto", (6,)),
    ],
)
def test_sample_shape_inside(shape, axis, inside):
    samples = check_samples(np.zeros(shape), channel_axis=axis)
    assert samples.shape == inside
    assert samples.batch(slice(0, 2)).shape == (2, *inside)
    assert samples.kind == ("vector" if len(shape) == 2 else "image")
    assert len(samples) == samples.n == 2


@pytest.mark.parametrize("axis", [0, 3, True, "last", None])
def test_unknown_channel_axis(axis):
    with pytest.raises(InvalidInputError, match="use 'auto', 1 or -1"):
        check_samples(np.zeros((2, 3, 3, 3)), channel_axis=axis)


# --- containers and types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9, 4), (9, 3, 4), (9, 4, 3, 2)])
def test_batch_is_the_affine_map_of_the_data(dtype, shape):
    X = (RNG.random(shape) * 100).astype(dtype)
    samples = scaled(X)
    wide = X.astype(np.float64)
    if len(shape) == 2:
        shift = wide.mean(0)
        scale = np.sqrt(((wide - shift) ** 2).mean()) or 1.0
    elif np.dtype(dtype).kind in "ui":  # from black on
        shift, scale = 0.0, float(X.max())
    else:
        shift, scale = wide.min(), np.ptp(wide) or 1.0
    expected = (wide - shift) / scale
    expected = np.moveaxis(expected, -1, 1) if len(shape) == 4 else expected.reshape(9, *samples.shape)
    batch = samples.batch(slice(0, 9))
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch.numpy(), expected, atol=2e-6)


def test_containers_agree():
    X = RNG.random((8, 3)).astype(np.float32)
    expected = check_samples(X).batch(slice(2, 6))
    for same in (
        X.tolist(),
        ArrayLike(X),
        torch.from_numpy(X).requires_grad_(),
        np.asfortranarray(X),
        X[::-1][::-1],
    ):
        assert torch.equal(check_samples(same).batch(slice(2, 6)), expected)
    stack = [list(image) for image in images(c=1)[:, 0]]
    assert check_samples(stack).shape == (1, 6, 5)
    assert check_samples(torch.ones(2, 3).bfloat16()).batch(slice(0, 2)).sum() == 6


@pytest.mark.parametrize("index", [[5, 0, 3, 3, 1], [], [6]])
def test_index_arrays_slices_and_tensors_agree(index, tmp_path):
    X = images()
    np.save(tmp_path / "x.npy", X)
    mapped = check_samples(np.load(tmp_path / "x.npy", mmap_mode="r"))
    expected = torch.from_numpy(X[np.array(index, dtype=np.int64)])
    for samples in (check_samples(X), mapped):
        assert torch.equal(samples.batch(np.array(index, dtype=np.int64)), expected)
        assert torch.equal(samples.batch(torch.tensor(index, dtype=torch.long)), expected)
    assert torch.equal(mapped.batch(slice(2, 5)), torch.from_numpy(X[2:5]))


def test_batches_and_views_cannot_change_the_callers_data():
    X = images()
    before = X.copy()
    samples = check_samples(X)
    samples.batch(slice(0, 7)).zero_()
    np.testing.assert_array_equal(X, before)
    assert X.flags.writeable  # only our view is read-only
    with pytest.raises(ValueError, match="read-only"):
        samples._data[0] = 0
    frozen = X.copy()
    frozen.flags.writeable = False
    assert torch.equal(check_samples(frozen).batch(slice(0, 7)), torch.from_numpy(before))


def test_arrays_and_tensors_are_not_copied():
    X = images()
    for same in (X, torch.from_numpy(X), X.reshape(7, -1)):
        assert np.shares_memory(check_samples(same)._data, X)


@pytest.mark.parametrize("shape", [(100_000, 100), (6_400, 25, 25, 2)])
def test_memory_map_is_streamed(tmp_path, shape):
    X = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=shape)
    X[:] = 1
    X[::2] = 0
    total = X.nbytes
    del X
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    tracemalloc.start()
    try:
        samples = check_samples(mapped)
        samples = samples.with_scaling(fit_scaling(samples))
        batch = samples.batch(torch.tensor([9, 2, 5_000]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total >= 32e6
    assert peak < total / 4, f"peak {peak} of {total} bytes"
    assert batch[0, 0].max() > batch[1, 0].max()


# --- scaling -----------------------------------------------------------------------------------------------------


def test_vector_scaling_keeps_angles_and_ignores_offset():
    X = RNG.normal(size=(5_000, 60)) * np.logspace(-2, 1, 60)  # several chunks
    batch = scaled(X + 1e8).batch(slice(0, 5_000)).double().numpy()
    centred = X - X.mean(0)
    np.testing.assert_allclose(batch, centred / np.sqrt((centred**2).mean()), atol=1e-6)


def test_float32_offset_loses_no_digits():
    X = (1e6 + np.arange(40).reshape(20, 2) ** 2 % 7 / 16).astype(np.float32)  # exact in float32, its mean is not
    wide = X.astype(np.float64)
    expected = (wide - wide.mean(0)) / np.sqrt(((wide - wide.mean(0)) ** 2).mean())
    np.testing.assert_allclose(scaled(X).batch(slice(0, 20)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32])
def test_black_is_zero_in_images_of_whole_numbers_whatever_their_type(dtype):
    X = np.random.default_rng(0).integers(50, 250, (6, 9, 9))
    expected = scaled(X.astype(np.uint8)).batch(slice(0, 6))
    torch.testing.assert_close(scaled(X.astype(dtype)).batch(slice(0, 6)), expected)
    assert float(scaled(X - 100).batch(slice(0, 6)).min()) == 0.0  # below zero: the smallest entry


@pytest.mark.parametrize("shape", [(50_000, 7), (4_000, 10, 10)])
def test_constant_data_has_scale_one(shape):
    # 0.1 is no binary fraction: a rounded mean would leave a spread of 1e-17 and blow it up
    samples = check_samples(np.full(shape, 0.1))
    assert fit_scaling(samples).scale == 1.0
    assert not samples.with_scaling(fit_scaling(samples)).batch(slice(0, 3)).any()


def test_overflow_is_named():
    with pytest.raises(InvalidInputError, match="divide X by a constant"):
        fit_scaling(check_samples(np.array([[1e300, 0.0], [-1e300, 1.0]])))


@pytest.mark.parametrize("X", [RNG.random((6, 3)), images(), images(dtype="uint8")])
def test_scaling_survives_tensors_bit_by_bit(X):
    samples = check_samples(X)
    scaling = fit_scaling(samples)
    tensors = scaling.to_tensors()
    dtypes = {"shift": torch.float64, "scale": torch.float64, "whole": torch.bool}
    assert {name: t.dtype for name, t in tensors.items()} == dtypes
    again = Scaling.from_tensors({name: t.clone() for name, t in tensors.items()})
    everything = slice(0, len(samples))
    assert torch.equal(samples.with_scaling(again).batch(everything), samples.with_scaling(scaling).batch(everything))
    assert (again.scale, again.whole) == (scaling.scale, scaling.whole)
    assert again.shift.shape == scaling.shift.shape


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(400, 3), (400, 30, 30), (400, 5, 40, 40)])
def test_non_finite_rows_are_counted(shape):
    X = np.zeros(shape, dtype=np.float32)
    X[7].flat[0] = np.nan
    X[399].flat[-1] = np.nan
    X[399].flat[0] = np.nan
    with pytest.raises(InvalidInputError, match=r"contains NaN in 2 of 400 rows"):
        check_samples(X)
    X[300].flat[1] = -np.inf
    with pytest.raises(InvalidInputError, match=r"NaN in 2 and infinity in 1 of 400 rows"):
        check_samples(X)


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        (np.zeros(4), ValueError, "Reshape your data"),
        (scipy.sparse.csr_matrix(np.eye(3)), TypeError, "[Ss]parse"),
        (scipy.sparse.csr_array(np.eye(3)), TypeError, "[Ss]parse"),
        (torch.eye(3).to_sparse(), TypeError, "to_dense"),
        (np.zeros((3, 2), dtype=complex), ValueError, "Complex data not supported"),
        (np.zeros((3, 9, 9), dtype=complex), InvalidInputError, "Complex data not supported"),
        (np.zeros((0, 3)), ValueError, r"Found array with 0 sample\(s\)"),
        (np.zeros((0, 9, 9)), InvalidInputError, r"Found array with 0 sample\(s\)"),
        (np.zeros((3, 0)), ValueError, r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1 is required"),
        (np.zeros((3, 9, 0)), InvalidInputError, r"0 pixel\(s\)"),
        (np.zeros((2, 2, 2, 2, 2)), InvalidInputError, "5 axes: reshape"),
        (np.array([[1, {"a": 1}]], dtype=object), TypeError, "argument must be .* string.* number"),
        (np.array([["a", "b"]]), ValueError, "numeric"),
        (np.full((2, 8, 8), "a", dtype=object), InvalidInputError, "not numbers"),
        (np.zeros((2, 8, 8), dtype="M8[s]"), InvalidInputError, "datetime64"),
        ([[1, 2], [3]], InvalidInputError, "ragged"),
        (
            [np.ones((4, 3)), np.ones((2, 3))],
            InvalidInputError,
            r"ragged.* a list is read as samples.* give iter\(list\)",
        ),
        (np.ma.masked_equal(np.eye(3), 0), InvalidInputError, "masked"),
    ],
)
def test_bad_input_is_named(X, error, words):
    with pytest.raises(error, match=words):
        check_samples(X)


@pytest.mark.parametrize("bad", [0, -1, 2.0, True, np.True_, "3", None])
def test_n_clusters_must_be_a_positive_integer(bad):
    with pytest.raises(InvalidInputError, match="integer of at least 1"):
        check_n_clusters(bad, 10)


def test_n_clusters_against_n_samples():
    assert check_n_clusters(np.int64(10), 10) == 10
    assert type(check_n_clusters(np.int64(1), 1)) is int
    with pytest.raises(InvalidInputError, match=r"n_clusters=3 must be at most .* n_samples=1:"):
        check_n_clusters(3, 1)


def test_new_samples_must_look_like_those_of_fit():
    vectors, pictures = check_samples(np.zeros((2, 4))), check_samples(np.zeros((2, 3, 8, 9)))
    check_same_features(vectors, (4,), "NCSC")
    check_same_features(pictures, (3, 8, 9), "NCSC")
    with pytest.raises(ValueError, match=r"^X has 4 features, but NCSC is expecting 5 features as input\.$"):
        check_same_features(vectors, (5,), "NCSC")
    with pytest.raises(InvalidInputError, match=r"images of 8 x 9 pixels with 3 channel\(s\), but NCSC was fitted on"):
        check_same_features(pictures, (3, 9, 8), "NCSC")
    with pytest.raises(InvalidInputError, match="vectors of 4 features, but NCSC was fitted on images"):
        check_same_features(vectors, (3, 9, 8), "NCSC")


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 3), (9, 3), (10, 3), (2, 100)])
def test_iter_slices_covers_once(n, size):
    parts = list(iter_slices(n, size))
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    assert all(0 < part.stop - part.start <= size for part in parts)


@pytest.mark.parametrize(
    ("X", "words"),
    [
        ("photos", "the path 'photos': give subspan.load_dataset"),
        (Path("photos"), "the path 'photos'"),
        (["a.png", "b.png"], "a list of names"),
        (Dataset(name="d", X=np.eye(3)), "a Dataset: give its attribute X"),
        ([torch.ones(2, requires_grad=True)] * 2, "ragged list"),
    ],
)
def test_what_holds_no_numbers_is_named(X, words):
    with pytest.raises(InvalidInputError, match=words):
        check_samples(X)


def test_an_archive_of_arrays_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.eye(3), b=np.ones(3))
    with pytest.raises(InvalidInputError, match=r"one of its arrays \['a', 'b'\]"):
        check_samples(np.load(tmp_path / "x.npz"))


def test_vectors_too_small_to_be_squared_are_named_and_constant_ones_are_not():
    X = np.random.default_rng(0).normal(size=(9, 4))
    with pytest.raises(InvalidInputError, match="too small to be squared in float64: multiply X"):
        fit_scaling(check_samples(X * 1e-200))
    small = fit_scaling(check_samples(X * 1e-130))
    assert small.scale == pytest.approx(1e-130 * fit_scaling(check_samples(X)).scale)
    assert fit_scaling(check_samples(np.full((9, 4), 1e-300))).scale == 1.0
