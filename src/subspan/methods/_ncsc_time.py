"""How long NCSC will take, roughly, before it is trained: a few steps on copies are timed and multiplied."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import nn

from subspan._random import generator
from subspan.centroids import kmeans_cells
from subspan.merging import cell_counts, merge_each
from subspan.methods._ncsc_classifiers import ClassifierStage
from subspan.methods._ncsc_global import GlobalSetting
from subspan.methods._ncsc_setting import Setting
from subspan.methods._ncsc_stages import CollaborationStage
from subspan.neighbours import EXACT
from subspan.pretraining import FIXED, Reconstruction
from subspan.proposals import DIMENSIONS, ITERATIONS, MILD, MOST, RANDOM_BEGINNINGS, count_divisions
from subspan.self_expression import ClosedFormSelfExpression
from subspan.training import Phase

SOME = 256  # samples that are timed
BATCH = 1000  # of self-expression that is timed
SEARCH = 2.5  # a search for the largest products, compared with the products alone: both signs, and the sorting
INVERTED = 64  # over sqrt(n): what an inverted file takes, with its making, compared with all products
GROUPS, JOIN = 40, 1.5  # joining is timed with so many groups; cells of data take longer, and some are joined again
JOINT = 4.0  # a step of Eq. 8 compared with the solution for C alone


def expected_seconds(setting: Setting, stages: Iterable[Phase]) -> float:
    """Expected duration of ``fit`` in seconds, right within a factor of about two; takes a second or two itself.

    Parameters
    ----------
    setting : Setting
    stages : iterable of Phase
        Of :func:`subspan.methods._ncsc_plan.algorithm_1`; what is timed is copied.
    """
    n, encoding = setting.samples.n, _encoding(setting)
    if isinstance(setting, GlobalSetting):
        C, total = 0.0, _search(setting)
    else:
        C, total = _self_expression(setting) * n / min(n, setting.batch_size), 0.0
    total += encoding * n
    for stage in stages:
        if isinstance(stage, Reconstruction):
            total += stage.epochs * stage.steps(n) * stage.batch_size * _reconstruction(setting)
        elif isinstance(stage, ClassifierStage):
            total += _proposals(setting) if stage.search else 0.0
            total += stage.epochs * (_classifier(setting, stage, encoding) + C)
        elif isinstance(stage, CollaborationStage):
            total += stage.epochs * (encoding * n + JOINT * C)
    return total


def spoken(seconds: float) -> str:
    """A rough duration in words: "40 s", "3 min"."""
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _timed(function: Callable[[], object]) -> float:
    """Seconds of a call, the best of two, or of up to ten within a tenth of a second: the machine may pause."""
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < 10 and sum(seconds) < 0.1):
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _some(setting: Setting) -> torch.Tensor:
    return setting.samples.batch(slice(0, SOME)).to(setting.device)


def _encoding(setting: Setting) -> float:
    """Seconds per sample."""
    x, encoder = _some(setting), copy.deepcopy(setting.encoder)
    if isinstance(encoder, FIXED):
        encoder.fit_encode([x])  # to so few samples that it would count for more than it does in a fit
    with torch.no_grad():
        return _timed(lambda: encoder.encode(x)) / len(x)


def _reconstruction(setting: Setting) -> float:
    """Seconds per sample of a step of pre-training."""
    x, encoder = _some(setting), copy.deepcopy(setting.encoder)
    return _timed(lambda: encoder(x)[1].square().sum().backward()) / len(x)


def _classifier(setting: Setting, stage: ClassifierStage, encoding: float) -> float:
    """Seconds of an epoch of a classifier stage: its steps, and the scores of all samples after it."""
    heads, n = copy.deepcopy(stage.heads), setting.samples.n
    batch = min(stage.batch_size, n)
    z = torch.randn(2 * batch, setting.encoder.n_codes, generator=generator(0)).to(setting.device)
    step = _timed(lambda: heads(z).log_softmax(dim=-1).square().mean().backward())
    if setting.augmentation is not None:
        step += encoding * batch
    with torch.no_grad():
        scores = _timed(lambda: heads(z).log_softmax(dim=-1)) / len(z)
    return stage.steps(n) * step + n * scores


def _proposals(setting: Setting) -> float:
    """Seconds of :func:`subspan.proposals.propose`: k-means of each division, and joining its cells."""
    n, k, gen = setting.samples.n, setting.n_clusters, generator(0)
    cells = max(cell_counts(k))
    rows = torch.rand(min(BATCH, n), max(DIMENSIONS) * k, generator=gen).numpy()
    count = min(cells, len(rows))
    kmeans = _timed(lambda: kmeans_cells(rows, count, iterations=ITERATIONS, most=MOST, gen=gen)) * n / len(rows)
    few = min(k, GROUPS)
    group = torch.arange(max(cell_counts(few))) % few
    flow = (group[:, None] == group) + 0.1 * torch.rand(len(group), len(group), generator=gen, dtype=torch.float64)
    divisions, sizes = count_divisions(n, k), len(cell_counts(k))
    flows = [flow + flow.T] * (divisions // sizes)
    join = _timed(lambda: merge_each(flows, few, gen, MILD, RANDOM_BEGINNINGS))
    return divisions * kmeans + sizes * JOIN * join * (cells / len(group)) * (k / few)


def _search(setting: Setting) -> float:
    """Seconds of the search for neighbours: all inner products, or those that an inverted file looks at."""
    n = setting.samples.n
    rows = torch.randn(min(10 * BATCH, n), setting.encoder.n_codes, generator=generator(0)).to(setting.device)
    few = rows[:BATCH]
    product = _timed(lambda: few @ rows.T) / (len(few) * len(rows))
    return SEARCH * product * n * n * (1.0 if n <= EXACT or rows.is_cuda else INVERTED / math.sqrt(n))


def _self_expression(setting: Setting) -> float:
    """Seconds of the closed form of one batch."""
    size = min(BATCH, setting.samples.n)
    Z = nn.functional.normalize(torch.randn(size, setting.encoder.n_codes, generator=generator(0))).to(setting.device)
    seconds = _timed(lambda: ClosedFormSelfExpression(1.0).coefficients(Z))
    return seconds * (min(setting.batch_size, setting.samples.n) / size) ** 2
