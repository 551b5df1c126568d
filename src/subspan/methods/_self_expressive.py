"""What the network-free self-expressive methods share (layer 4): codes > affinity > spectral clustering > subspaces.

A method says how coefficients come from unit vectors (``_express``) and how much memory that takes
(``_coefficient_bytes``); everything else is here, once.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from subspan._parameters import check_above, check_choice, check_integer, check_number, is_number
from subspan._resources import LIBRARIES, available_bytes
from subspan._validation import Samples, iter_slices
from subspan.base import PREDICT_BATCH, Clusterer
from subspan.errors import InvalidInputError, IsolationWarning, ResourceError, SelfExpressionError
from subspan.postprocessing import coefficient_affinity
from subspan.spectral import spectral_labels
from subspan.subspaces import ridge_bases, squared_residuals

PHASE = "self-expression"
ISOLATED = 0.1  # share of the samples without coefficients from which that is said


@dataclass(frozen=True)
class Expression:
    """Coefficients (n, n), dense or sparse, and how they were found."""

    C: Any
    n_iter: int = 1
    stop_reason: str = "closed form"
    figures: dict[str, float] = field(default_factory=dict)


# eq and repr stay scikit-learn's; the generated __init__ only assigns, as scikit-learn asks
@dataclass(eq=False, repr=False, kw_only=True)
class SelfExpressiveClusterer(Clusterer):
    """Abstract base: samples are expressed by each other, and the coefficients are clustered as a graph.

    The model is linear subspaces through the origin, so vectors are not centred; images are flattened.
    ``labels_`` come from spectral clustering. ``predict`` is our extension of these transductive methods: a sample
    goes to the cluster whose samples reconstruct it best by ridge regression (see :mod:`subspan.subspaces`), and
    ``transform`` gives the residuals to all clusters. On training samples it mostly, not always, repeats ``labels_``.

    Parameters
    ----------
    n_clusters : int
    normalize : bool
        Scale every sample to unit length, as the papers do.
    scale_rows : bool
        Divide the coefficients of each sample by the largest of them (step 2 of SSC's Algorithm 1).
    keep : float in (0, 1], optional
        Keep the largest coefficients of each sample up to this share of the l1 norm.
    subspace_dim : int, optional
        d: replace the affinity by that of the ``d n_clusters + 1`` leading factors of C (DSC-Net's step).
    power : float, optional
        Power of the entries of the affinity.
    assign_labels : {"kmeans", "cluster_qr"}
        Last step of spectral clustering.
    n_init : int
        Starts of its k-means.
    max_samples : int, optional
        Fit on a random subset of this size; the rest is labelled by ``predict``.
    predict_ridge : float
        Relative ridge weight of ``predict``.
    memory_limit : int, optional
        Bytes that ``fit`` may take beside the libraries; by default what is free now.
    random_state : int, RandomState or None
    device : str or torch.device
    channel_axis : "auto", 1 or -1
    verbose : int
        1 prints the expected memory before anything is allocated.

    Attributes
    ----------
    coefficients_ : ndarray or csr_array of shape (m, m)
        C of the fitted samples, before post-processing; not saved.
    sample_indices_ : ndarray of shape (m,)
        The samples that were fitted (all, unless ``max_samples`` is smaller); not saved.
    memory_estimate_ : int
        Bytes that were expected; not saved.
    """

    n_clusters: int = field(default=8, kw_only=False)
    normalize: bool = True
    scale_rows: bool = False
    keep: float | None = None
    subspace_dim: int | None = None
    power: float | None = None
    assign_labels: Literal["kmeans", "cluster_qr"] = "kmeans"
    n_init: int = 10
    max_samples: int | None = None
    predict_ridge: float = 0.1
    memory_limit: int | None = None
    random_state: Any = None
    device: str | torch.device = "auto"
    channel_axis: Any = "auto"
    verbose: int = 0

    _dtype: ClassVar[torch.dtype] = torch.float64
    _too_few: ClassVar[str] = "the samples may be almost orthogonal to each other"  # why coefficients are zero

    @property
    def stop_reason_(self) -> str:
        """Why the solver of the coefficients ended."""
        return self.stop_reasons_[PHASE]

    @property
    def n_iter_(self) -> int:
        """Iterations of the solver of the coefficients; 1 for a closed form."""
        history: Any = self.history_
        return history[0]["epoch"]

    def estimate_resources(self, X) -> dict[str, Any]:
        """Samples that would be fitted, and the expected peak memory in bytes, by part; nothing is computed."""
        samples = self._inspect(X)
        m = self._fitted_size(samples.n)
        parts = {"libraries": LIBRARIES, "fit": self._bytes(m, self._entries(samples.shape))}
        return {"n_fitted": m, "memory_bytes": sum(parts.values()), "parts": parts}

    def affinity(self):
        """Affinity (m, m) that was clustered: ``coefficients_`` after post-processing; dense or sparse."""
        check_is_fitted(self, "labels_")
        if not hasattr(self, "coefficients_"):
            raise InvalidInputError("A loaded model holds no coefficients: fit it again to see its affinity.")
        return self._affinity()

    def _affinity(self):
        rank = None if self.subspace_dim is None else self.subspace_dim * self.n_clusters + 1
        return coefficient_affinity(
            self.coefficients_, keep=self.keep, scale_rows=self.scale_rows, rank=rank, power=self.power
        )

    def affinities(self, X, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two (b, b) affinities of the samples ``X[index]`` for a picture: A_s among them, and equality of labels."""
        check_is_fitted(self, "labels_")
        index, A = np.asarray(index), self.affinity()
        place = np.full(len(self.labels_), -1)
        place[self.sample_indices_] = np.arange(len(self.sample_indices_))
        chosen = place[index]
        A = A[np.maximum(chosen, 0)][:, np.maximum(chosen, 0)]
        A = (A if isinstance(A, np.ndarray) else A.toarray()) * ((chosen >= 0)[:, None] & (chosen >= 0))
        top = A.max(axis=1, keepdims=True)
        same = self.labels_[index][:, None] == self.labels_[index]
        return A / np.where(top > 0, top, 1.0), same.astype(np.float64)

    def _express(self, Z: Tensor) -> Expression:
        """Coefficients of the vectors ``Z`` (m, d), in the dtype ``_dtype``."""
        raise NotImplementedError

    def _coefficient_bytes(self, n: int, d: int) -> int:
        """Peak bytes of :meth:`_express`, result included."""
        raise NotImplementedError

    def _affinity_bytes(self, n: int, d: int) -> int:
        """Bytes of the raw affinity and its temporaries."""
        return 3 * 4 * n * n

    def _fit(self, samples: Samples, seed: int) -> None:
        self.scaling_ = self.scaling_.without_shift()
        samples = samples.with_scaling(self.scaling_)
        m = self._fitted_size(samples.n)
        self._preflight(m, self._entries(samples.shape))
        rows = np.arange(samples.n)
        if m < samples.n:
            rows = np.sort(np.random.default_rng([seed, 1]).choice(samples.n, m, replace=False))
        self.sample_indices_ = rows
        Z = self._represent(samples, rows, seed)
        found = spectral_labels(
            self._affinity(), self.n_clusters, seed=seed, assign=self.assign_labels, n_init=self.n_init
        )
        self._fit_subspaces(Z, torch.from_numpy(found).to(Z.device))
        labels = np.empty(samples.n, dtype=np.int64)
        labels[rows] = found
        rest = np.setdiff1d(np.arange(samples.n), rows)
        for part in iter_slices(len(rest), PREDICT_BATCH):
            labels[rest[part]] = self._labels(samples.batch(rest[part]).to(self._device)).cpu().numpy()
        self.labels_ = labels

    def _represent(self, samples: Samples, rows: np.ndarray, seed: int) -> Tensor:
        """Vectors (m, d) of the samples ``rows``; sets ``coefficients_``, ``history_`` and ``stop_reasons_``."""
        Z = self._gather(samples, rows)
        start = time.perf_counter()
        found = self._express(Z)
        self.coefficients_ = found.C
        self._check_coefficients(found)
        self.stop_reasons_ = {PHASE: found.stop_reason}
        seconds = time.perf_counter() - start
        self.history_ = [{"phase": PHASE, "epoch": found.n_iter, **found.figures, "seconds": seconds}]
        return Z

    def _check_coefficients(self, found: Expression) -> None:
        """Complain of numbers that are not finite, and of samples that no other one expresses or is expressed by."""
        entries = found.C if isinstance(found.C, np.ndarray) else found.C.data
        name = type(self).__name__
        if not (np.isfinite(entries).all() and np.isfinite(list(found.figures.values())).all()):
            raise SelfExpressionError(
                f"{name} met numbers that are too large or are not finite: bring its parameters nearer to the defaults."
            )
        alone = isolated(found.C)
        if alone > ISOLATED * found.C.shape[0]:
            warnings.warn(
                f"{alone} of {found.C.shape[0]} samples have no coefficient to or from another one, so their labels "
                f"mean nothing: {self._too_few}.",
                IsolationWarning,
                stacklevel=5,
            )

    def _gather(self, samples: Samples, rows: np.ndarray) -> Tensor:
        parts = (samples.batch(rows[part]) for part in iter_slices(len(rows), PREDICT_BATCH))
        return torch.cat([self._vectors(part.to(self._device)) for part in parts])

    def _entries(self, shape: tuple[int, ...]) -> int:
        """Entries per sample that the estimate of memory counts."""
        return math.prod(shape)

    def _vectors(self, batch: Tensor) -> Tensor:
        """Scaled samples (b, ...) as vectors (b, p), of unit length unless they are zero."""
        V = batch.flatten(1).double()
        if self.normalize:
            norms = V.norm(dim=1, keepdim=True)
            V = V / torch.where(norms > 0, norms, 1.0)
        return V.to(self._dtype)

    def _fit_subspaces(self, Z: Tensor, labels: Tensor) -> None:
        """Set what :meth:`_residuals` needs."""
        self._bases = ridge_bases(Z.double(), labels, self.n_clusters, self.predict_ridge)

    def _residuals(self, V: Tensor) -> Tensor:
        """Squared residuals (b, k) of vectors (b, p)."""
        V = V.double()
        return squared_residuals(V.square().sum(1), V, [b.to(V.device) for b in self._bases])

    def _labels(self, batch: Tensor) -> Tensor:
        return self._residuals(self._vectors(batch)).argmin(dim=1)

    def _codes(self, batch: Tensor) -> Tensor:
        return self._residuals(self._vectors(batch)).sqrt().float()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {f"basis.{k}": basis.cpu().contiguous() for k, basis in enumerate(self._bases)}, {}

    def _restore(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        count = sum(name.startswith("basis.") for name in tensors)  # n_clusters may have been set after the fit
        self._bases = [tensors[f"basis.{k}"] for k in range(count)]

    def _fitted_size(self, n: int) -> int:
        return n if self.max_samples is None else min(n, self.max_samples)

    def _bytes(self, n: int, d: int) -> int:
        """Expected peak of a fit on n samples of d entries."""
        item = 4 if self._dtype == torch.float32 else 8
        dense = 3 * 8 * n * n if self.subspace_dim is not None or n <= 2000 else 0  # rank truncation, small spectral
        embedding = 8 * n * max(2 * self.n_clusters + 1, 20)
        return int(3 * item * n * d + self._coefficient_bytes(n, d) + self._affinity_bytes(n, d) + dense + embedding)

    def _preflight(self, n: int, d: int) -> None:
        """Refuse before allocating, with the size that would fit."""
        needed = self.memory_estimate_ = self._bytes(n, d)
        limit = available_bytes() if self.memory_limit is None else self.memory_limit
        name = type(self).__name__
        if self.verbose:
            print(f"{name}: about {needed / 1e9:.3g} GB for {n} samples", file=sys.stderr)
        if limit is None or needed <= limit:
            return
        feasible = largest_feasible(lambda m: self._bytes(m, d), n, limit)
        advice = f"fit on at most {feasible} (max_samples={feasible})" if feasible else "no sample fits"
        raise ResourceError(
            f"{name} on {n} samples of {d} entries takes about {needed / 1e9:.3g} GB and {limit / 1e9:.3g} GB may be "
            f"used: {advice}, or raise memory_limit."
        )

    def _validate_parameters(self) -> None:
        check_integer("n_clusters", self.n_clusters, 1)
        check_integer("n_init", self.n_init, 1)
        check_above(0, predict_ridge=self.predict_ridge)
        for name in ("subspace_dim", "max_samples"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        if self.power is not None:
            check_above(0, power=self.power)
        if self.memory_limit is not None:
            check_number("memory_limit (bytes)", self.memory_limit, 0)
        if self.keep is not None and not (is_number(self.keep) and 0 < self.keep <= 1):
            raise InvalidInputError(f"keep={self.keep!r} must be a share of the l1 norm, above 0 and at most 1.")
        check_choice("assign_labels", self.assign_labels, ("kmeans", "cluster_qr"))
        if self.max_samples is not None and self.max_samples < self.n_clusters:
            raise InvalidInputError(f"max_samples={self.max_samples} must be at least n_clusters={self.n_clusters}.")


def isolated(C: Any) -> int:
    """How many samples have only zeros in their row and column of C (n, n), but for the diagonal."""
    tied = C != 0
    own = tied.diagonal()
    degree = np.asarray(tied.sum(axis=0)).ravel() + np.asarray(tied.sum(axis=1)).ravel() - 2 * own.astype(np.int64)
    return int((degree == 0).sum())


def largest_feasible(bytes_of: Callable[[int], int], n: int, limit: int) -> int:
    """Largest m in 0 .. n whose estimate is within the limit; estimates may jump where the algorithm changes."""
    low, high = 0, n
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if bytes_of(middle) <= limit else (low, middle - 1)
    return low
