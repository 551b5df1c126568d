"""Whitened principal components of directions from the origin as codes (layer 1): for linear subspaces.

Let ``U D V^T`` be the singular value decomposition of samples of unit length, cut to r components. ``U U^T`` is the
shape interaction matrix (Costeira and Kanade, 1998), the low-rank representation of clean data (Liu et al., 2013): of
samples from independent linear subspaces of r dimensions in all it joins only those of one subspace. Rows of U of unit
length are the codes; their inner products, cosines, are at most 1 for every pair, so they are comparable.

The origin is black: 0 of images in whole numbers, else the smallest entry of all images, which estimators take for it.
Where that is not black, subspaces do not go through the origin; the one component more than their dimensions holds it.

Images of one face or matt object under changing light lie near such a subspace: of 3 dimensions without shadows
(Shashua, 1997), of 9 with (Basri and Jacobs, 2003).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from subspan.components import PrincipalComponents, check_components
from subspan.errors import InvalidInputError


class WhitenedComponents(PrincipalComponents):
    """Unit rows of the left singular vectors of samples of unit length.

    Parameters
    ----------
    input_shape : (c, h, w)
    n_components : int
        Code length r.
    """

    name = "whitened"
    whitened = True
    centred = False

    def _rows(self, x: Tensor) -> Tensor:
        return normalize(x.flatten(1), dim=1)

    def _codes(self, rows: Tensor) -> Tensor:
        return normalize(rows @ self.directions, dim=1)

    def _scaled(self, directions: np.ndarray, variances: np.ndarray) -> np.ndarray:
        return directions / np.sqrt(np.where(variances > 0, variances, 1.0))

    def decode(self, z: Tensor) -> Tensor:
        """There is no way back: raises NotImplementedError."""
        raise NotImplementedError("Whitened components do not keep the size of a sample: choose 'pca' to decode.")


def make_whitened(
    input_shape: Sequence[int], n_samples: int, n_clusters: int, dimension: int, *, n_components: int | None = None
) -> WhitenedComponents:
    """Encoder for n_samples images in clusters of a dimension: one component for each of them all and one more.

    Raises
    ------
    InvalidInputError
        More components than numbers per sample, or fewer than one; or samples are vectors.
    """
    if len(input_shape) == 1:
        raise InvalidInputError(
            "Whitened components are for images, whose origin is black, not for vectors, which are taken from their "
            "mean: give X of shape (n, h, w), or choose another encoder."
        )
    p = math.prod(input_shape)
    if n_components is None:
        n_components = max(1, min(dimension * n_clusters + 1, n_samples - 1, p))
    check_components(n_components, p)
    return WhitenedComponents(input_shape, n_components)
