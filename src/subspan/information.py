"""What the group of a sample tells about the group of its neighbour (layer 1): by this number labels are compared.

A step of the random walk on the positive pairs leads from a sample to a partner. Groups T of its start and T' of its
end have the joint distribution "flow", and good groups are those of which one tells much about the other: the
information bottleneck of the walk (Tishby, Pereira and Bialek, 1999).

Information alone prefers groups of equal size, because they have the largest entropy. The deterministic information
bottleneck (Strouse and Schwab, 2017) maximises ``I(T; T') - beta H(T)`` instead; ``beta`` is called compression here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.special import xlogy

from subspan._validation import iter_slices
from subspan.pairs import Pairs

UNEVEN = 0.85  # compression from which sizes are taken to differ much
SMALLEST = 0.1  # of an equal share: smaller groups are outliers, and labels that have some are no groups,
EFFECTIVE = 0.7  # nor are labels whose effective number of groups is below this share of k
BLOCK = 20_000  # samples that are worked on at once


def label_information(labels: Tensor, pairs: Pairs, k: int, compression: float = 0.0) -> float:
    """What the label of a sample tells about the label of its neighbour, by which labels (n,) are compared.

    See :func:`flow_information` of their :func:`label_flow`.
    """
    return flow_information(label_flow(labels, pairs, k), compression)


def flow_information(flow: Tensor, compression: float = 0.0) -> float:
    """Mutual information (nats) of both ends of a step, less ``compression`` times the entropy, from the flow (k, k).

    With 0.85 and more, where sizes are taken to differ much, :func:`information_share`.
    """
    return information_share(flow) if compression >= UNEVEN else float(mutual_information(flow, compression))


def information_share(flow: Tensor) -> float:
    """Information of a flow (k, k) as a share of the entropy, in [0, 1] (Theil's uncertainty coefficient).

    Information is larger for groups of equal size because their entropy is; the share is not.
    """
    entropy = float(_entropy(flow))
    return float(mutual_information(flow)) / entropy if entropy > 0 else 0.0


def mutual_information(flow: Tensor, compression: float = 0.0) -> Tensor:
    """``I(T; T') - compression H(T)`` in nats of the two ends of a step, from their joint distribution (m, m)."""
    entropy = _entropy(flow)
    return (xlogy(flow, flow).sum() + 2 * entropy).clamp_min(0.0) - compression * entropy


def _entropy(flow: Tensor) -> Tensor:
    """Entropy (nats) of the group at one end of a step."""
    margin = flow.sum(dim=1)
    return -xlogy(margin, margin).sum()


def are_groups(labels: Tensor, k: int, effective: float | None = None) -> bool:
    """Whether labels (n,) make k groups, ``effective`` k (0.7 k) of them in effect, and not fewer with outliers."""
    least = EFFECTIVE if effective is None else effective
    smallest = int(torch.bincount(labels, minlength=k).min()) / len(labels)
    return smallest >= SMALLEST / k and effective_groups(labels, k) >= least * k


def effective_groups(labels: Tensor, k: int) -> float:
    """Effective number of groups of labels (n,): exp(H), k if all are equal."""
    share = torch.bincount(labels, minlength=k) / len(labels)
    return float((-xlogy(share, share).sum()).exp())


def normalised_association(flow: Tensor) -> float:
    """Mean share of the steps from a cluster that stay in it (Shi and Malik, 2000); empty clusters do not count."""
    margin = flow.sum(dim=1)
    return float((flow.diagonal()[margin > 0] / margin[margin > 0]).mean())


def label_flow(labels: Tensor, pairs: Pairs, k: int) -> Tensor:
    """:func:`cluster_flow` (k, k) of labels (n,)."""
    step = labels[pairs.rows()] * k + labels[pairs.partners]
    flow = torch.bincount(step, weights=pairs.normalised().double(), minlength=k * k).view(k, k)
    return _joint(flow.double())  # of no pairs at all bincount makes integers


def cluster_flow(p: Tensor, pairs: Pairs) -> Tensor:
    """Joint distribution of the clusters at both ends of one step of the walk, float64 (m, m), symmetric, sum 1.

    Parameters
    ----------
    p : Tensor of shape (n, m)
        Cluster probabilities.
    pairs : Pairs
    """
    weight = pairs.normalised()[:, None]
    flow = p.new_zeros(p.shape[1], p.shape[1], dtype=torch.float64)
    for rows in iter_slices(pairs.n, BLOCK):
        low, high = int(pairs.offsets[rows.start]), int(pairs.offsets[rows.stop])
        starts = torch.repeat_interleave(pairs.offsets[rows.start : rows.stop + 1].diff())
        arrived = torch.zeros_like(p[rows]).index_add_(0, starts, p[pairs.partners[low:high]] * weight[low:high])
        flow.addmm_(p[rows].double().T, arrived.double())
    return _joint(flow)


def _joint(flow: Tensor) -> Tensor:
    flow = flow + flow.T
    return flow / flow.sum().clamp_min(torch.finfo(flow.dtype).tiny)


def group_flow(flow: Tensor, group: Tensor, k: int) -> Tensor:
    """Flow between groups, (k, k), from the flow between clusters (m, m)."""
    member = one_hot(group, k).to(flow.dtype)
    return member.T @ flow @ member


def joining_gains(between: Tensor, to: Tensor, inner: Tensor, compression: float = 0.0) -> Tensor:
    """What :func:`mutual_information` gains when a cluster that is a group of its own joins each other group, (b, k).

    Parameters
    ----------
    between : Tensor of shape (b, k, k)
        Flow between the other groups, in b cases.
    to : Tensor of shape (b, k)
        Flow from the cluster to the groups.
    inner : Tensor of shape (b, 1) or ()
        Flow from the cluster to itself.
    compression : float
    """
    diagonal = between.diagonal(dim1=1, dim2=2)
    rows = between + to[:, None]
    rows = xlogy(rows, rows) - xlogy(between, between) - xlogy(to, to)[:, None]  # row and column t of the joined group
    rows.diagonal(dim1=1, dim2=2).zero_()  # the corner is treated apart
    corner = diagonal + inner + 2 * to
    gain = 2 * rows.sum(dim=2) + xlogy(corner, corner) - xlogy(diagonal, diagonal)
    gain -= 2 * xlogy(to, to) + xlogy(inner, inner)
    margin, own = between.sum(dim=2) + to, to.sum(dim=1, keepdim=True) + inner
    both = margin + own
    return gain + (2 - compression) * (xlogy(margin, margin) + xlogy(own, own) - xlogy(both, both))
