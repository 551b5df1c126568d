"""Consensus of several clusterings by the flow of a random walk (layer 1).

Independent classifiers fail in different places. Where all of them agree lie small, pure cells; which cells belong
together is read from how often a step of the walk on the positive pairs leads from one to the other. The cells are
joined to k groups that tell as much as possible about each other (:mod:`subspan.information`): by greedy merging
(Slonim and Tishby, 1999) and by drawing single cells and putting them where least is lost (Slonim, Friedman and Tishby,
2002), from several beginnings. :func:`consensus` gives equal sizes up where that lets far fewer steps leave their
group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.special import xlogy

from subspan._validation import iter_slices
from subspan.information import (
    BLOCK,
    UNEVEN,
    are_groups,
    cluster_flow,
    group_flow,
    joining_gains,
    label_flow,
    label_information,
    mutual_information,
    normalised_association,
)
from subspan.pairs import Pairs

CELLS_PER_CLUSTER = (3, 5, 10)  # resolutions that are tried,
MAX_CELLS = 200  # but only the coarsest beyond so many cells
MERGES = 3  # kept of each resolution
RANDOM_BEGINNINGS = 8
SWEEPS = 30
SIDE_BY_SIDE = 4_000_000  # entries of flows that are worked on at once
TRIED = 0.5  # compression that is tried against none; UNEVEN is used if it does better:
CUT = 0.8  # if the normalised cut of its groups is below this share of the other


class Consensus(NamedTuple):
    """Labels (c, n), the best first, and the compression with which they were found."""

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
        At most ``limit`` distinct labels by falling :func:`~subspan.information.label_information`, of all
        resolutions.
    """
    cells = []
    for count in cell_counts(k):
        p = agreement_cells(log_p, count)
        cells.append((p.argmax(dim=1), cluster_flow(p, pairs).cpu()))
    found = _join(cells, pairs, k, gen, compression or 0.0)
    if compression is None and k > 1:
        tried = _join(cells, pairs, k, gen, TRIED)
        cuts = [1 - normalised_association(label_flow(labels[0], pairs, k)) for labels in (found, tried)]
        if cuts[1] < CUT * cuts[0]:
            uneven = _join(cells, pairs, k, gen, UNEVEN)
            if are_groups(uneven[0], k):
                found, compression = uneven, UNEVEN
    return Consensus(found[:limit], compression or 0.0)


def cell_counts(k: int) -> list[int]:
    """Numbers of cells that are joined to k groups, ascending: 3, 5 and 10 for each, but at most 200 or 3 k."""
    return sorted({min(r * k, max(min(CELLS_PER_CLUSTER) * k, MAX_CELLS)) for r in CELLS_PER_CLUSTER})


def _join(cells: list[tuple[Tensor, Tensor]], pairs: Pairs, k: int, gen: torch.Generator, compression: float) -> Tensor:
    """Distinct labels (c, n), the best first, from cells (n,) of several resolutions and the flow between them."""
    found: list[tuple[float, Tensor]] = []
    for cell, flow in cells:
        for group in merge_clusters(flow, k, gen, compression)[:MERGES]:
            labels = group.to(cell.device)[cell]
            if not any(torch.equal(labels, other) for _, other in found):
                found.append((label_information(labels, pairs, k, compression), labels))
    found.sort(key=lambda entry: -entry[0])
    good = [labels for _, labels in found if compression == 0 or are_groups(labels, k)]
    return torch.stack(good or [labels for _, labels in found])


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


def merge_clusters(
    flow: Tensor, k: int, gen: torch.Generator, compression: float = 0.0, random: int = RANDOM_BEGINNINGS
) -> list[Tensor]:
    """Ways to join m clusters to k groups with the largest :func:`~subspan.information.mutual_information`.

    Parameters
    ----------
    flow : Tensor of shape (m, m)
        Joint distribution, see :func:`~subspan.information.cluster_flow`.
    k : int
    gen : torch.Generator
        For the random beginnings.
    compression : float
    random : int
        Number of random beginnings, besides greedy ones.

    Returns
    -------
    list of Tensors of shape (m,), int64
        Group of each cluster; the best first, each with another mutual information.
    """
    return merge_each([flow], k, gen, compression, random)[0]


def merge_each(
    flows: Sequence[Tensor], k: int, gen: torch.Generator, compression: float = 0.0, random: int = RANDOM_BEGINNINGS
) -> list[list[Tensor]]:
    """:func:`merge_clusters` of several flows; those with equally many clusters go on side by side, which is faster."""
    flows = [flow.double() for flow in flows]
    beginnings = [_beginnings(flow, k, gen, compression, random) for flow in flows]
    merged: dict[int, list[Tensor]] = {}
    for m in {len(flow) for flow in flows}:
        same = [i for i, flow in enumerate(flows) if len(flow) == m]
        width = max(1, SIDE_BY_SIDE // m**2)
        for part in (same[start : start + width] for start in range(0, len(same), width)):
            drawn = _redraw(
                torch.stack([flows[i] for i in part]), torch.stack([beginnings[i] for i in part]), k, compression
            )
            merged |= {i: _best_first(flows[i], groups, k, compression) for i, groups in zip(part, drawn, strict=True)}
    return [merged[i] for i in range(len(flows))]


def _beginnings(flow: Tensor, k: int, gen: torch.Generator, compression: float, random: int) -> Tensor:
    """Groups (b, m) of the m clusters, greedy ones and random ones; each its own where there are not more than k."""
    m = len(flow)
    if m <= k:
        return torch.arange(m)[None]
    found = [_merge_greedily(flow, k, compression)]
    if compression > 0:
        found.append(_merge_by_association(flow, k))
    return torch.stack(found + [torch.arange(m)[torch.randperm(m, generator=gen)] % k for _ in range(random)])


def _best_first(flow: Tensor, groups: Tensor, k: int, compression: float) -> list[Tensor]:
    """Groups (b, m) by falling information, one of each value."""
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


def _redraw(flows: Tensor, groups: Tensor, k: int, compression: float = 0.0) -> Tensor:
    """Take single clusters out and put each where most information is won, until none moves.

    Parameters
    ----------
    flows : Tensor of shape (d, m, m)
    groups : Tensor of shape (d, b, m)
        Several beginnings for each flow, which go on side by side.

    Returns
    -------
    Tensor of shape (d, b, m)
    """
    member = one_hot(groups, k).to(flows.dtype)
    outward = (flows[:, None] @ member).flatten(0, 1)  # (d b, m, k), from every cluster to every group
    member, flow = member.flatten(0, 1), torch.arange(len(flows)).repeat_interleave(groups.shape[1])
    between = member.transpose(1, 2) @ outward  # (d b, k, k)
    size, inner = member.sum(dim=1), flows.diagonal(dim1=1, dim2=2)[flow]  # from every cluster to itself
    groups, shape = groups.flatten(0, 1).clone(), groups.shape
    settled, live = groups.clone(), torch.arange(len(flow))
    for _ in range(SWEEPS):
        every, moved = torch.arange(len(live)), torch.zeros(len(live), dtype=torch.bool)
        for a in range(flows.shape[1]):
            home, own = groups[:, a], inner[:, a]
            to = outward[:, a].clone()
            to[every, home] -= own
            rest = between.clone()
            _add(rest, every, home, -to, -own)
            gain = joining_gains(rest.clamp_min(0.0), to.clamp_min(0.0), own[:, None], compression)
            best = gain.argmax(dim=1)
            move = (size[every, home] > 1) & (gain[every, best] > gain[every, home] + 1e-12)  # no group becomes empty
            b = move.nonzero()[:, 0]
            if not len(b):
                continue
            moved[b], target = True, best[b]
            between[b] = rest[b]
            _add(between, b, target, to[b], own[b])
            outward[b, :, home[b]] -= flows[flow[b], a]
            outward[b, :, target] += flows[flow[b], a]
            size[b, home[b]] -= 1
            size[b, target] += 1
            groups[b, a] = target
        settled[live] = groups
        if not moved.any():
            break
        live, groups, outward, between, size, inner, flow = (
            state[moved] for state in (live, groups, outward, between, size, inner, flow)
        )
    return settled.view(shape)


def _add(between: Tensor, b: Tensor, group: Tensor, to: Tensor, inner: Tensor) -> None:
    """Flow between groups (B, k, k) when a cluster joins one ``group`` in each of the beginnings b, in place."""
    between[b, group] += to
    between[b, :, group] += to
    between[b, group, group] += inner
