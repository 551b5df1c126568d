from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from subspan import NCSC, pretraining
from subspan._validation import check_samples
from subspan.channels import ChannelComponents
from subspan.errors import InvalidInputError
from subspan.multiscale import MultiScaleScattering, make_scattering
from subspan.pretraining import restore_encoder
from subspan.scattering import Scattering2D, ScatteringEncoder


def images(n=40, side=16, seed=0, channels=1):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_codes_are_the_components_of_both_scales_at_equal_weight():
    x = images()
    encoder = MultiScaleScattering((1, 16, 16), 12)
    codes = encoder.fit_encode(x.split(7))
    parts = []
    for maps in Scattering2D((16, 16), 2, finer=True).scales(x):
        scale = ChannelComponents((1, 16, 16), maps.shape[2:], 12)
        z = scale.fit_encode_coefficients([maps.flatten(1)]).double()
        parts.append(z / z.square().sum(1).mean().sqrt())
    both = torch.cat(parts, dim=1)
    U, S, _ = torch.linalg.svd(both - both.mean(0), full_matrices=False)
    expected = (U * S)[:, :12]
    sign = torch.sign((expected * codes).sum(0))
    torch.testing.assert_close(codes.double(), expected * sign, rtol=1e-3, atol=1e-4)


def test_encode_repeats_fit_encode_and_survives_saving():
    x = images(channels=2)
    encoder = MultiScaleScattering((2, 16, 16), 8)
    codes = encoder.fit_encode(x.split(16))
    torch.testing.assert_close(encoder.encode(x), codes, rtol=1e-4, atol=1e-5)
    copy = restore_encoder(**encoder.config())
    copy.load_state_dict(encoder.state_dict())
    assert torch.equal(copy.encode(x), encoder.encode(x))


def test_more_samples_than_the_encoder_is_fitted_to_all_have_codes(monkeypatch):
    """Those that it was fitted to keep their place, and are not encoded a second time."""
    monkeypatch.setattr(pretraining, "FITTED", 11)
    encoder, seen = MultiScaleScattering((1, 16, 16), 5), []
    again = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda x: seen.append(len(x)) or again(x))
    x = images()
    codes = pretraining.encode(check_samples(x[:, 0].numpy()), encoder, torch.device("cpu"))
    assert int(encoder.n_seen) == 11
    assert sum(seen) == 29
    torch.testing.assert_close(codes, again(x), rtol=1e-4, atol=1e-5)


def test_what_fitting_holds_is_limited_and_announced(monkeypatch):
    """Coefficients of large images fill a gigabyte soon: fewer are held, and the preflight counts them."""
    small, large = (MultiScaleScattering((3, side, side), 5) for side in (16, 32))
    monkeypatch.setattr(pretraining, "HELD", 4 * large.n_coefficients * 2000)
    assert pretraining.fitted_samples(large, 5000) == 2000
    assert pretraining.fitted_samples(large, 50) == 50
    assert pretraining.fitted_samples(small, 5000) > 2000
    monkeypatch.setattr(pretraining, "HELD", 1)
    assert pretraining.fitted_samples(large, 5000) == pretraining.LEAST
    monkeypatch.undo()
    bytes_of = [sum(memory(side).values()) for side in (32, 64)]
    assert bytes_of[1] - bytes_of[0] > 5e8
    assert "fitting" in memory(64)
    assert "fitting" not in NCSC(2).estimate_resources(np.zeros((1000, 8)))["parts"]


def memory(side):
    return NCSC(2).estimate_resources(np.broadcast_to(np.uint8(7), (5000, side, side, 3)))["parts"]


def test_one_scale_where_the_image_is_small_or_a_scale_is_asked_for():
    assert len(MultiScaleScattering((1, 8, 8), 4).scales) == 1
    assert isinstance(make_scattering((1, 28, 28), 1000, J=3), ScatteringEncoder)
    assert make_scattering((1, 28, 28), 1000).n_codes == 150
    assert make_scattering((1, 28, 28), 40).n_codes == 20
    assert make_scattering((1, 28, 28), 1000).scattering.out_shapes == [(81, 7, 7), (217, 3, 3)]


def test_errors():
    with pytest.raises(InvalidInputError, match="shape"):
        MultiScaleScattering((1, 16, 16), 4).fit_encode([images(side=17)])
    with pytest.raises(InvalidInputError, match="needs images"):
        make_scattering((30,), 100)
    with pytest.raises(NotFittedError):
        MultiScaleScattering((1, 16, 16), 4).encode(images(2))
    with pytest.raises(NotImplementedError, match="auto-encoder"):
        MultiScaleScattering((1, 16, 16), 4).decode(torch.zeros(1, 4))
