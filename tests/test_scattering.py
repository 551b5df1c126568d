from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError

from reference import scattering as slow
from subspan import principal
from subspan._random import generator
from subspan.errors import InvalidInputError
from subspan.multiscale import make_scattering
from subspan.pretraining import restore_encoder
from subspan.scattering import (
    Scattering2D,
    ScatteringEncoder,
    scattering_scale,
)

# (h, w), J, L: one and two interleaved halves on either axis, odd sides, all padding cases, few and many scales
CASES = [
    ((8, 8), 1, 8),
    ((8, 8), 3, 3),
    ((9, 14), 2, 4),
    ((12, 25), 2, 3),
    ((25, 12), 2, 3),
    ((16, 16), 3, 2),
    ((19, 23), 1, 4),
    ((33, 32), 4, 1),
]


def images(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed))


def blobs(n, c=1, side=12, seed=0):
    """Smooth images with structure: sums of three waves."""
    x = torch.linspace(0, 2 * math.pi, side)
    k = images(n, c, 3, 2, seed=seed) * 4
    return (k[..., 0, None, None] * x[:, None] + k[..., 1, None, None] * x).sin().sum(2)


# --- the transform -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "J", "L"), CASES)
def test_equals_slow_reference(shape, J, L):
    x = images(3, *shape)
    x[1] = (x[1] > 0.9).float()
    transform = Scattering2D(shape, J, L)
    bank = slow.filters(*transform.sides, J, L)
    want = np.stack([slow.scattering(image, J, L, bank) for image in x.numpy()])
    np.testing.assert_allclose(transform(x).numpy(), want, atol=1e-5)
    np.testing.assert_allclose(transform(x).numpy(), want, rtol=1e-3, atol=1e-6)  # the small second order as well


@pytest.mark.parametrize(("shape", "J", "L"), [case for case in CASES if case[1] > 1])
def test_the_finer_scale_is_read_from_the_maps_of_the_coarser(shape, J, L):
    """Order by order the average at scale J - 1 of the slow maps of scale J, where scale J - 1 alone would be read."""
    x = images(3, *shape)
    transform = Scattering2D(shape, J, L, finer=True)
    fine, coarse = transform.scales(x)
    torch.testing.assert_close(coarse, Scattering2D(shape, J, L)(x), rtol=0, atol=1e-6)
    assert fine.shape == Scattering2D(shape, J - 1, L)(x).shape
    bank = slow.filters(*transform.sides, J, L)
    want = np.stack([slow.finer_scattering(image, J, L, bank) for image in x.numpy()])
    np.testing.assert_allclose(fine.numpy(), want, rtol=1e-3, atol=1e-5)


def test_the_finer_scale_is_that_of_scale_J_less_one_alone_but_for_the_edge():
    """Further from the edge than its wavelets reach; padded wider, it repeats less of the far side."""
    x = torch.zeros(4, 64, 64)
    x[:, 24:40, 24:40] = images(4, 16, 16)
    fine = Scattering2D((64, 64), 3, 4, finer=True).scales(x)[0]
    torch.testing.assert_close(fine, Scattering2D((64, 64), 2, 4)(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("side", [8, 11, 12, 23, 24, 37, 48])
def test_sizes_follow_from_the_side(side):
    J = scattering_scale(side, side + 7)
    assert 2**J <= side / 3 < 2 ** (J + 1) or J == 1
    transform = Scattering2D((side, side + 7), L=4)
    out = transform(images(2, 3, side, side + 7))
    channels = 1 + J * 4 + sum(16 for j1 in range(J) for _ in range(j1 + 1, J))
    assert transform.n_channels == channels
    assert out.shape == (2, 3, channels, side // 2**J, (side + 7) // 2**J)
    assert out.dtype == torch.float32
    assert 3 <= out.shape[-2] <= 5


def test_digits_have_217_channels_of_3_by_3():
    assert scattering_scale(28, 28) == 3
    assert Scattering2D((28, 28)).out_shape == (217, 3, 3)


def test_an_image_alone_equals_the_image_in_a_batch():
    # more images than one piece (64) and one chunk (256) hold, none of them a whole number of pieces
    transform, x = Scattering2D((8, 9), 1, 2), images(293, 8, 9)
    whole = transform(x)
    for i in (0, 63, 64, 255, 256, 292):
        torch.testing.assert_close(whole[i], transform(x[i]), rtol=0, atol=1e-6)


def test_constant_images_have_order_zero_only():
    out = Scattering2D((16, 17), 2, 4)(torch.full((1, 16, 17), 0.7))
    torch.testing.assert_close(out[:, 0], torch.full_like(out[:, 0], 0.7), rtol=1e-4, atol=0)
    assert out[:, 1:].abs().max() < 1e-5


@pytest.mark.parametrize(("j", "t"), [(0, 1), (0, 3), (1, 0), (1, 2), (1, 3)])
def test_a_wave_answers_in_the_channel_of_its_scale_and_angle(j, t):
    L, side = 4, 32
    angle, frequency = (L - L // 2 - 1 - t) * math.pi / L, 3 * math.pi / 4 / 2**j
    u = torch.arange(float(side))
    x = (frequency * (math.cos(angle) * u[:, None] + math.sin(angle) * u)).cos()
    first = Scattering2D((side, side), 2, L)(x)[1 : 1 + 2 * L].mean((1, 2))
    assert first.argmax() == j * L + t
    assert first[j * L + t] > 1.3 * first[t + L * (1 - j)]  # against the other scale


def test_linear_in_contrast():
    transform, x = Scattering2D((12, 12), 2, 4), images(2, 12, 12)
    torch.testing.assert_close(transform(3 * x), 3 * transform(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(transform(-x)[:, 1:], transform(x)[:, 1:], rtol=1e-5, atol=1e-6)


def test_small_shifts_move_codes_far_less_than_pixels():
    x = torch.zeros(8, 32, 32)
    x[:, 10:22, 10:22] = (images(8, 12, 12) > 0.5).float()
    shifted = x.roll(1, 2)
    transform = Scattering2D((32, 32), 3)

    def change(a, b):
        return ((a - b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1)).max()

    assert change(x, shifted) > 0.8
    assert change(transform(x), transform(shifted)) < 0.2
    # stability grows with the scale (Mallat 2012, Sec. 2.4)
    errors = [change(Scattering2D((32, 32), J)(x), Scattering2D((32, 32), J)(shifted)) for J in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)


def test_energy_is_bounded_and_falls_with_the_order():
    """The transform does not expand distances (Mallat 2012, Sec. 2.2); orders hold less and less energy."""
    transform = Scattering2D((32, 32), 2)
    x, y = images(6, 32, 32), images(6, 32, 32, seed=1)
    padded = torch.nn.functional.pad((x - y)[:, None], (4, 4, 4, 4), mode="reflect")
    out, other = transform(x), transform(y)
    # a coefficient stands for 4 x 4 pixels; the frame bound of the Morlet wavelets is a little above 1
    assert (16 * (out - other).square().flatten(1).sum(1) <= 1.1 * padded.square().flatten(1).sum(1)).all()
    orders = [part.square().sum((1, 2, 3)) for part in (out[:, :1], out[:, 1:17], out[:, 17:])]
    assert (orders[0] > orders[1]).all()
    assert (orders[1] > orders[2]).all()


@pytest.mark.parametrize(("shape", "J", "L"), [((8, 8), 4, 8), ((8, 8), 0, 8), ((8, 8), 2, 0), ((40, 7), 3, 2)])
def test_scales_that_do_not_fit_are_refused(shape, J, L):
    with pytest.raises(InvalidInputError, match="scales"):
        Scattering2D(shape, J, L)


def test_no_image_gives_no_coefficients():
    assert Scattering2D((8, 9), 1, 2)(images(0, 8, 9)).shape == (0, 3, 4, 4)


def test_other_sizes_are_refused():
    with pytest.raises(InvalidInputError, match="pixels"):
        Scattering2D((8, 9), 1, 2)(images(2, 9, 8))


# --- the encoder ---------------------------------------------------------------------------------------------------


def contrasted(encoder, x):
    """Raw coefficients over the root mean square of their channel, then over the contrast of their place and a tenth.

    Returns float64 (n, channels, places) and the root mean squares.
    """
    maps = encoder.coefficients(x).double().view(len(x), len(encoder.channel_norm), -1).numpy()
    rms = np.sqrt(np.square(maps).mean((0, 2)))
    maps = maps / rms[:, None]
    if not encoder.contrast:
        return maps, rms
    edges = np.arange(len(rms)) % encoder.scattering.n_channels > 0
    return maps / (np.abs(maps[:, edges]).mean(1, keepdims=True) + 0.1), rms


def normalised(encoder, x):
    """Contrasted coefficients over the root mean square norm of their channel's map: float64 (n, d)."""
    maps = contrasted(encoder, x)[0]
    return (maps / np.sqrt(np.square(maps).sum(2).mean(0))[:, None]).reshape(len(x), -1)


@pytest.fixture(params=["factor", "matrix"])
def route(request, monkeypatch):
    """Both exact ways to the components: few rows as they are, and a full covariance."""
    if request.param == "matrix":
        monkeypatch.setattr(principal, "MAX_ROWS", 0)
    return request.param


@pytest.mark.parametrize("contrast", [True, False])
@pytest.mark.parametrize(("n", "c", "k"), [(90, 1, 20), (40, 2, 8), (300, 1, 30)])
def test_components_are_those_of_scikit_learn(n, c, k, contrast, route):
    x = blobs(n, c)
    encoder = ScatteringEncoder((c, 12, 12), k, J=2, L=2, contrast=contrast).fit([x])
    rows = normalised(encoder, x)
    pca = PCA(k, svd_solver="full").fit(rows)
    np.testing.assert_allclose(encoder.channel_norm, contrasted(encoder, x)[1], rtol=1e-6)
    np.testing.assert_allclose(encoder.explained_variance, pca.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(encoder.total_variance, rows.var(0, ddof=1).sum(), rtol=1e-6)
    want = pca.transform(rows)
    np.testing.assert_allclose(encoder.encode(x), want, atol=1e-4 * np.abs(want).max())
    assert encoder.encode(x).dtype == torch.float32


def test_channels_count_alike():
    """Of orders one and two, however small, all have the same share in the contrast."""
    x = blobs(80)
    encoder = ScatteringEncoder((1, 12, 12), 10, J=2, L=4).fit([x])
    raw = encoder.coefficients(x)
    assert encoder.channel_norm.max() > 10 * encoder.channel_norm.min()
    scaled = raw.unflatten(1, (len(encoder.channel_norm), -1)) / encoder.channel_norm[:, None]
    torch.testing.assert_close(scaled.square().mean((0, 2)), torch.ones(len(encoder.channel_norm)))
    np.testing.assert_allclose(encoder.normalise(raw), contrasted(encoder, x)[0].reshape(80, -1), rtol=1e-4, atol=1e-6)


def test_faint_images_are_brought_to_the_contrast_of_others_and_blank_ones_are_not():
    x = blobs(60)
    encoder = ScatteringEncoder((1, 12, 12), 10, J=2, L=4).fit([x])

    def edges(images):  # of orders one and two
        return encoder.normalise(encoder.coefficients(images)).unflatten(1, (len(encoder.channel_norm), -1))[:, 1:]

    raw = [encoder.coefficients(image).norm() for image in (x, 0.5 * x)]
    assert raw[1] < 0.51 * raw[0]
    assert edges(0.5 * x).norm() > 0.85 * edges(x).norm()
    assert edges(torch.full((1, 1, 12, 12), 0.7)).abs().max() < 0.01


def test_a_place_is_normalised_over_all_colours():
    x = blobs(60, 2)
    x[:, 1] *= 0.2 * (torch.arange(60) % 2)[:, None, None]
    encoder = ScatteringEncoder((2, 12, 12), 10, J=2, L=2).fit([x])
    np.testing.assert_allclose(
        encoder.normalise(encoder.coefficients(x)), contrasted(encoder, x)[0].reshape(60, -1), rtol=1e-4, atol=1e-6
    )


def test_batches_do_not_matter(route, monkeypatch):
    monkeypatch.setattr(principal, "BLOCK", 37)
    x = blobs(150)
    whole = ScatteringEncoder((1, 12, 12), 12, J=2, L=2).fit([x])
    for sizes in ([1] * 150, [50, 99, 1], [7, 143]):
        stream = ScatteringEncoder((1, 12, 12), 12, J=2, L=2).fit(iter(x.split(sizes)))
        assert stream.n_seen == 150
        torch.testing.assert_close(stream.encode(x), whole.encode(x), rtol=0, atol=1e-4)
        torch.testing.assert_close(stream.channel_norm, whole.channel_norm, rtol=1e-6, atol=0)


def test_codes_come_with_the_fit():
    x = blobs(50)
    encoder = ScatteringEncoder((1, 12, 12), 6, J=2, L=2)
    codes = encoder.fit_encode(x.split(20))
    assert torch.equal(ScatteringEncoder((1, 12, 12), 6, J=2, L=2).fit(x.split(20)).projection, encoder.projection)
    torch.testing.assert_close(codes, encoder.encode(x), rtol=0, atol=1e-5)


def test_sketch_of_long_rows_finds_the_same_space(monkeypatch):
    monkeypatch.setattr(principal, "BLOCK", 40)
    monkeypatch.setattr(principal, "MAX_EXACT", 50)
    monkeypatch.setattr(principal, "MAX_ROWS", 60)
    x = blobs(400)
    encoder = ScatteringEncoder((1, 12, 12), 5, J=2, L=2).fit([x])
    exact = PCA(5).fit(normalised(encoder, x))
    pca = principal.StreamingPCA(exact.n_features_in_, len(encoder.channel_norm), 5)
    for part in x.split(25):
        pca.add(encoder.normalise(encoder.coefficients(part)).numpy())
    pca.flush()
    assert len(pca.factor) <= 60
    assert pca.matrix is None
    values, vectors = pca.components(5)
    np.testing.assert_allclose(values, exact.explained_variance_, rtol=0.02)
    cosines = np.linalg.svd(vectors.T @ exact.components_.T)[1]
    assert cosines.min() > 0.999


def test_signs_are_fixed_and_components_without_spread_are_zero():
    x = blobs(6)
    encoder = ScatteringEncoder((1, 12, 12), 20, J=2, L=2).fit([x])
    directions = encoder.projection / encoder.projection.norm(dim=0).clamp(min=1e-12)
    assert (encoder.encode(x)[:, 5:] == 0).all()  # six points span five dimensions
    assert (encoder.encode(x)[:, :5].abs().amax(0) > 1e-3).all()
    norm = np.sqrt(np.square(contrasted(encoder, x)[0]).sum(2).mean(0))
    scaled = directions[:, :5] * torch.from_numpy(norm).float().repeat_interleave(9)[:, None]
    assert (scaled.gather(0, scaled.abs().argmax(0)[None]) > 0).all()


@pytest.mark.parametrize("contrast", [True, False])
def test_saved_encoder_gives_equal_bits(contrast):
    x = blobs(50, 2)
    encoder = ScatteringEncoder((2, 12, 12), 9, L=3, contrast=contrast).fit([x])
    config, weights = json.dumps(encoder.config()), save(encoder.state_dict())
    other = restore_encoder(**json.loads(config))
    other.load_state_dict(load(weights))
    assert torch.equal(other.encode(x), encoder.encode(x))
    assert other.config() == encoder.config()
    assert len(weights) < 4 * encoder.n_coefficients * 9 + 4000  # filters are rebuilt, not stored


def test_codes_are_usable_by_a_trained_head():
    x = blobs(30)
    z = ScatteringEncoder((1, 12, 12), 4, J=1, L=2).fit([x]).encode(x)
    head = torch.nn.Linear(4, 2)
    head(z).sum().backward()
    torch.testing.assert_close(head.weight.grad[0], z.sum(0))


@pytest.mark.parametrize(
    ("shape", "n", "J", "k"),
    [
        ((1, 28, 28), 7000, 3, 150),
        ((1, 16, 16), 80, 2, 40),
        ((1, 8, 8), 999, 1, 144),
        ((1, 8, 8), 999, 3, 150),
        ((1, 28, 28), 7000, None, 150),
        ((1, 16, 16), 80, None, 40),
        ((1, 8, 8), 999, None, 144),
    ],
)
def test_default_number_of_components(shape, n, J, k):
    encoder = make_scattering(shape, n, J=J)
    assert encoder.n_codes == k
    assert not encoder.trainable
    assert not list(encoder.parameters())


def test_wrong_use_is_named():
    encoder = ScatteringEncoder((1, 8, 8), 4)
    with pytest.raises(NotFittedError, match="fit"):
        encoder.encode(images(2, 1, 8, 8))
    with pytest.raises(InvalidInputError, match="at least 2"):
        encoder.fit([images(1, 1, 8, 8)])
    with pytest.raises(InvalidInputError, match="shape"):
        encoder.fit([images(4, 1, 9, 8)])
    with pytest.raises(NotImplementedError, match="decoded"):
        encoder.decode(torch.zeros(1, 4))
    for shape in ((64,), (1, 7, 30)):
        with pytest.raises(InvalidInputError, match="images of at least 8 x 8"):
            make_scattering(shape, 100)
    with pytest.raises(InvalidInputError, match="n_components"):
        ScatteringEncoder((1, 8, 8), 145)
