from __future__ import annotations

import json
import math

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, linear, relu

from subspan.errors import InvalidInputError
from subspan.heads import MOMENTUM, WIDTHS, ConvHeads, MLPHeads, build_heads

K, WIDTH, B = 3, 6, 20
MAPS = [(2, 2), (4, 4), (7, 7), (5, 3), (1, 6), (1, 1)]
SHAPES = [("mlp", (9,)), *(("conv", (5, *size)) for size in MAPS)]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def heads_of(name, shape, n_starts=1, seed=0, width=WIDTH):
    heads = build_heads(name, n_starts, shape, K, width)
    heads.reset_parameters(gen(seed))
    with torch.no_grad():  # nothing may be at a value that hides an error
        for key, parameter in heads.named_parameters():
            if "gain" in key or "bias" in key:
                parameter.copy_(1.0 + 0.3 * torch.randn(parameter.shape, generator=gen(seed + 1)))
        d = math.prod(shape)
        heads.standardise(torch.randn(d, generator=gen(5)), 0.5 + torch.rand(d, generator=gen(6)))
    return heads


def codes(shape, b=B, seed=3):
    return torch.randn(b, math.prod(shape), generator=gen(seed))


def norm(y, layer, training, r=0):
    """torch's own batch normalisation of channel axis 1."""
    stats = [t[r, 0].clone() for t in (layer.running_mean, layer.running_var)]
    return batch_norm(y, *stats, layer.gain[r, 0], layer.bias[r, 0], training, MOMENTUM), stats


def reference(heads, z, training, r=0):
    """One start with torch.nn.functional; also the running statistics after the step."""
    x = ((z - heads.mean) / heads.std).reshape(-1, *heads.code_shape)
    after = []
    for layer in heads.layers:
        weight = layer.weight[r]
        if heads.name == "conv":
            kernel = weight.reshape(2, 2, x.shape[1], -1).permute(3, 2, 0, 1)
            y = conv2d(x, kernel)
        else:
            y = linear(x, weight.T)
        y, stats = norm(y, layer, training, r)
        after.append(stats)
        x = relu(y)
    if heads.name == "conv":
        h, w = x.shape[2:]
        last = heads.out[r].reshape(h, w, x.shape[1], -1).permute(3, 2, 0, 1)
        return conv2d(x, last, heads.out_bias[r, 0]).flatten(1), after
    return linear(x, heads.out[r].T, heads.out_bias[r, 0]), after


@pytest.mark.parametrize(("name", "shape"), SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_heads_equal_torch_layers(name, shape, training):
    """Every start is conv2d or linear, batch_norm, relu; in evaluation the running statistics are used."""
    heads = heads_of(name, shape, n_starts=2)
    heads(codes(shape, seed=8))  # running statistics away from 0 and 1
    heads.train(training)
    z = codes(shape)
    expected = [reference(heads, z, training, r)[0] for r in range(2)]
    torch.testing.assert_close(heads(z), torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "shape"), SHAPES[:3])
def test_running_statistics_move_as_torchs_do(name, shape):
    heads = heads_of(name, shape)
    _, after = reference(heads, codes(shape), True)
    heads(codes(shape))
    for layer, (mean, var) in zip(heads.layers, after, strict=True):
        torch.testing.assert_close(layer.running_mean[0, 0], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var[0, 0], var, rtol=1e-4, atol=1e-4)
        assert not torch.equal(layer.running_var[0, 0], torch.ones_like(var))


def test_evaluation_does_not_depend_on_the_company_of_a_sample():
    heads = heads_of("mlp", (9,))
    z = codes((9,))
    heads(z)
    together = heads(z)[:, :4]
    assert not torch.allclose(together, heads(z[:4]), atol=1e-3)
    heads.eval()
    before = heads.layers[0].running_mean.clone()
    torch.testing.assert_close(heads(z)[:, :4], heads(z[:4]))
    assert torch.equal(before, heads.layers[0].running_mean)


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_starts_are_separate_heads(name, shape):
    """Start r of R equals a single head with its weights: scores, gradients and statistics."""
    many = heads_of(name, shape, n_starts=3)
    z = codes(shape)
    singles = []
    for r in range(3):
        single = build_heads(name, 1, shape, K, WIDTH)
        single.take(many, r)
        singles.append(single)
    scores = many(z)
    assert not torch.allclose(scores[0], scores[1])
    scores.square().sum().backward()
    for r, single in enumerate(singles):
        own = single(z)
        torch.testing.assert_close(own[0], scores[r], rtol=1e-5, atol=1e-5)
        own.square().sum().backward()
        for (key, a), b in zip(many.named_parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(a.grad[r : r + 1], b.grad, rtol=1e-3, atol=1e-3, msg=key)
        for (key, a), b in zip(many.named_buffers(), single.buffers(), strict=True):
            torch.testing.assert_close(a if key in ("mean", "std") else a[r : r + 1], b)


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_take_copies_everything_and_shares_nothing(name, shape):
    many = heads_of(name, shape, n_starts=2)
    many(codes(shape))
    single = build_heads(name, 1, shape, K, WIDTH)
    single.take(many, 1)
    expected = many.eval()(codes(shape))[1]
    torch.testing.assert_close(single.eval()(codes(shape))[0], expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for tensor in many.state_dict().values():
            tensor.zero_()
    torch.testing.assert_close(single(codes(shape))[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_config_and_state_rebuild_the_same_function(name, shape):
    heads = heads_of(name, shape, n_starts=2)
    heads(codes(shape))
    again = build_heads(**json.loads(json.dumps(heads.config())))
    again.load_state_dict(heads.state_dict())
    assert torch.equal(again.eval()(codes(shape)), heads.eval()(codes(shape)))


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_every_parameter_gets_a_gradient(name, shape):
    heads = heads_of(name, shape, n_starts=2)
    heads(codes(shape)).log_softmax(-1)[..., 0].sum().backward()
    for key, parameter in heads.named_parameters():
        assert parameter.grad is not None, key
        assert bool((parameter.grad.flatten(1).abs().sum(1) > 0).all()), key


@pytest.mark.parametrize(("name", "shape"), SHAPES)
def test_generator_decides_and_nothing_of_before_is_left(name, shape):
    state = torch.random.get_rng_state()
    first = build_heads(name, 2, shape, K, WIDTH)
    first.reset_parameters(gen(1))
    fresh = {key: value.clone() for key, value in first.state_dict().items()}
    used = heads_of(name, shape, n_starts=2, seed=7)
    used(codes(shape))
    used.reset_parameters(gen(1))
    used.standardise(torch.zeros(math.prod(shape)), torch.ones(math.prod(shape)))
    assert all(torch.equal(value, fresh[key]) for key, value in used.state_dict().items())
    first.reset_parameters(gen(2))
    assert not torch.equal(first.out, fresh["out"])
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("size", [*MAPS, (2, 9)])
def test_convolutions_shrink_the_map_as_far_as_three(size):
    """4 > 3 > 2 > 1 on the paper's maps (Sec. 5.1), and a last layer that covers what remains."""
    heads = ConvHeads(1, (5, *size), K, WIDTH)
    n_convs = min(3, *(side - 1 for side in size))
    assert len(heads.layers) == n_convs
    remaining = (size[0] - n_convs) * (size[1] - n_convs)
    assert heads.out.shape == (1, remaining * (WIDTH if n_convs else 5), K)
    assert [layer.weight.shape[1] for layer in heads.layers] == [20, 24, 24][:n_convs]


def test_initial_weights_have_the_variance_of_he():
    heads = MLPHeads(4, (300,), 10, 200)
    heads.reset_parameters(gen())
    assert heads.layers[0].weight.std().item() == pytest.approx(math.sqrt(2 / 300), rel=0.02)
    assert heads.layers[1].weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.02)
    assert heads.out.std().item() == pytest.approx(math.sqrt(1 / 200), rel=0.05)


def test_codes_are_standardised_and_dead_ones_left_alone():
    heads = MLPHeads(1, (4,), K, WIDTH)
    std = torch.tensor([2.0, 1e-5, 0.0, 1.0])
    heads.standardise(torch.tensor([1.0, 2.0, 3.0, 4.0]), std)
    assert heads.std.tolist() == [2.0, 1.0, 1.0, 1.0]
    assert heads.mean.tolist() == [1.0, 2.0, 3.0, 4.0]
    heads.reset_parameters(gen())
    a = heads.eval()(torch.tensor([[3.0, 2.0, 3.0, 4.0]]))
    heads.standardise(torch.zeros(4), torch.ones(4))
    torch.testing.assert_close(a, heads(torch.tensor([[1.0, 0.0, 0.0, 0.0]])))


def test_auto_follows_the_layout_and_widths_have_defaults():
    assert isinstance(build_heads("auto", 1, (5, 4, 4), K), ConvHeads)
    assert isinstance(build_heads("auto", 1, (80,), K), MLPHeads)
    assert build_heads("auto", 1, (5, 4, 4), K).width == WIDTHS["conv"]
    assert build_heads("mlp", 1, (5, 4, 4), K).width == WIDTHS["mlp"]
    assert build_heads("mlp", 1, (5, 2, 2), K)(torch.zeros(2, 20)).shape == (1, 2, K)


@pytest.mark.parametrize(
    ("name", "words"), [("forest", "head is 'forest'; choose one of conv, mlp"), ("conv", "needs codes with a spatial")]
)
def test_wrong_names_are_told(name, words):
    with pytest.raises(InvalidInputError, match=words):
        build_heads(name, 1, (9,), K)
