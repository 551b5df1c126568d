"""Stages 1 and 3 of Algorithm 1 (Zhang et al., ICML 2019) as phases of the training loop.

Each stage is one class and each of its loss terms carries its equation number. The two collaborators are the
self-expression of the codes, which yields ``A_s`` (Eq. 4), and the classifier, which yields ``A_c`` (Eq. 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from subspan.affinity import classifier_affinity, negative_mask, normalise_scores, subspace_affinity
from subspan.heads import Heads, live_clusters
from subspan.losses import L_neg, balance_loss
from subspan.methods._ncsc_classifiers import ANCHORS, head_scores
from subspan.methods._ncsc_setting import Setting
from subspan.training import Phase, Record, settled


class SubspaceStage(Phase):
    """Stage 1: auto-encoder and ``C`` on Eq. 9. All terms are divided by the batch size.

    The closed form is the minimiser of Eq. 9 over C, so only the auto-encoder is trained with it; learned
    coefficients have their own rate.
    """

    def __init__(self, setting: Setting, *, epochs: int, rate_encoder: float, rate_c: float):
        super().__init__("subspace", epochs, setting.batch_size)
        self.setting, self.rate_encoder, self.rate_c = setting, rate_encoder, rate_c

    def start(self) -> None:
        self.setting.encode_all()

    def parameter_groups(self) -> list[dict]:
        return _groups(
            (self.setting.encoder.parameters(), self.rate_encoder), (self.setting.layer.parameters(), self.rate_c)
        )

    def batches(self, n_samples: int, gen: torch.Generator) -> Sequence[Any]:
        return list(enumerate(self.setting.batches(gen)))

    def losses(self, batch, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        number, index = batch
        x = self.setting.samples.batch(index).to(self.setting.device)
        z = self.setting.encoder.encode(x)
        yield eq9_terms(self.setting, x, z, self.setting.normalise(z), number)

    def monitor(self) -> Record:
        self.setting.encode_all()
        return {"effective_rank": effective_rank(self.setting.normalise(self.setting.codes))}


class CollaborationStage(Phase):
    """Stage 3: everything on Eq. 8. ``A_s`` teaches the classifier (Eq. 6), ``A_c`` the self-expression (Eq. 7)."""

    def __init__(
        self,
        setting: Setting,
        head: Heads,
        *,
        epochs: int,
        rate_encoder: float,
        rate_head: float,
        rate_c: float,
        tolerance: float,
    ):
        super().__init__("collaboration", epochs, setting.batch_size)
        self.setting, self.head, self.tolerance = setting, head, tolerance
        self.rate_encoder, self.rate_head, self.rate_c = rate_encoder, rate_head, rate_c
        self.labels: Tensor | None = None
        self.counts = (0, 0)  # positive and negative pairs that this epoch selected

    def start(self) -> None:
        self.setting.encode_all()
        self.head.eval()  # batches are not random samples: statistics of batch normalisation stay those of stage 2
        self.labels = head_scores(self.head, self.setting.codes)[0].argmax(dim=1)

    def parameter_groups(self) -> list[dict]:
        return _groups(
            (self.setting.encoder.parameters(), self.rate_encoder),
            (self.head.parameters(), self.rate_head),
            (self.setting.layer.parameters(), self.rate_c),
        )

    def batches(self, n_samples: int, gen: torch.Generator) -> Sequence[Any]:
        self.counts = (0, 0)
        return list(enumerate(self.setting.batches(gen)))

    def losses(self, batch, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        number, index = batch
        s = self.setting
        x = s.samples.batch(index).to(s.device)
        z = s.encoder.encode(x)
        Z = s.normalise(z)
        terms = eq9_terms(s, x, z, Z, number)  # Eq. 9
        A_s = subspace_affinity(s.layer.coefficients(Z, number), positive=bool(s.positive))  # Eq. 4
        log_p = self.head(z).log_softmax(dim=-1)[0]
        i, j, weight = find_pairs(A_s, s.u[1], s.most_pairs())
        # index_select, not indexing: the gradient of the latter is summed by threads in any order
        log_p_i, log_p_j = log_p.index_select(0, i), log_p.index_select(0, j)
        terms["L_pos"] = s.lambda_cl * s.pair_loss(log_p_i, log_p_j, weight)  # Eq. 6
        A_c = classifier_affinity(normalise_scores(log_p.detach().exp()))  # Eq. 1
        terms["L_neg"] = s.lambda_cl * L_neg(A_c, A_s, s.l)  # Eq. 7, alpha = #pos / #neg by the means
        self.counts = (self.counts[0] + len(i), self.counts[1] + int(negative_mask(A_c, s.l).sum()))
        if s.balance[1] > 0:
            rest = torch.randint(s.samples.n, (ANCHORS,), generator=gen).to(s.device)
            log_p_rest = self.head(s.codes[rest]).log_softmax(dim=-1)[0]
            terms["balance"] = s.lambda_cl * s.balance[1] * balance_loss(log_p_rest, self.head.prior[0])
        yield terms

    def monitor(self) -> Record:
        self.setting.encode_all()
        log_p = head_scores(self.head, self.setting.codes)[0]
        labels, before = log_p.argmax(dim=1), self.labels
        self.labels = labels
        positive, negative = self.counts
        return {
            "positives_per_sample": positive / len(labels),
            "negatives_per_sample": negative / len(labels),
            "changed": 1.0 if before is None else float((labels != before).float().mean()),
            "live_clusters": live_clusters(log_p),
            "effective_rank": effective_rank(self.setting.normalise(self.setting.codes)),
        }

    def stop(self, records: list[Record]) -> str | None:
        return settled(records[-1], self.tolerance)

    def collapsed(self, record: Record) -> bool:
        return self.setting.n_clusters > 1 and int(record["live_clusters"]) <= self.setting.n_clusters // 2


def eq9_terms(setting: Setting, x: Tensor, z: Tensor, Z: Tensor, number: int) -> dict[str, Tensor]:
    """The three terms of Eq. 9 per sample, for samples x, codes z and normalised codes Z; ``lambda_1 = 2 / rho``."""
    terms = {}
    if setting.encoder.trainable:
        terms["reconstruction"] = (x - setting.encoder.decode(z)).square().sum() / (2 * len(x))
    norm, residual = setting.layer.terms(Z, number)
    terms["C_norm"] = norm / len(x)
    terms["self_expression"] = residual / setting.layer.ridge(Z).detach() / len(x)
    return terms


def find_pairs(A_s: Tensor, u: float, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Positive pairs of one batch, at most ``limit`` of a sample, with weights that give every sample the same say."""
    with torch.no_grad():
        top, partner = A_s.detach().clone().fill_diagonal_(0.0).topk(min(limit, len(A_s) - 1), dim=1)
        i, column = (top > u).nonzero(as_tuple=True)
        weight, j = top[i, column], partner[i, column]
        return i, j, weight / weight.new_zeros(len(A_s)).index_add_(0, i, weight)[i]


def effective_rank(Z: Tensor) -> float:
    """Exponential of the entropy of the normalised spectrum of ``Z^T Z`` (Roy and Vetterli, 2007)."""
    Z64 = Z.double()
    share = torch.linalg.eigvalsh(Z64.T @ Z64).clamp_min(0.0)
    share = share / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def _groups(*pairs) -> list[dict]:
    groups = [{"params": list(parameters), "lr": rate} for parameters, rate in pairs]
    return [group for group in groups if group["params"]]
