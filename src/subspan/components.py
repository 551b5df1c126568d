"""Principal components as codes (layer 1): a rotation that keeps all there is of few samples, for long vectors.

Self-expression sees samples only through their inner products, and these are the same in a basis of the space that the
samples span. So n vectors of p > n numbers need codes of length n - 1 only, where p x p systems would take the most of
the time and of the memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from torch import Tensor

from subspan.encoders import Encoder
from subspan.errors import InvalidInputError
from subspan.principal import BLOCK, StreamingPCA, working_bytes

MOST = 1024  # components; vectors that are not longer are left as they are


class PrincipalComponents(Encoder):
    """Coordinates along the leading principal components of the samples.

    Parameters
    ----------
    input_shape : (p,) or (c, h, w)
    n_components : int
        Code length d.
    """

    name = "pca"
    trainable = False
    centred = True  # else directions from the origin
    mean: Tensor
    directions: Tensor
    n_seen: Tensor

    def __init__(self, input_shape: Sequence[int], n_components: int) -> None:
        super().__init__(input_shape, (n_components,))
        self.n_coefficients = math.prod(self.input_shape)
        self.register_buffer("mean", torch.zeros(self.n_coefficients))
        self.register_buffer("directions", torch.zeros(self.n_coefficients, n_components))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def encode(self, x: Tensor) -> Tensor:
        """(b, *input_shape) -> (b, d), float32; raises NotFittedError before ``fit_encode``."""
        if not int(self.n_seen):
            raise NotFittedError("There are no components yet: call fit_encode on the samples first.")
        return self._codes(self._rows(x))

    def _rows(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def _codes(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) @ self.directions

    def _scaled(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        return directions

    def decode(self, z: Tensor) -> Tensor:
        """(b, d) -> (b, *input_shape), the nearest samples with these codes."""
        return (z @ self.directions.T + self.mean).reshape(-1, *self.input_shape)

    def fit_encode(self, batches: Iterable[Tensor]) -> Tensor:
        """Find the components of ``batches`` of (b, *input_shape), and return the codes (n, d) of the same samples.

        Holds all of them meanwhile. Of more than 4096 numbers per sample and 4 d samples the leading directions are
        followed instead of the covariance: see :class:`~subspan.principal.StreamingPCA`.

        Raises
        ------
        InvalidInputError
            Fewer than two samples.
        """
        kept = [self._rows(batch) for batch in batches]
        n = sum(map(len, kept))
        if n < 2:
            raise InvalidInputError(f"Principal components need at least 2 samples, not {n}: give more data.")
        pca = StreamingPCA(self.n_coefficients, 1, self.n_codes, self.mean.device, centred=self.centred)
        pca.fit(part.cpu().numpy() for batch in kept for part in batch.split(BLOCK))
        self.mean.copy_(torch.as_tensor(pca.mean))
        variances, directions = pca.components(self.n_codes)
        self.directions.copy_(torch.as_tensor(self._scaled(directions, variances)))
        self.n_seen.copy_(torch.as_tensor(n))
        return torch.cat([self._codes(rows) for rows in kept])

    def fitting_bytes(self, n: int) -> int:
        """Expected memory of ``fit_encode`` on n samples."""
        return 4 * n * self.n_coefficients + working_bytes(self.n_coefficients, n, self.n_codes)

    def config(self) -> dict[str, Any]:
        return super().config() | {"n_components": self.n_codes}


def make_components(
    input_shape: Sequence[int], n_samples: int, *, n_components: int | None = None
) -> PrincipalComponents:
    """Encoder for n_samples: all directions that so few span, 1024 at most, unless ``n_components`` says otherwise.

    Raises
    ------
    InvalidInputError
        More components than numbers per sample, or fewer than one.
    """
    p = math.prod(input_shape)
    if n_components is None:
        n_components = max(1, min(MOST, n_samples - 1, p))
    check_components(n_components, p)
    return PrincipalComponents(input_shape, n_components)


def check_components(n_components: int, p: int) -> None:
    """Raise InvalidInputError unless samples of p numbers have so many components."""
    if not 1 <= n_components <= p:
        raise InvalidInputError(
            f"n_components is {n_components}; give at least 1 and at most {p}, the size of a sample."
        )
