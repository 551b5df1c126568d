"""How long NCSC will take, roughly, before it is trained: a few steps on copies are timed and multiplied."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from subspan._random import generator
from subspan.heads import Heads
from subspan.methods._ncsc_global import GlobalSetting
from subspan.methods._ncsc_setting import Setting
from subspan.methods._ncsc_stages import ANCHORS, ANCHORS_PER_CLUSTER, STEPS
from subspan.multiscale import MultiScaleScattering
from subspan.neighbours import EXACT
from subspan.scattering import ScatteringEncoder
from subspan.self_expression import ClosedFormSelfExpression

SOME = 256  # samples that are timed
BATCH = 1000  # of self-expression that is timed
SEARCH = 2.5  # a search for the largest products, compared with the products alone: both signs, and the sorting
INVERTED = 0.05  # share of the products that an inverted file looks at, with what it takes to build it
JOINT = 4.0  # a step of Eq. 8 compared with the solution for C alone


def expected_seconds(setting: Setting, heads: Mapping[str, Heads], epochs: Mapping[str, int]) -> float:
    """Expected duration of ``fit`` in seconds, right within a factor of about two; takes a second or two itself.

    Parameters
    ----------
    setting : Setting
    heads : mapping of str to Heads
        "starts" (if there are several) and "candidates"; they are copied.
    epochs : mapping of str to int
    """
    n, encoder = setting.samples.n, setting.encoder
    joint = epochs["collaboration"] if encoder.trainable or not isinstance(setting, GlobalSetting) else 0
    total = _encoding(setting) * n * (1 + joint)
    if encoder.trainable:
        total += _reconstruction(setting) * max(n, 50 * SOME) * epochs["autoencoder"]
    for name, stage in (("starts", "starts"), ("candidates", "classifier")):
        if name in heads:
            total += _classifier(setting, heads[name]) * epochs[stage]
    if isinstance(setting, GlobalSetting):
        return total + _search(setting)
    rounds = epochs["starts"] + epochs["classifier"] + JOINT * joint
    return total + _self_expression(setting) * n / min(n, setting.batch_size) * rounds


def spoken(seconds: float) -> str:
    """A rough duration in words: "40 s", "3 min"."""
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _timed(function: Callable[[], object]) -> float:
    """Seconds of a call, the better of two: the first one also warms up."""
    seconds = []
    for _ in range(2):
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
    if isinstance(encoder, ScatteringEncoder | MultiScaleScattering):
        return _timed(lambda: encoder.fit_encode([x])) / len(x)
    with torch.no_grad():
        return _timed(lambda: encoder.encode(x)) / len(x)


def _reconstruction(setting: Setting) -> float:
    """Seconds per sample of a step of pre-training."""
    x, encoder = _some(setting), copy.deepcopy(setting.encoder)
    return _timed(lambda: encoder(x)[1].square().sum().backward()) / len(x)


def _classifier(setting: Setting, heads: Heads) -> float:
    """Seconds of an epoch of a classifier stage: its steps, and the scores of all samples after it."""
    heads = copy.deepcopy(heads)
    batch = max(ANCHORS, ANCHORS_PER_CLUSTER * heads.n_clusters)
    n = setting.samples.n
    steps = min(max(round(n / batch), STEPS[0]), STEPS[1])
    z = torch.randn(min(2 * batch, 2 * n), setting.encoder.n_codes, generator=generator(0)).to(setting.device)
    step = _timed(lambda: heads(z).log_softmax(dim=-1).square().mean().backward())
    if setting.augmentation is not None:
        step += _encoding(setting) * min(batch, n)
    with torch.no_grad():
        scores = _timed(lambda: heads(z).log_softmax(dim=-1)) / len(z)
    return steps * step + n * scores


def _search(setting: Setting) -> float:
    """Seconds of the search for neighbours: all inner products, or those that an inverted file looks at."""
    n = setting.samples.n
    rows = torch.randn(min(10 * BATCH, n), setting.encoder.n_codes, generator=generator(0)).to(setting.device)
    few = rows[:BATCH]
    product = _timed(lambda: few @ rows.T) / (len(few) * len(rows))
    return SEARCH * product * n * n * (1.0 if n <= EXACT else INVERTED)


def _self_expression(setting: Setting) -> float:
    """Seconds of the closed form of one batch."""
    size = min(BATCH, setting.samples.n)
    Z = nn.functional.normalize(torch.randn(size, setting.encoder.n_codes, generator=generator(0))).to(setting.device)
    seconds = _timed(lambda: ClosedFormSelfExpression(1.0).coefficients(Z))
    return seconds * (min(setting.batch_size, setting.samples.n) / size) ** 2
