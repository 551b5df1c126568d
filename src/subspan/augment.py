"""Random small changes of images that keep what they show (layer 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def augment(
    x: Tensor,
    gen: torch.Generator,
    *,
    rotation: float = 10.0,
    shift: float = 0.1,
    zoom: float = 0.05,
    brightness: float = 0.05,
    crop: float = 0.0,
    flip: bool = False,
) -> Tensor:
    """Move, zoom, brighten, cut and mirror every image on its own; what comes in from outside repeats the border.

    Parameters
    ----------
    x : Tensor of shape (b, c, h, w)
    gen : torch.Generator
        On the CPU.
    rotation : float
        Largest angle, in degrees.
    shift : float
        Largest shift, relative to the side.
    zoom : float
        Largest relative change of the scale, drawn for each axis.
    brightness : float
        Largest value added to a channel; the result keeps the range of the batch.
    crop : float
        Largest share of each side that is cut away, at a random place; the rest is stretched to the old size.
    flip : bool
        Mirror every second image on average, left to right.

    Returns
    -------
    Tensor of shape (b, c, h, w)
    """
    b, c, h, w = x.shape
    draws = 2 * torch.rand(b, 5 + c, generator=gen) - 1
    angle = draws[:, 0] * math.radians(rotation)
    scale = 1 + zoom * draws[:, 1:3]
    theta = torch.empty(b, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale[:, 0] * angle.cos(), -scale[:, 0] * angle.sin() * (h / w)
    theta[:, 1, 0], theta[:, 1, 1] = scale[:, 1] * angle.sin() * (w / h), scale[:, 1] * angle.cos()
    theta[:, :, 2] = 2 * shift * draws[:, 3:5]  # coordinates run from -1 to 1
    if crop > 0:
        cut = crop * torch.rand(b, 1, generator=gen)
        corner = cut * (2 * torch.rand(b, 2, generator=gen) - 1)
        theta = theta * (1 - cut)[:, :, None]
        theta[:, :, 2] += corner
    if flip:
        theta[:, :, 0] *= torch.where(torch.rand(b, 1, generator=gen) < 0.5, -1.0, 1.0)
    grid = affine_grid(theta.to(x.device), [b, c, h, w], align_corners=False)
    out = grid_sample(x, grid, padding_mode="border", align_corners=False)
    return (out + brightness * draws[:, 5:, None, None].to(x.device)).clamp(float(x.min()), float(x.max()))
