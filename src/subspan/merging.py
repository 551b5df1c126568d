"""Consensus of several clusterings by the flow of a random walk (layer 1).

Independent classifiers fail in different places. Where all of them agree lie small, pure cells; which cells belong
together is read from how often a step of the walk on the positive pairs leads from one to the other. The cells are
joined to k groups so that the group of a step's start tells as much as possible about the group of its end: the
information bottleneck, solved by greedy merging (Slonim and Tishby, 1999) and by drawing single cells and putting them
where least is lost (Slonim, Friedman and Tishby, 2002), from several beginnings.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.special import xlogy

from subspan.pairs import Pairs

CELLS_PER_CLUSTER = (3, 5, 10)  # resolutions that are tried
RANDOM_BEGINNINGS = 8
SWEEPS = 30


def consensus(log_p: Tensor, pairs: Pairs, k: int, gen: torch.Generator) -> Tensor:
    """Labels on which several classifiers agree; no start and no setting is chosen by anything but the pairs.

    Parameters
    ----------
    log_p : Tensor of shape (R, n, k')
        Log-probabilities of R starts.
    pairs : Pairs
        Positive pairs of the n samples.
    k : int
        Number of groups.
    gen : torch.Generator

    Returns
    -------
    Tensor of shape (n,), int64
        Of the resolutions in ``CELLS_PER_CLUSTER``, the labels with the largest :func:`mutual_information`.
    """
    best, found = -1.0, log_p[0].argmax(dim=1)
    for resolution in CELLS_PER_CLUSTER:
        cells = agreement_cells(log_p, resolution * k)
        flow = cluster_flow(cells.exp(), pairs).cpu()
        labels = merge_clusters(flow, k, gen).to(cells.device)[cells.argmax(dim=1)]
        value = float(mutual_information(cluster_flow(one_hot(labels, k).to(cells.dtype), pairs)))
        if value > best:
            best, found = value, labels
    return found


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

    Parameters
    ----------
    p : Tensor of shape (n, m)
        Cluster probabilities.
    pairs : Pairs
    """
    rows, weight = pairs.rows(), pairs.normalised()[:, None]
    arrived = torch.zeros_like(p)
    for part in torch.arange(len(rows), device=p.device).split(200_000):  # bounds the gathered copy
        arrived.index_add_(0, rows[part], p[pairs.partners[part]] * weight[part])
    flow = p.double().T @ arrived.double()
    flow = flow + flow.T
    return flow / flow.sum().clamp_min(torch.finfo(flow.dtype).tiny)


def mutual_information(flow: Tensor) -> Tensor:
    """Mutual information (nats) of the two ends of a step, from the joint distribution (m, m)."""
    margin = flow.sum(dim=1)
    return (xlogy(flow, flow).sum() - 2 * xlogy(margin, margin).sum()).clamp_min(0.0)


def group_flow(flow: Tensor, group: Tensor, k: int) -> Tensor:
    """Flow between groups, (k, k), from the flow between clusters (m, m)."""
    member = one_hot(group, k).to(flow.dtype)
    return member.T @ flow @ member


def merge_clusters(flow: Tensor, k: int, gen: torch.Generator) -> Tensor:
    """Group of each of the m clusters, int64 (m,), that keeps most of the mutual information with k groups.

    Parameters
    ----------
    flow : Tensor of shape (m, m)
        Joint distribution, see :func:`cluster_flow`.
    k : int
    gen : torch.Generator
        For the random beginnings.
    """
    flow = flow.double()
    m = len(flow)
    if m <= k:
        return torch.arange(m)
    beginnings = [_merge_greedily(flow, k)]
    beginnings += [torch.arange(m)[torch.randperm(m, generator=gen)] % k for _ in range(RANDOM_BEGINNINGS)]
    groups = [_redraw(flow, group, k) for group in beginnings]
    values = [float(mutual_information(group_flow(flow, group, k))) for group in groups]
    return groups[values.index(max(values))]


def _merge_greedily(flow: Tensor, k: int) -> Tensor:
    """Merge the two clusters whose merging loses least, until k are left."""
    flow = flow.clone()
    group = torch.arange(len(flow))
    while len(flow) > k:
        losses = torch.stack([merge_losses(flow, a) for a in range(len(flow))])
        a, b = divmod(int(losses.argmin()), len(flow))
        a, b = min(a, b), max(a, b)
        flow[a] += flow[b]
        flow[:, a] += flow[:, b]
        keep = torch.arange(len(flow)) != b
        flow = flow[keep][:, keep]
        group[group == b] = a
        group[group > b] -= 1
    return group


def _redraw(flow: Tensor, group: Tensor, k: int) -> Tensor:
    """Take single clusters out and put each where least information is lost, until none moves."""
    group = group.clone()
    for _ in range(SWEEPS):
        moved = False
        for a in range(len(group)):
            home = int(group[a])
            if int((group == home).sum()) == 1:  # a group never becomes empty
                continue
            group[a] = k  # alone
            losses = merge_losses(group_flow(flow, group, k + 1), k)[:k]
            group[a] = best = int(losses.argmin())
            if losses[home] <= losses[best] + 1e-12:
                group[a] = home
            moved |= int(group[a]) != home
        if not moved:
            break
    return group


def merge_losses(flow: Tensor, a: int) -> Tensor:
    """Mutual information lost by merging cluster a with each other one, (m,); infinite at a."""
    m = len(flow)
    others = torch.arange(m)
    margin = flow.sum(dim=1)
    terms = xlogy(flow, flow)
    pair = flow[a] + flow  # (m, c): row of a and b together
    rows = terms[a] + terms - xlogy(pair, pair)
    rows[:, a] = 0.0  # the corner of a and b is treated apart
    rows[others, others] = 0.0
    corner = flow[a, a] + flow.diagonal() + 2 * flow[a]
    loss = 2 * rows.sum(dim=1) + terms[a, a] + terms.diagonal() + 2 * terms[a] - xlogy(corner, corner)
    both, alone = margin[a] + margin, xlogy(margin, margin)
    loss -= 2 * (alone[a] + alone - xlogy(both, both))
    loss[a] = float("inf")
    return loss
