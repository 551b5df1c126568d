"""From many small clusters to k: merging by agglomerative information bottleneck on a random walk (layer 1).

Heads with more clusters than asked for find pure ones; which of them belong together is read from how often a step of
the walk on the positive pairs leads from one to the other (Slonim and Tishby, 2000).
"""

from __future__ import annotations

import torch
from torch import Tensor

from subspan.pairs import Pairs


def cluster_flow(p: Tensor, pairs: Pairs) -> Tensor:
    """Joint distribution of the clusters at both ends of one step of the walk, float64 (m, m), symmetric, sum 1.

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
    return flow / flow.sum()


def mutual_information(flow: Tensor) -> Tensor:
    """Mutual information (nats) of the two ends of a step, from the joint distribution (m, m)."""
    margin = flow.sum(dim=1)
    return (torch.special.xlogy(flow, flow).sum() - 2 * torch.special.xlogy(margin, margin).sum()).clamp_min(0.0)


def merge_clusters(flow: Tensor, k: int) -> Tensor:
    """Group of each of the m clusters, int64 (m,), after merging greedily to k groups.

    Each merge is the one after which the walk still tells most about its start, i.e. the smallest loss of
    :func:`mutual_information`.
    """
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
