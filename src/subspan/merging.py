"""Consensus of several clusterings by the flow of a random walk (layer 1).

Independent classifiers fail in different places. Where all of them agree lie small, pure cells; which cells belong
together is read from how often a step of the walk on the positive pairs leads from one to the other. The cells are
joined to k groups so that the group T of a step's start tells as much as possible about the group T' of its end: the
information bottleneck, solved by greedy merging (Slonim and Tishby, 1999) and by drawing single cells and putting them
where least is lost (Slonim, Friedman and Tishby, 2002), from several beginnings.

Information alone prefers groups of equal size, because they have the largest entropy. The deterministic information
bottleneck (Strouse and Schwab, 2017) maximises ``I(T; T') - beta H(T)`` instead; ``beta`` is called compression here.
Equal sizes are given up where that lets far fewer steps leave their group, see :func:`consensus`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.special import xlogy

from subspan._validation import iter_slices
from subspan.pairs import Pairs

CELLS_PER_CLUSTER = (3, 5, 10)  # resolutions that are tried,
MAX_CELLS = 200  # but only the coarsest beyond so many cells
MERGES = 3  # kept of each resolution
RANDOM_BEGINNINGS = 8
SWEEPS = 30
BLOCK = 20_000  # samples whose arrivals are held at once
TRIED, UNEVEN = 0.5, 0.85  # compression that is tried against none, and the one that is used if it does better:
CUT = 0.8  # if the normalised cut of its groups is below this share of the other
SMALLEST = 0.1  # of an equal share: smaller groups are outliers, and labels that have some are left out,
EFFECTIVE = 0.7  # as are labels whose effective number of groups, exp(H), is below this share of k


class Consensus(NamedTuple):
    """Labels (c, n) by falling value, and the compression with which they were found."""

    labels: Tensor
    compression: float


def consensus(
    log_p: Tensor, pairs: Pairs, k: int, gen: torch.Generator, limit: int = 1, compression: float | None = 0.0
) -> Consensus:
    """Labels on which several classifiers agree, the ``limit`` best of several ways to join what they agree on.

    Parameters
    ----------
    log_p : Tensor of shape (R, n, k')
        Log-probabilities of R starts.
    pairs : Pairs
        Positive pairs of the n samples.
    k : int
        Number of groups.
    gen : torch.Generator
    limit : int
    compression : float, optional
        Weight of the entropy of the groups. None: zero, unless the best groups with 1/2 have a normalised cut (mean
        share of a group's steps that leave it) of less than 0.8 of that of the best ones with zero; then 0.85, if
        that gives k groups that are no outliers.

    Returns
    -------
    Consensus
        At most ``limit`` distinct labels by falling :func:`label_information`, from all resolutions.
    """
    counts = sorted({min(r * k, max(CELLS_PER_CLUSTER[0] * k, MAX_CELLS)) for r in CELLS_PER_CLUSTER})
    cells = []
    for count in counts:
        p = agreement_cells(log_p, count)
        cells.append((p.argmax(dim=1), cluster_flow(p, pairs).cpu()))
    found = _join(cells, pairs, k, gen, compression or 0.0)
    if compression is None and k > 1:
        tried = _join(cells, pairs, k, gen, TRIED)
        cuts = [1 - normalised_association(label_flow(labels[0], pairs, k)) for labels in (found, tried)]
        if cuts[1] < CUT * cuts[0]:
            uneven = _join(cells, pairs, k, gen, UNEVEN)
            if _are_groups(uneven[0], k):
                found, compression = uneven, UNEVEN
    return Consensus(found[:limit], compression or 0.0)


def _join(cells: list[tuple[Tensor, Tensor]], pairs: Pairs, k: int, gen: torch.Generator, compression: float) -> Tensor:
    """Distinct labels (c, n), the best first, from cells (n,) of several resolutions and the flow between them."""
    found: list[tuple[float, Tensor]] = []
    for cell, flow in cells:
        for group in merge_clusters(flow, k, gen, compression)[:MERGES]:
            labels = group.to(cell.device)[cell]
            if not any(torch.equal(labels, other) for _, other in found):
                found.append((label_information(labels, pairs, k, compression), labels))
    found.sort(key=lambda entry: -entry[0])
    good = [labels for _, labels in found if compression == 0 or _are_groups(labels, k)]
    return torch.stack(good or [labels for _, labels in found])


def _are_groups(labels: Tensor, k: int) -> bool:
    """Whether labels (n,) make k groups, and not fewer with a few outliers."""
    share = torch.bincount(labels, minlength=k) / len(labels)
    effective = float((-xlogy(share, share).sum()).exp())
    return bool(share.min() >= SMALLEST / k) and effective >= EFFECTIVE * k


def label_information(labels: Tensor, pairs: Pairs, k: int, compression: float = 0.0) -> float:
    """:func:`mutual_information` (nats) of the labels (n,) at both ends of a step of the walk."""
    return float(mutual_information(label_flow(labels, pairs, k), compression))


def label_flow(labels: Tensor, pairs: Pairs, k: int) -> Tensor:
    """Joint distribution (k, k) of the labels (n,) at both ends of a step of the walk."""
    return cluster_flow(one_hot(labels, k).to(torch.float32), pairs)


def normalised_association(flow: Tensor) -> float:
    """Mean share of the steps from a cluster that stay in it (Shi and Malik, 2000); empty clusters do not count."""
    margin = flow.sum(dim=1)
    return float((flow.diagonal()[margin > 0] / margin[margin > 0]).mean())


def agreement_cells(log_p: Tensor, limit: int) -> Tensor:
    """Probabilities of the cells on which the starts agree, (n, m) with m <= limit.

    A cell is a combination of one cluster from each start; the ``limit`` most frequent ones among the samples are kept,
    and a sample's score for a cell is the product of the starts' probabilities.

    Parameters
    ----------
    log_p : Tensor of shape (R, n, k)
    limit : int
    """
    cells, counts = torch.unique(log_p.argmax(dim=2).T, dim=0, return_counts=True)  # (m, R)
    cells = cells[counts.argsort(descending=True, stable=True)[:limit]]
    p = log_p.new_empty(log_p.shape[1], len(cells))
    for rows in iter_slices(len(p), BLOCK):
        scores = log_p[0, rows][:, cells[:, 0]]
        for start, clusters in zip(log_p[1:], cells.T[1:], strict=True):
            scores += start[rows][:, clusters]
        p[rows] = scores.softmax(dim=1)
    return p


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
    flow = flow + flow.T
    return flow / flow.sum().clamp_min(torch.finfo(flow.dtype).tiny)


def mutual_information(flow: Tensor, compression: float = 0.0) -> Tensor:
    """``I(T; T') - compression H(T)`` in nats of the two ends of a step, from their joint distribution (m, m)."""
    margin = flow.sum(dim=1)
    entropy = -xlogy(margin, margin).sum()
    return (xlogy(flow, flow).sum() + 2 * entropy).clamp_min(0.0) - compression * entropy


def group_flow(flow: Tensor, group: Tensor, k: int) -> Tensor:
    """Flow between groups, (k, k), from the flow between clusters (m, m)."""
    member = one_hot(group, k).to(flow.dtype)
    return member.T @ flow @ member


def merge_clusters(flow: Tensor, k: int, gen: torch.Generator, compression: float = 0.0) -> list[Tensor]:
    """Ways to join m clusters to k groups with the largest :func:`mutual_information`.

    Parameters
    ----------
    flow : Tensor of shape (m, m)
        Joint distribution, see :func:`cluster_flow`.
    k : int
    gen : torch.Generator
        For the random beginnings.
    compression : float

    Returns
    -------
    list of Tensors of shape (m,), int64
        Group of each cluster; the best first, each with another mutual information.
    """
    flow = flow.double()
    m = len(flow)
    if m <= k:
        return [torch.arange(m)]
    beginnings = [_merge_greedily(flow, k, compression)]
    if compression > 0:
        beginnings.append(_merge_by_association(flow, k))
    beginnings += [torch.arange(m)[torch.randperm(m, generator=gen)] % k for _ in range(RANDOM_BEGINNINGS)]
    groups = [_redraw(flow, group, k, compression) for group in beginnings]
    values = {round(float(mutual_information(group_flow(flow, group, k), compression)), 9): group for group in groups}
    return [values[value] for value in sorted(values, reverse=True)]


def _merge_greedily(flow: Tensor, k: int, compression: float = 0.0) -> Tensor:
    """Join the two rows of the flow whose joining loses least information about the other end, until k are left."""
    rows = flow.clone()
    group = torch.arange(len(flow))
    losses = torch.stack([_row_losses(rows, a, compression) for a in range(len(rows))])
    for _ in range(len(flow) - k):
        a, b = sorted(divmod(int(losses.argmin()), len(flow)))
        rows[a] += rows[b]
        group[group == b] = a
        losses[b], losses[:, b] = float("inf"), float("inf")
        dead = losses[a].isinf()
        losses[a] = torch.where(dead, float("inf"), _row_losses(rows, a, compression))
        losses[:, a] = losses[a]
    return torch.unique(group, return_inverse=True)[1]


def _merge_by_association(flow: Tensor, k: int) -> Tensor:
    """Join the two clusters whose joining adds most to the sum of the shares that stay, until k are left."""
    flow = flow.clone()
    group = torch.arange(len(flow))
    alive = torch.ones(len(flow), dtype=torch.bool)
    for _ in range(len(flow) - k):
        margin, stay = flow.sum(dim=1).clamp_min(torch.finfo(flow.dtype).tiny), flow.diagonal()
        kept = stay / margin
        gain = (stay + stay[:, None] + 2 * flow) / (margin + margin[:, None]) - kept - kept[:, None]
        gain.masked_fill_(~(alive & alive[:, None]), -float("inf")).fill_diagonal_(-float("inf"))
        a, b = sorted(divmod(int(gain.argmax()), len(flow)))
        flow[a] += flow[b]
        flow[:, a] += flow[:, b]
        flow[b], flow[:, b], alive[b] = 0.0, 0.0, False
        group[group == b] = a
    return torch.unique(group, return_inverse=True)[1]


def _row_losses(rows: Tensor, a: int, compression: float = 0.0) -> Tensor:
    """What ``I(row; column) - compression H(row)`` loses when row a joins each other one, (m,); infinite at a."""
    both, margin = rows[a] + rows, rows.sum(dim=1)
    terms = xlogy(rows, rows).sum(dim=1)
    loss = terms[a] + terms - xlogy(both, both).sum(dim=1)
    alone, joined = xlogy(margin, margin), xlogy(margin[a] + margin, margin[a] + margin)
    loss -= (1 - compression) * (alone[a] + alone - joined)
    loss[a] = float("inf")
    return loss


def _redraw(flow: Tensor, group: Tensor, k: int, compression: float = 0.0) -> Tensor:
    """Take single clusters out and put each where least information is lost, until none moves."""
    group = group.clone()
    size = torch.bincount(group, minlength=k).tolist()
    # flow from every cluster to every group, and between groups; the last group is the one that was taken out
    outward = torch.cat([flow @ one_hot(group, k).to(flow.dtype), flow.new_zeros(len(flow), 1)], dim=1)
    between = group_flow(flow, group, k + 1)
    for _ in range(SWEEPS):
        moved = False
        for a in range(len(group)):
            home = int(group[a])
            if size[home] == 1:  # a group never becomes empty
                continue
            _move(flow, outward, between, a, home, k)
            losses = merge_losses(between.clamp_min(0.0), k, compression)[:k]  # rounding may leave -1e-18
            best = int(losses.argmin())
            if losses[home] <= losses[best] + 1e-12:
                best = home
            _move(flow, outward, between, a, k, best)
            group[a] = best
            size[home] -= 1
            size[best] += 1
            moved |= best != home
        if not moved:
            break
    return group


def _move(flow: Tensor, outward: Tensor, between: Tensor, a: int, source: int, target: int) -> None:
    """Cluster a changes its group: both tables of flows follow, in place."""
    for g, sign in ((source, -1.0), (target, 1.0)):
        # row and column g change by the flow v of the cluster, their crossing by 2 v_g and the flow within the cluster
        between[g] += sign * outward[a]
        between[:, g] += sign * outward[a]
        between[g, g] += flow[a, a]
        outward[:, g] += sign * flow[:, a]


def merge_losses(flow: Tensor, a: int, compression: float = 0.0) -> Tensor:
    """What :func:`mutual_information` loses by merging cluster a with each other one, (m,); infinite at a."""
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
    loss -= (2 - compression) * (alone[a] + alone - xlogy(both, both))
    loss[a] = float("inf")
    return loss
