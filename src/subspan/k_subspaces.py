"""k-subspaces: clusters as linear subspaces of one dimension, each sample in the nearest (layer 1).

``U`` (k, d, r) holds an orthonormal basis for each cluster, and the squared residual of z to a cluster is
``||z||^2 - ||z U_c||^2``. Alternation of assignment and bases (Bradley and Mangasarian 2000; Tseng 2000) never raises
the summed residual. Nothing of size n x n is built, except for a start from a sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from subspan.postprocessing import coefficient_affinity
from subspan.self_expression import closed_form_coefficients, ridge_weight
from subspan.spectral import spectral_labels

Update = Callable[[Tensor, Tensor, Tensor], Tensor]  # codes (n, d), labels (n,), bases (k, d, r) -> bases

MAX_ITER = 100  # rounds of assignment and bases
_ROWS = 8192  # assigned at a time


def residuals(Z: Tensor, U: Tensor) -> Tensor:
    """Squared distance of every code to every subspace.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
    U : Tensor of shape (k, d, r), orthonormal columns

    Returns
    -------
    Tensor of shape (n, k)
        At least zero; differentiable in ``Z`` and ``U``.
    """
    k, d, r = U.shape
    parts = (Z @ U.transpose(0, 1).reshape(d, k * r)).square().reshape(len(Z), k, r)
    return (Z.square().sum(dim=1, keepdim=True) - parts.sum(dim=2)).clamp_min(0.0)


@torch.no_grad()
def assign(Z: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest subspace of every code, (n,) int64, and the squared residual to it, (n,)."""
    nearest = [residuals(rows, U).min(dim=1) for rows in Z.split(_ROWS)]
    return torch.cat([part.indices for part in nearest]), torch.cat([part.values for part in nearest])


@torch.no_grad()
def svd_bases(Z: Tensor, labels: Tensor, U: Tensor) -> Tensor:
    """Leading right singular vectors of the codes of each cluster: the bases of least residual.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
    labels : Tensor of shape (n,)
    U : Tensor of shape (k, d, r)
        What an empty cluster keeps.

    Returns
    -------
    Tensor of shape (k, d, r)
        Orthonormal, also where a cluster spans fewer than r directions.
    """
    k, _, r = U.shape
    found = []
    for c in range(k):
        members = Z[labels == c].double()
        if len(members) == 0:
            found.append(U[c])
            continue
        vectors = torch.linalg.eigh(members.T @ members).eigenvectors
        found.append(vectors[:, -r:].to(U.dtype))
    return torch.stack(found)


@torch.no_grad()
def grassmann_step(Z: Tensor, labels: Tensor, U: Tensor, rate: float) -> Tensor:
    """One gradient step of the summed residual on the Grassmann manifold for each cluster, retracted by QR.

    With ``S = Z_c^T Z_c`` the residual is ``tr S - tr(U^T S U)``, its descent direction ``V = (I - U U^T) S U``, and
    ``U + t V`` is orthonormalised. The step is ``t = rate / theta`` with theta the largest eigenvalue of ``U^T S U``:
    the residual of these codes cannot rise for rate <= 2.

    Parameters
    ----------
    Z : Tensor of shape (b, d)
    labels : Tensor of shape (b,)
    U : Tensor of shape (k, d, r)
    rate : float, above 0

    Returns
    -------
    Tensor of shape (k, d, r)
        Orthonormal; clusters without codes keep their basis.
    """
    found = []
    for c, basis in enumerate(U):
        members, B = Z[labels == c].double(), basis.double()
        image = members @ B  # (m, r)
        inner = image.T @ image  # U^T S U
        theta = float(torch.linalg.eigvalsh(inner)[-1]) if len(members) else 0.0
        if theta <= 0:
            found.append(basis)
            continue
        V = members.T @ image - B @ inner
        found.append(torch.linalg.qr(B + rate / theta * V).Q.to(basis.dtype))
    return torch.stack(found)


@torch.no_grad()
def k_subspaces(
    Z: Tensor, U: Tensor, *, update: Update = svd_bases, max_iter: int = MAX_ITER
) -> tuple[Tensor, Tensor, list[float]]:
    """Alternate assignment and ``update`` until no label changes.

    Parameters
    ----------
    Z : Tensor of shape (n, d)
    U : Tensor of shape (k, d, r)
        Where to begin.
    update : callable
    max_iter : int, at least 1

    Returns
    -------
    U : Tensor of shape (k, d, r)
    labels : Tensor of shape (n,)
        The assignment to these bases.
    objectives : list of float
        Mean squared residual of each assignment, not rising.
    """
    labels, values = assign(Z, U)
    objectives = [float(values.double().mean())]
    for _ in range(max_iter):
        U = update(Z, labels, U)
        before = labels
        labels, values = assign(Z, U)
        objectives.append(float(values.double().mean()))
        if torch.equal(labels, before) and objectives[-1] >= objectives[-2] * (1 - 1e-6):
            break
    return U, labels, objectives


@torch.no_grad()
def spectral_bases(Z: Tensor, k: int, r: int, *, gamma: float, keep: float, seed: int) -> Tensor:
    """Bases (k, d, r) of the clusters that self-expression finds among the codes ``Z`` (m, d); m x m memory.

    Codes of unit length express each other by ridge regression (relative weight ``gamma``); the largest coefficients
    of each, up to a share ``keep`` of their sum, are the graph of spectral clustering.
    """
    unit = torch.nn.functional.normalize(Z, dim=1)
    C = closed_form_coefficients(unit, ridge_weight(unit, gamma))
    A = coefficient_affinity(C.cpu().numpy(), keep=keep)
    labels = torch.from_numpy(spectral_labels(A, k, seed=seed)).to(Z.device)
    return svd_bases(Z, labels, canonical_bases(Z, k, r))


@torch.no_grad()
def random_bases(Z: Tensor, k: int, r: int, gen: torch.Generator) -> Tensor:
    """Bases (k, d, r) of random neighbourhoods: each a drawn code and those of smallest angle to it."""
    unit = torch.nn.functional.normalize(Z, dim=1)
    seeds = torch.randperm(len(Z), generator=gen)[:k].to(Z.device)
    near = (unit @ unit[seeds].T).abs().topk(min(2 * r, len(Z)), dim=0).indices  # (2r, k)
    bases = canonical_bases(Z, k, r)
    labels = torch.arange(k, device=Z.device).repeat(len(near))
    return svd_bases(Z[near.flatten()], labels, bases)


def canonical_bases(Z: Tensor, k: int, r: int) -> Tensor:
    """The first r coordinate axes, k times."""
    return torch.eye(Z.shape[1], r, dtype=Z.dtype, device=Z.device).expand(k, -1, -1).clone()
