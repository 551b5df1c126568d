"""How the caller's numbers become the ones that are used inside (layer 0)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class Scaling:
    """Affine map (x - shift) / scale, fitted once and kept with the model.

    Parameters
    ----------
    shift : ndarray of shape () or (p,), float64
    scale : float
        One positive scalar for all entries, so that angles between centred samples are kept.
    whole : bool
        Whether it was fitted to images of whole numbers that go beyond 1, such as 0 .. 255.
    """

    shift: np.ndarray = field(default_factory=lambda: np.zeros(()))
    scale: float = 1.0
    whole: bool = False

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Scaled float32 copy of ``rows``; wide types are shifted in float64 so that large offsets lose no digits."""
        narrow = rows.dtype.itemsize <= 2 or (rows.dtype == np.float32 and not self.shift.any())
        out: Any = rows.astype(np.float32 if narrow else np.float64, order="C")
        if self.shift.any():
            out -= self.shift.astype(out.dtype)
        if self.scale != 1.0:
            out /= self.scale
        return out.astype(np.float32, copy=False)

    def without_shift(self) -> Scaling:
        """Scaling alone, at least as strong: for linear subspaces, which pass through the origin."""
        return replace(self, shift=np.zeros(()), scale=max(self.scale, float(np.abs(self.shift).max(initial=0.0))))

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """``{"shift", "scale"}`` as float64 tensors and ``{"whole"}`` as a bool, as safetensors stores them."""
        return {
            "shift": torch.from_numpy(np.array(self.shift, dtype=np.float64)),
            "scale": torch.tensor(self.scale, dtype=torch.float64),
            "whole": torch.tensor(self.whole),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Scaling:
        """Inverse of :meth:`to_tensors`, bit by bit; older models do not say ``whole``."""
        shift = np.array(tensors["shift"].cpu().numpy(), dtype=np.float64)
        return cls(shift, float(tensors["scale"]), bool(tensors.get("whole", False)))
