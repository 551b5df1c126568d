"""Consensus of several clusterings by the flow of a random walk (layer 1).

Independent classifiers fail in different places. Where all of them agree lie small, pure cells; which cells belong
together is read from how often a step of the walk on the positive pairs leads from one to the other. Cells are merged
to k groups by the information bottleneck: greedily (Slonim and Tishby, 2000), then by moving single cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from subspan.pairs import Pairs


def agreement_cells(log_p: Tensor, limit: int) -> Tensor:
    """Log-probabilities of the cells on which the starts agree, (n, m) with m <= limit.

    A cell is a combination of one cluster from each start; the ``limit`` most frequent ones among the samples are kept,
    and a sample's score for a cell is the product of the starts' probabilities.

    Parameters
    ----------
    log_p : Tensor of shape (R, n, k)
    limit : int
    """
    cells, counts = torch.unique(log_p.argmax(dim=2).T, dim=0, return_counts=True)  # (m, R)
    cells = cells[counts.argsort(descending=True, stable=True)[:limit]]
    scores = log_p.new_zeros(log_p.shape[1], len(cells))
    for start, clusters in zip(log_p, cells.T, strict=True):
        scores += start[:, clusters]
    return scores.log_softmax(dim=1)


def cluster_flow(p: Tensor, pairs: Pairs) -> Tensor:
    """Joint distribution of the clusters at both ends of one step of the walk, float64 (m, m), symmetric, sum 1.

    Samples without partners do not count; without any pair the flow is zero.

    Parameters
    ----------
    p : Tensor of shape (n, m)
        Cluster probabilities.
    pairs : Pairs
    """
    rows, weight = pairs.rows(), pairs.normalised()[:, None]
    arrived = torch.zeros_like(p)
    for part in torch.arange(len(rows), device=p.device).split(1_000_000):  # bounds the gathered copy
        arrived.index_add_(0, rows[part], p[pairs.partners[part]] * weight[part])
    flow = p.double().T @ arrived.double()
    flow = flow + flow.T
    return flow / flow.sum().clamp_min(torch.finfo(flow.dtype).tiny)


def mutual_information(flow: Tensor) -> Tensor:
    """Mutual information (nats) of the two ends of a step, from the joint distribution (m, m)."""
    margin = flow.sum(dim=1)
    return (torch.special.xlogy(flow, flow).sum() - 2 * torch.special.xlogy(margin, margin).sum()).clamp_min(0.0)


def merge_clusters(flow: Tensor, k: int) -> Tensor:
    """Group of each of the m clusters, int64 (m,), after merging to k groups.

    Each merge is the one after which the walk still tells most about its start, i.e. the smallest loss of
    :func:`mutual_information`; then single clusters move between groups for as long as that gains information.
    """
    return _exchange(flow.double(), _merge_greedily(flow, k), k)


def group_flow(flow: Tensor, group: Tensor, k: int) -> Tensor:
    """Flow between groups, (k, k), from the flow between clusters (m, m)."""
    member = torch.nn.functional.one_hot(group, k).to(flow.dtype)
    return member.T @ flow @ member


def _exchange(flow: Tensor, group: Tensor, k: int, sweeps: int = 20) -> Tensor:
    """Move single clusters to the group that keeps most information, until no move gains."""
    group = group.clone()
    best = mutual_information(group_flow(flow, group, k))
    for _ in range(sweeps):
        moved = False
        for a in range(len(group)):
            home = int(group[a])
            if int((group == home).sum()) == 1:  # a group never becomes empty
                continue
            for other in range(k):
                group[a] = other
                value = mutual_information(group_flow(flow, group, k))
                if value > best + 1e-12:
                    best, home, moved = value, other, True
            group[a] = home
        if not moved:
            break
    return group


def _merge_greedily(flow: Tensor, k: int) -> Tensor:
    flow = flow.double().clone()
    group = torch.arange(len(flow))
    while len(flow) > k:
        a, b = divmod(int(_merge_losses(flow).argmin()), len(flow))
        a, b = min(a, b), max(a, b)
        flow[a] += flow[b]
        flow[:, a] += flow[:, b]
        keep = torch.arange(len(flow)) != b
        flow = flow[keep][:, keep]
        group[group == b] = a
        group[group > b] -= 1
    return group


def _merge_losses(flow: Tensor) -> Tensor:
    """Mutual information lost by merging clusters a and b, (m, m); infinite on the diagonal."""
    m = len(flow)
    margin = flow.sum(dim=1)
    f = torch.special.xlogy(flow, flow)
    pair = flow[:, None, :] + flow[None, :, :]  # (a, b, c)
    # off the two merged clusters, rows a and b become one (and columns, by symmetry)
    rows = f[:, None, :] + f[None, :, :] - torch.special.xlogy(pair, pair)
    index = torch.arange(m)
    rows[index, :, index] = 0.0  # c = a
    rows[:, index, index] = 0.0  # c = b
    diagonal = f.diagonal()
    inner = flow.diagonal()[:, None] + flow.diagonal()[None] + 2 * flow
    loss = 2 * rows.sum(dim=2) + diagonal[:, None] + diagonal[None] + 2 * f - torch.special.xlogy(inner, inner)
    total = margin[:, None] + margin[None]
    h = torch.special.xlogy(margin, margin)
    loss -= 2 * (h[:, None] + h[None] - torch.special.xlogy(total, total))
    return loss.fill_diagonal_(float("inf"))
