"""Augmented images against ones that were moved by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from subspan.augment import augment

STILL = {"rotation": 0.0, "shift": 0.0, "zoom": 0.0, "brightness": 0.0}


def images(b=6, c=2, h=9, w=13, seed=0):
    return torch.rand(b, c, h, w, generator=torch.Generator().manual_seed(seed))


def gen(seed=1):
    return torch.Generator().manual_seed(seed)


def test_without_change_images_are_as_they_were():
    x = images()
    torch.testing.assert_close(augment(x, gen(), **STILL), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{"rotation": 40.0}, {"shift": 0.3}, {"zoom": 0.4}, {"rotation": 30.0, "zoom": 0.3}]
)
def test_moves_equal_interpolation_at_moved_coordinates(options):
    """Rotation, zoom and shift about the centre, in pixels, also for images that are not square."""
    x = images()
    b, _, h, w = x.shape
    out = augment(x, gen(), **(STILL | options))
    draws = 2 * torch.rand(b, 7, generator=gen()) - 1
    for i, (angle, zy, zx, sx, sy) in enumerate(draws[:, [0, 2, 1, 3, 4]].double().tolist()):
        t = math.radians(options.get("rotation", 0.0)) * angle
        zx, zy = (1 + options.get("zoom", 0.0) * z for z in (zx, zy))
        dy, dx = np.mgrid[:h, :w] - np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
        at_x = zx * (math.cos(t) * dx - math.sin(t) * dy) + options.get("shift", 0.0) * sx * w + (w - 1) / 2
        at_y = zy * (math.sin(t) * dx + math.cos(t) * dy) + options.get("shift", 0.0) * sy * h + (h - 1) / 2
        for channel in range(2):
            expected = map_coordinates(x[i, channel].double().numpy(), [at_y, at_x], order=1, mode="nearest")
            np.testing.assert_allclose(out[i, channel].numpy(), expected, atol=2e-5)


def test_brightness_is_one_value_for_each_channel_and_stays_in_range():
    x = images() * 0.5 + 0.25
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0.0, 1.0  # the range of the batch
    change = (augment(x, gen(), **(STILL | {"brightness": 0.2})) - x)[1:].flatten(2)
    torch.testing.assert_close(change.amax(2), change.amin(2), atol=1e-5, rtol=0)
    assert 0.05 < change.abs().max() <= 0.2
    assert len(change[:, :, 0].unique()) == 10
    out = augment(x, gen(), **(STILL | {"brightness": 5.0}))
    assert out.min() >= 0
    assert out.max() <= 1


def test_images_are_changed_on_their_own_by_the_generator_alone():
    x = images(1).expand(4, -1, -1, -1)
    state = torch.random.get_rng_state()
    out = augment(x, gen())
    assert len({tuple(image.flatten().tolist()) for image in out}) == 4
    assert torch.equal(out, augment(x, gen()))
    assert not torch.equal(out, augment(x, gen(2)))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_mirrored_image_is_the_image_from_right_to_left():
    x = images(b=64)
    out = augment(x, gen(), **(STILL | {"flip": True}))
    mirrored = torch.isclose(out, x.flip(-1), atol=1e-5).flatten(1).all(1)
    torch.testing.assert_close(out[~mirrored], x[~mirrored], atol=1e-5, rtol=0)
    assert 16 < int(mirrored.sum()) < 48


def test_a_cut_image_shows_a_part_at_the_old_size():
    """Of an image whose values are its coordinates: a window within the old borders, of at least 1 - crop per side."""
    h, w = 16, 24
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    out = augment(torch.stack([y, x]).expand(200, -1, -1, -1).clone(), gen(), **(STILL | {"crop": 0.4}))
    for axis, side in ((0, h), (1, w)):
        line = out[:, axis, :, w // 2] if axis == 0 else out[:, axis, h // 2]
        step = line[:, side // 2 + 2] - line[:, side // 2 - 2]
        share = step * side / 4  # of the side that is seen; away from the border, where values repeat
        assert share.min() >= 0.6 - 1e-4
        assert share.max() <= 1 + 1e-4
        assert share.max() - share.min() > 0.3
        centre = line[:, side // 2 - 1 : side // 2 + 1].mean(dim=1)
        assert (centre - share / 2 > -1e-4).all()
        assert (centre + share / 2 < 1 + 1e-4).all()
        assert centre.std() > 0.02
