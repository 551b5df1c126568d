from __future__ import annotations

import numpy as np
import pytest
import torch

from subspan._random import generator
from subspan._validation import check_samples, fit_scaling
from subspan.encoders import make_encoder
from subspan.pretraining import Reconstruction
from subspan.stacked import denoising_phases, dropout
from subspan.training import train

CPU = torch.device("cpu")


def samples_on_a_plane(n=120, p=12, seed=0):
    rng = np.random.default_rng(seed)
    samples = check_samples(rng.normal(size=(n, 3)) @ rng.normal(size=(3, p)))
    return samples.with_scaling(fit_scaling(samples))


def network(p=12):
    return make_encoder("mlp", (p,), 5, generator(0), codes_per_cluster=0, latent_dim=3, hidden=[9, 8])


def phases(samples, encoder, **options):
    settings = {"corruption": 0.2, "epochs": 2, "batch_size": 40, "learning_rate": 1e-2, "device": CPU}
    return denoising_phases(samples, encoder, **(settings | options))


def affine(layer, x):
    return torch.stack([torch.stack([row @ w for w in layer.weight]) for row in x]) + layer.bias


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_loss_without_dropout_is_the_transcription(layer):
    """Eqs. 7 and 9: linear output for the data, linear code, ReLU elsewhere; the mirror layer decodes."""
    samples, encoder = samples_on_a_plane(), network()
    down = [module for module in encoder.encoder if isinstance(module, torch.nn.Linear)]
    up = [module for module in encoder.decoder if isinstance(module, torch.nn.Linear)][::-1]
    index = torch.arange(7)
    x = samples.batch(index)
    for below in down[:layer]:
        x = affine(below, x).clamp_min(0)
    h = affine(down[layer], x)
    y = affine(up[layer], h if layer == 2 else h.clamp_min(0))
    y = y if layer == 0 else y.clamp_min(0)
    phase = phases(samples, encoder, corruption=0.0)[layer]
    (terms,) = phase.losses(index, generator(0), 0.0)
    torch.testing.assert_close(terms["reconstruction"], sum((x - y).square().sum(1)) / 14)


def test_each_phase_trains_one_layer_and_its_mirror():
    samples, encoder = samples_on_a_plane(), network()
    for layer, phase in enumerate(phases(samples, encoder)):
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        train([phase], {"encoder": encoder}, n_samples=samples.n, seed=0)
        moved = {key.rsplit(".", 1)[0] for key, v in encoder.state_dict().items() if not torch.equal(v, before[key])}
        assert moved == {f"encoder.{2 * layer}", f"decoder.{2 * (2 - layer)}"}
        assert phase.name == f"layer {layer + 1}"


def test_dropout_takes_its_share_keeps_the_mean_and_draws_locally():
    x = torch.ones(200, 300)
    state = torch.random.get_rng_state()
    y = dropout(x, 0.2, generator(3))
    assert torch.equal(state, torch.random.get_rng_state())
    assert float((y == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(y, dropout(x, 0.2, generator(3)))
    assert not torch.equal(y, dropout(x, 0.2, generator(4)))
    assert dropout(x, 0.0, generator(3)) is x


def test_corruption_reaches_input_and_hidden_layer():
    samples, encoder = samples_on_a_plane(), network()
    phase = phases(samples, encoder, corruption=0.5)[0]
    index = torch.arange(30)
    gen = generator(1)
    x = samples.batch(index)
    h = dropout(phase.down(dropout(x, 0.5, gen)), 0.5, gen)  # Eqs. 6 to 8
    expected = (x - phase.up(h)).square().sum() / 60
    (terms,) = phase.losses(index, generator(1), 0.0)
    torch.testing.assert_close(terms["reconstruction"], expected)


def test_layer_by_layer_training_lowers_the_error_of_the_whole():
    samples, encoder = samples_on_a_plane(), network()
    x = samples.batch(slice(None))

    def error():
        with torch.no_grad():
            return float((encoder(x)[1] - x).square().mean())

    start = error()
    train(phases(samples, encoder, epochs=60), {"encoder": encoder}, n_samples=samples.n, seed=0)
    layered = error()
    assert layered < 0.7 * start
    last = Reconstruction(samples, encoder, epochs=60, batch_size=40, learning_rate=1e-2, device=CPU)
    train([last], {"encoder": encoder}, n_samples=samples.n, seed=0)
    assert error() < 0.3 * layered
