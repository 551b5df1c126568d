"""Flows between groups and pairs of samples, made for tests, and the information of a flow by its definition."""

from __future__ import annotations

import torch

from subspan.pairs import Pairs


def gen(seed):
    return torch.Generator().manual_seed(seed)


def random_flow(m, seed, zeros=False):
    flow = torch.rand(m, m, generator=gen(seed), dtype=torch.float64) ** 3
    if zeros:
        flow *= torch.rand(m, m, generator=gen(seed + 1)) < 0.5
    flow = flow + flow.T
    return flow / flow.sum()


def brute_information(flow, compression=0.0):
    """I(T; T') - compression H(T), by a double sum."""
    margin_i, margin_j = flow.sum(1), flow.sum(0)
    total = compression * float(sum(p * p.log() for p in margin_i if p > 0))
    for a in range(len(flow)):
        for b in range(len(flow)):
            if flow[a, b] > 0:
                total += float(flow[a, b] * (flow[a, b] / (margin_i[a] * margin_j[b])).log())
    return total


def neighbours(y, m, seed):
    """Pairs of every sample with m others of its class, all with weight one."""
    i = torch.arange(len(y)).repeat_interleave(m)
    members = [(y == y[a]).nonzero().ravel() for a in range(len(y))]
    j = torch.cat([group[torch.randint(len(group), (m,), generator=gen(seed + a))] for a, group in enumerate(members)])
    return Pairs.from_entries(i, j, torch.ones(len(i)), len(y))


def chain(sizes, across, seed):
    """Labels of classes of these sizes, and pairs of which a share ``across`` leads anywhere."""
    y = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    pairs = neighbours(y, 20, seed)
    leave = torch.rand(len(pairs.partners), generator=gen(seed)) < across
    anywhere = torch.randint(len(y), (len(pairs.partners),), generator=gen(seed + 1))
    return y, Pairs(pairs.offsets, torch.where(leave, anywhere, pairs.partners), pairs.weights)
