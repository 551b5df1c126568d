from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, relu

from subspan._random import generator
from subspan.encoders import (
    ENCODERS,
    ConvAutoencoder,
    PreactResidualAutoencoder,
    ResidualAutoencoder,
    activation_entries,
    build_encoder,
    make_encoder,
    reset_parameters,
)
from subspan.errors import InvalidInputError, SizingWarning

IMAGE = ("conv", "residual", "preact-residual")
SHAPES = [(1, 8, 8), (3, 8, 8), (5, 9, 9), (1, 9, 14), (3, 17, 8), (1, 28, 28), (3, 31, 33), (1, 13, 48), (3, 48, 48)]
SMALL = [
    ("conv", (3, 9, 11)),
    ("residual", (3, 9, 11)),
    ("preact-residual", (3, 9, 11)),
    ("mlp", (5,)),
    ("mlp", (2, 3, 4)),
    ("identity", (5,)),
    ("identity", (2, 3, 4)),
]
LEARNED = [case for case in SMALL if case[0] != "identity"]


def make(name, shape, k=10, seed=0, **options):
    return make_encoder(name, shape, k, generator(seed), **options)


def inputs(shape, b=4, seed=1):
    return torch.randn(b, *shape, generator=generator(seed))


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cls", "side", "maps", "code"),
    [
        ("conv", ConvAutoencoder, 28, [14, 7, 4], (30, 4, 4)),  # Sec. 5.1, MNIST: d = 480
        ("residual", ResidualAutoencoder, 28, [14, 7, 4, 4], (40, 4, 4)),  # Sec. 5.1, Fashion-MNIST
        ("preact-residual", PreactResidualAutoencoder, 32, [16, 8, 4, 4], (10, 4, 4)),  # Online Products
    ],
)
def test_networks_of_the_paper(name, cls, side, maps, code):
    encoder = make(name, (1, side, side))
    assert type(encoder) is cls
    assert encoder.code_shape == code
    assert encoder.n_codes == math.prod(code) == {"conv": 480, "residual": 640, "preact-residual": 160}[name]
    x, seen = inputs((1, side, side)), []
    for stage in encoder.encoder:
        x = stage(x)
        seen.append(x.shape[1:])
    assert [shape[1] for shape in seen] == maps
    assert [shape[0] for shape in seen] == list(cls.base_channels)
    mirrored = [*cls.base_channels[-2::-1], 1]
    y, back = x, []
    for stage in encoder.decoder:
        y = stage(y)
        back.append(y.shape[1])
    assert back == mirrored
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in encoder.modules())


@pytest.mark.parametrize("cls", [ConvAutoencoder, ResidualAutoencoder, PreactResidualAutoencoder])
def test_paper_sizes_are_the_defaults_of_the_classes(cls):
    assert cls((1, 28, 28), generator=generator(0)).config() == make(cls.name, (1, 28, 28)).config()


def test_kernels_of_the_paper():
    layers = [layer for layer in make("conv", (1, 28, 28)).encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in layers] == [(5, 5), (3, 3), (3, 3)]


@pytest.mark.parametrize("name", IMAGE)
@pytest.mark.parametrize("shape", SHAPES)
def test_reconstruction_has_the_shape_of_the_input(name, shape):
    encoder = make(name, shape)
    x = inputs(shape, b=2)
    z, reconstruction = encoder(x)
    assert z.shape == (2, encoder.n_codes)
    assert reconstruction.shape == x.shape
    assert encoder.input_shape == shape
    assert torch.equal(z, encoder.encode(x))
    assert torch.equal(reconstruction, encoder.decode(z))
    assert encoder.decode(z[:0]).shape == (0, *shape)


@pytest.mark.filterwarnings("ignore::subspan.errors.SizingWarning")
@pytest.mark.parametrize("k", [2, 10, 40, 100])
@pytest.mark.parametrize("name", [*IMAGE, "mlp"])
def test_codes_are_longer_than_nine_k(name, k):
    for shape in [(2,), (64,), (784,)] if name == "mlp" else SHAPES:
        encoder = make(name, shape, k)
        assert encoder.n_codes == math.prod(encoder.code_shape) > 9 * k
        if name != "mlp":
            assert min(encoder.code_shape[1:]) >= 2


@pytest.mark.parametrize(
    ("shape", "final"),
    [
        ((3, 48, 48), (6, 6)),
        ((3, 64, 64), (4, 4)),
        ((3, 96, 96), (6, 6)),
        ((3, 224, 224), (7, 7)),
        ((1, 60, 256), (2, 8)),
    ],
)
@pytest.mark.parametrize("name", IMAGE)
def test_large_images_get_more_stages(name, shape, final):
    encoder = make(name, shape, 5)
    assert encoder.code_shape[1:] == final
    if shape != (3, 48, 48):
        assert set(encoder.strides) == {2}
    x = inputs(shape, b=1)
    assert encoder(x)[1].shape == x.shape


def test_channels_of_added_stages():
    assert make("conv", (3, 64, 64)).channels == (10, 20, 30, 40)
    assert make("residual", (3, 64, 64)).channels == (10, 20, 30, 40)  # the last stride became 2 first
    assert make("residual", (3, 224, 224)).channels == (10, 20, 30, 40, 50)
    assert make("preact-residual", (3, 224, 224)).channels == (10, 20, 30, 40, 10)  # the narrow end stays


def test_strides_fall_silently_and_widening_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make("conv", (1, 8, 8), 10).strides == (2, 2, 1)
        assert make("conv", (1, 8, 8), 40).strides == (2, 1, 1)
    with pytest.warns(SizingWarning, match=r"'conv' was widened from 30 to 57 channels.* now 912"):
        wide = make("conv", (1, 8, 8), 100)
    assert wide.channels == (10, 20, 57)  # 57 is the first count with 16 * 57 > 900
    assert wide.strides == (2, 1, 1)


def test_vector_networks_follow_the_length_of_the_input():
    assert make("mlp", (784,)).config() | {"name": 0} == {
        "name": 0,
        "input_shape": [784],
        "latent_dim": 100,
        "hidden": [500, 500, 2000],
    }
    tiny = make("mlp", (2,), 2)
    assert (tiny.n_codes, tiny.hidden) == (32, (64, 64, 64))
    many = make("mlp", (784,), 100)
    assert min(many.hidden) >= many.n_codes == 1000


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_identity_returns_the_input(shape):
    encoder = make("identity", shape)
    x = inputs(shape)
    z, reconstruction = encoder(x)
    assert torch.equal(z, x.flatten(1))
    assert torch.equal(reconstruction, x)
    assert (encoder.trainable, encoder.n_codes, encoder.code_shape) == (False, x[0].numel(), (x[0].numel(),))
    assert not list(encoder.parameters())


def test_auto_takes_conv_for_images_and_identity_for_vectors():
    assert make("auto", (1, 28, 28)).name == "conv"
    assert make("auto", (7,)).name == "identity"


def residual_codes(x, conv, n_blocks=3):
    """Slow transcription: relu(F(x) + skip(x)) with F = conv, relu, conv."""
    x = relu(conv("encoder.0.0", x))
    for i in range(1, n_blocks + 1):
        branch = conv(f"encoder.{i}.second", relu(conv(f"encoder.{i}.first", x)))
        x = relu(branch + conv(f"encoder.{i}.skip", x))
    return x


def preact_codes(x, conv, n_blocks=3):
    """Slow transcription: F(x) + skip(x) with F = relu, conv, relu, conv."""
    x = conv("encoder.0", x)
    for i in range(1, n_blocks + 1):
        branch = conv(f"encoder.{i}.second", relu(conv(f"encoder.{i}.first", relu(x))))
        x = branch + conv(f"encoder.{i}.skip", x)
    return x


@pytest.mark.parametrize(("name", "codes"), [("residual", residual_codes), ("preact-residual", preact_codes)])
def test_residual_encoders_equal_their_transcription(name, codes):
    encoder = make(name, (1, 28, 28))
    state = encoder.state_dict()

    def conv(key, x):
        weight = state[f"{key}.weight"]
        stage = int(key.split(".")[1])
        stride = 1 if "second" in key else encoder.strides[stage]
        return conv2d(x, weight, state[f"{key}.bias"], stride, weight.shape[-1] // 2)

    x = inputs((1, 28, 28))
    torch.testing.assert_close(encoder.encode(x), codes(x, conv).flatten(1))


# --- learning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), LEARNED)
def test_every_parameter_gets_a_gradient(name, shape):
    encoder = make(name, shape)
    assert encoder.trainable
    x = inputs(shape, b=64)
    (encoder(x)[1] - x).square().sum().backward()
    dead = [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize(("name", "shape"), LEARNED)
def test_codes_depend_on_every_input_and_reconstruction_on_every_code(name, shape):
    encoder = make(name, shape)
    x = inputs(shape, b=64).requires_grad_()
    z = encoder.encode(x)
    assert torch.autograd.grad(z.square().sum(), x)[0].abs().sum(0).all()
    codes = inputs((encoder.n_codes,), b=64).requires_grad_()
    assert torch.autograd.grad(encoder.decode(codes).square().sum(), codes)[0].abs().sum(0).all()


def test_last_layers_are_linear_where_they_should_be():
    for name in (*IMAGE, "mlp"):
        shape = (64,) if name == "mlp" else (1, 16, 16)
        z, reconstruction = make(name, shape)(10 * inputs(shape, b=32))
        assert (reconstruction < 0).any()
        assert (z < 0).any() == (name in ("preact-residual", "mlp")), name


@pytest.mark.parametrize("name", IMAGE)
def test_codes_are_flattened_in_channel_row_column_order(name):
    encoder = make(name, (3, 16, 18))
    x = inputs((3, 16, 18))
    plain = encoder.encoder(x)  # without the channels-last detour
    assert plain.shape[1:] == encoder.code_shape
    torch.testing.assert_close(encoder.encode(x), plain.contiguous().flatten(1))
    torch.testing.assert_close(encoder.decode(plain.contiguous().flatten(1)), encoder.decoder(plain))


# --- initial weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), SMALL)
def test_global_generator_is_untouched_and_ours_decides(name, shape):
    before = torch.get_rng_state()
    first, same, other = make(name, shape, seed=3), make(name, shape, seed=3), make(name, shape, seed=4)
    build_encoder(**first.config())
    assert torch.equal(torch.get_rng_state(), before)
    for key, value in first.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
        assert not torch.equal(value, other.state_dict()[key])
        assert value.is_contiguous()  # safetensors stores nothing else


def test_weights_have_the_bounds_of_torch_defaults():
    for ours, torchs in [
        (nn.Linear(50, 400), nn.Linear(50, 400)),
        (nn.Conv2d(8, 64, 3), nn.Conv2d(8, 64, 3)),
        (nn.ConvTranspose2d(64, 8, 3), nn.ConvTranspose2d(64, 8, 3)),
    ]:
        reset_parameters(ours, generator(0))
        assert ours.weight.std().item() == pytest.approx(torchs.weight.std().item(), rel=0.05)
        assert ours.weight.abs().max().item() == pytest.approx(torchs.weight.abs().max().item(), rel=0.01)
        assert abs(ours.weight.mean().item()) < 0.05 * ours.weight.std().item()
        assert 0.5 < (ours.bias.abs().max() / ours.weight.abs().max()).item() < 1.01


def test_reset_restores_norm_layers_and_names_what_it_cannot_draw():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
    net(torch.ones(2, 3)).sum().backward()
    net[1].weight.data.zero_()
    reset_parameters(net, generator(0))
    assert torch.equal(net[1].weight, torch.ones(4))
    assert torch.equal(net[1].running_mean, torch.zeros(4))
    with pytest.raises(TypeError, match="PReLU"):
        reset_parameters(nn.PReLU(), generator(0))


@pytest.mark.parametrize(("name", "shape"), [*SMALL, ("conv", (3, 64, 64)), ("preact-residual", (1, 8, 8))])
def test_config_and_state_rebuild_the_same_function(name, shape):
    encoder = make(name, shape, seed=5)
    config = json.loads(json.dumps(encoder.config()))
    again = build_encoder(**config)
    again.load_state_dict(encoder.state_dict(), strict=True)
    x = inputs(shape)
    for ours, theirs in zip(encoder(x), again(x), strict=True):
        assert torch.equal(ours, theirs)
    assert again.config() == encoder.config()


# --- options and errors ------------------------------------------------------------------------------------------


def test_given_sizes_are_kept():
    encoder = make("conv", (1, 28, 28), channels=[8, 12], strides=(2, 2), kernels=(3, 5))
    assert (encoder.channels, encoder.strides, encoder.kernels) == ((8, 12), (2, 2), (3, 5))
    assert make("conv", (1, 28, 28), channels=[8, 12, 16, 20]).kernels == (5, 3, 3, 3)
    assert make("residual", (3, 64, 64), strides=[2, 2, 2, 1]).code_shape == (40, 8, 8)
    assert make("conv", (1, 28, 28), channels=None).channels == (10, 20, 30)
    assert make("mlp", (9,), latent_dim=91, hidden=[7]).config()["hidden"] == [7]
    sizes = make("mlp", (9,), latent_dim=np.int64(91), hidden=(np.int32(7),)).config()
    assert type(sizes["latent_dim"]) is type(sizes["hidden"][0]) is int


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        (
            "cnn",
            (1, 28, 28),
            {},
            "'cnn' is unknown: choose one of conv, residual, preact-residual, mlp, identity or auto",
        ),
        ("conv", (64,), {}, "needs images, but X holds vectors: pass X as"),
        ("residual", (1, 7, 28), {}, r"at least 8 x 8 pixels, but X has 7 x 28: choose encoder 'mlp'"),
        ("conv", (1, 28, 28), {"latent_dim": 100}, "no option 'latent_dim', only .'channels', 'strides', 'kernels'"),
        ("identity", (9,), {"latent_dim": 100}, r"no option 'latent_dim', only \[\]"),
        ("conv", (1, 28, 28), {"channels": [10, 20, 5], "strides": [2, 2, 2]}, "d=80 must exceed 9 n_clusters=90"),
        ("mlp", (64,), {"latent_dim": 90}, "d=90 must exceed 9 n_clusters=90.* larger code through latent_dim"),
        ("conv", (1, 28, 28), {"strides": [2, 2]}, "one entry per stage"),
        ("conv", (1, 28, 28), {"kernels": [4, 3, 3]}, r"\(odd\) kernels"),
        ("conv", (1, 28, 28), {"channels": [10, 0, 30]}, "channels must hold positive integers"),
        ("conv", (1, 28, 28), {"channels": []}, "channels must hold positive integers"),
        ("conv", (1, 28, 28), {"channels": 30}, "channels must hold positive integers, not 30"),
        ("mlp", (64,), {"latent_dim": 100.0}, "latent_dim must hold positive integers"),
        ("mlp", (64,), {"hidden": "500"}, "hidden must hold positive integers"),
    ],
)
def test_errors_say_what_to_do(name, shape, options, words):
    with pytest.raises(InvalidInputError, match=words):
        make(name, shape, **options)


@pytest.mark.parametrize(("name", "shape"), [("identity", (2, 3)), ("mlp", (5,))])
def test_activations_are_counted_per_sample(name, shape):
    """Input, code and reconstruction, and what every layer returns."""
    options = {} if name == "identity" else {"latent_dim": 32, "hidden": [11]}
    encoder = make(name, shape, 2, **options)
    hidden = 0 if name == "identity" else 2 * (11 + 11) + 32 + 5  # linear and ReLU, both ways; code; output
    assert activation_entries(encoder) == 2 * math.prod(shape) + encoder.n_codes + hidden


def test_methods_without_the_rule_on_the_code_length_take_short_codes():
    faces = {"channels": [3, 3, 5], "kernels": [3, 3, 3], "strides": [2, 2, 2]}
    with pytest.raises(InvalidInputError, match="d=80 must exceed 9 n_clusters=360"):
        make("conv", (1, 32, 32), 40, **faces)
    assert make("conv", (1, 32, 32), 40, codes_per_cluster=0, **faces).code_shape == (5, 4, 4)
    assert make("conv", (1, 28, 28), codes_per_cluster=0).config() == make("conv", (1, 28, 28)).config()


def test_small_images_have_a_way_out():
    assert make("mlp", (1, 5, 6)).decode(torch.zeros(2, 100)).shape == (2, 1, 5, 6)
    assert set(ENCODERS) == {*IMAGE, "mlp", "identity"}


def test_methods_with_short_codes_may_ask_for_them():
    for name, shape, options in (
        ("mlp", (64,), {"latent_dim": 10}),
        ("conv", (1, 28, 28), {"channels": [10, 20, 5], "strides": [2, 2, 2]}),
    ):
        encoder = make_encoder(name, shape, 10, generator(0), codes_per_cluster=0, **options)
        assert encoder.n_codes <= 90
        with pytest.raises(InvalidInputError, match="must exceed 9 n_clusters=90"):
            make_encoder(name, shape, 10, generator(0), **options)
