"""The stages of Algorithm 1 (Zhang et al., ICML 2019) as phases of the training loop.

Each stage is one class and each of its loss terms carries its equation number. The two collaborators are the
self-expression of the codes, which yields ``A_s`` (Eq. 4), and the classifier, which yields ``A_c`` (Eq. 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from subspan._random import generator
from subspan._validation import iter_slices
from subspan.affinity import classifier_affinity, negative_mask, normalise_scores, subspace_affinity
from subspan.heads import Heads, live_clusters
from subspan.losses import L_neg, balance_loss
from subspan.merging import Consensus, are_groups, consensus, label_information
from subspan.methods._ncsc_setting import Setting
from subspan.pairs import Pairs
from subspan.proposals import propose
from subspan.spectral import spectral_labels
from subspan.training import Phase, Record, settled

ANCHORS = 400  # samples per step of a classifier stage, at least,
ANCHORS_PER_CLUSTER = 5  # and at least so many for each cluster of a start, on average
STEPS = (50, 175)  # steps per epoch of a classifier stage, at least and at most
HEAD_BATCH = 5000
SIZED = 2  # of the candidates learn the best labels with the sizes that these have,
SURER = 0.001  # and are chosen if they tell more by this share than all with equal sizes
SPECTRAL = 100_000  # samples up to which spectral clustering proposes labels, where they are not searched for


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


class ClassifierStage(Phase):
    """Stage 2: classifiers on Eq. 5, the encoder at rest. In Eq. 7 only ``A_s`` learns, so Eq. 6 is what is left.

    Every epoch finds the positive pairs anew; a step draws samples and, for each, a partner at the end of a random walk
    on the pairs.

    Parameters
    ----------
    heads : Heads
        R classifiers.
    starts : ClassifierStage, optional
        An earlier stage of several starts. Each classifier learns one of the best labels on which they agree in the
        first epoch, and from then on partners are direct neighbours.
    search : bool
        Labels to learn first are searched for on the graph of pairs; those on which ``starts`` agree, if there are any,
        take part.
    chosen : Heads, optional
        Becomes the classifier with the lowest objective at the end. With ``search``, the one whose labels hold most
        :func:`~subspan.merging.label_information`, before Eq. 5 and after it, as they were searched for. If one of them
        held more when it had just learned the labels it was given, it becomes that one.

    Notes
    -----
    With ``search``, and where sizes may differ, the last classifiers learn the best labels once more and expect their
    sizes instead of equal ones. Equal sizes are the safer guess: they are given up for clearly more information only.
    """

    def __init__(
        self,
        setting: Setting,
        heads: Heads,
        *,
        name: str,
        epochs: int,
        rate: float,
        starts: ClassifierStage | None = None,
        search: bool = False,
        chosen: Heads | None = None,
    ):
        super().__init__(name, epochs, max(ANCHORS, ANCHORS_PER_CLUSTER * heads.n_clusters), *STEPS)
        self.setting, self.heads, self.rate, self.starts, self.chosen = setting, heads, rate, starts, chosen
        self.search = search
        self.pairs: Pairs | None = None
        self.targets: Tensor | None = None  # labels to learn first, (R, n),
        self.compression = 0.0  # with which they were found,
        self.told: list[float] = []  # and what they tell about neighbours, if that is what they were searched for by
        self.sized = 0  # so many classifiers, the last ones, expect the sizes of their targets

    def start(self) -> None:
        if not len(self.setting.codes):
            self.setting.encode_all()
        self.propose_once()
        self._expect_sizes()

    def propose_once(self) -> None:
        """Find the labels to learn first, if there are to be any and they are not found yet."""
        if self.targets is not None or not (self.search or self.starts is not None):
            return
        count = self.heads.n_starts
        found, self.compression = self.proposals(count)
        order = torch.arange(count)
        if self.compression > 0:
            self.sized = count
        elif self.search and self.setting.compression is None and count > SIZED:
            self.sized = SIZED
            order = torch.cat([order[:-SIZED], order[:SIZED]])
        self.targets, self.told = found[order % len(found)], [0.0] * count
        if self.search:
            pairs, k = self.setting.positives(self.setting.u[1], generator(0)), self.setting.n_clusters
            self.told = [label_information(labels, pairs, k, self.compression) for labels in self.targets]

    def _expect_sizes(self) -> None:
        """Sizes that the balance term expects of k clusters: those given, those of the targets, or equal ones."""
        k = self.heads.n_clusters
        if k != self.setting.n_clusters:
            return
        if self.setting.prior is not None:
            self.heads.prior.copy_(self.setting.prior / self.setting.prior.sum())
        elif self.targets is not None and self.sized:
            targets = self.targets[-self.sized :]
            count = torch.stack([torch.bincount(labels, minlength=k) for labels in targets]).clamp_min(1)
            self.heads.prior[-self.sized :] = count / count.sum(dim=1, keepdim=True)

    def reset(self, gen: torch.Generator, restart: int) -> None:
        self.heads.reset_parameters(gen)
        self.heads.standardise(self.setting.center, self.setting.codes.std(dim=0))

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.heads.parameters()), "lr": self.rate}]

    def learning_rate_factor(self, progress: float) -> float:
        return one_cycle(progress)

    def batches(self, n_samples: int, gen: torch.Generator) -> Sequence[Any]:
        batches = super().batches(n_samples, gen)
        u = _anneal(self.setting.u, 1.0 if self.sure else self.epoch / self.epochs / 0.7)
        self.pairs = self.setting.positives(u, gen)
        return batches

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        assert self.pairs is not None
        batch = batch.to(self.setting.device)
        if self.targets is not None and self.epoch == 0:
            log_p = self.heads(self.setting.changed_codes(batch, gen)).log_softmax(dim=-1)
            targets = self.targets[:, batch].flatten()
            yield {"distillation": nll_loss(log_p.flatten(0, 1), targets) * len(log_p)}
            return
        steps = 1 if self.sure else max(1, math.ceil(self.setting.walk * (1 - progress / 0.9)))
        partner = self.pairs.walk(batch, steps, gen)
        z = torch.cat([self.setting.changed_codes(batch, gen), self.setting.codes[partner]])
        log_p = self.heads(z).log_softmax(dim=-1)
        log_p_i, log_p_j = log_p.chunk(2, dim=1)
        terms = {"L_pos": self.setting.pair_loss(log_p_i, log_p_j).sum()}  # Eq. 6, summed over starts
        weights = self.balance(progress)
        if max(weights) > 0:
            terms["balance"] = (log_p.new_tensor(weights) * balance_loss(log_p, self.heads.prior)).sum()
        yield terms

    def balance(self, progress: float) -> list[float]:
        """Weight of the balance term, of each start or of all."""
        return [_anneal(self.setting.balance, progress)]

    @property
    def sure(self) -> bool:
        """Whether the classifiers know clusters already: partners are then direct neighbours by the last threshold."""
        return self.targets is not None

    def scores(self) -> Tensor:
        """Log-probabilities of all samples, (R, n, k)."""
        return head_scores(self.heads, self.setting.codes)

    def objective(self, log_p: Tensor) -> Tensor:
        """Full-data, label-free value of each start, (R,): Eq. 6 over one step of the walk, and the balance.

        The balance has the weight that training ends with (1 if there is none): what is chosen is what is minimised.
        """
        assert self.pairs is not None
        rows, weight = self.pairs.rows(), self.pairs.normalised()
        total = log_p.new_zeros(len(log_p))
        for part in torch.arange(len(rows), device=rows.device).split(200_000):
            i, j = log_p[:, rows[part]], log_p[:, self.pairs.partners[part]]
            total += (-torch.logsumexp(i + j, dim=-1) * weight[part]).sum(dim=-1)
        active = max(int((self.pairs.counts() > 0).sum()), 1)
        return total / active + (self.setting.balance[1] or 1.0) * balance_loss(log_p, self.heads.prior)

    def monitor(self) -> Record:
        assert self.pairs is not None
        log_p = self.scores()
        objective = self.objective(log_p)
        worth = [] if self.targets is None else [self.worth(one) for one in log_p]
        if self.chosen is not None and self.epoch == 0 and worth:
            self.chosen.take(self.heads, self.choice(worth))
        self.best = self.choice(worth) if self.search else int(objective.argmin())
        record: Record = {
            "positives_per_sample": len(self.pairs.partners) / self.pairs.n,
            "objective": float(objective[self.best]),
            "objective_worst": float(objective.max()),
            "start": self.best,
            "live_clusters": live_clusters(log_p[self.best]),
        }
        if worth:
            record["information"] = worth[self.best][1]
        return record

    def information(self, log_p: Tensor) -> float:
        """Mutual information of the labels of a sample and of its neighbour, from scores (n, k), less compression."""
        assert self.pairs is not None
        return label_information(log_p.argmax(dim=1), self.pairs, self.heads.n_clusters, self.compression)

    def worth(self, log_p: Tensor) -> tuple[bool, float]:
        """What labels are chosen by: whether they are k groups, where sizes may differ, and :meth:`information`."""
        groups = self.compression == 0 or are_groups(log_p.argmax(dim=1), self.heads.n_clusters)
        return groups, self.information(log_p)

    def choice(self, worth: list[tuple[bool, float]]) -> int:
        """The classifier whose labels hold most information, those that it learned first and those that it has now.

        The first say which of several divisions is best without the noise of training, the second what the codes make
        of it. One that expects sizes of its own must be better by a share of this than one that expects equal ones.
        """
        even = len(worth) - self.sized
        total = [
            (groups, (told + value) * (1 - SURER if 0 < even <= r else 1.0))
            for r, ((groups, value), told) in enumerate(zip(worth, self.told, strict=True))
        ]
        return total.index(max(total))

    def collapsed(self, record: Record) -> bool:
        k = self.heads.n_clusters
        return k > 1 and self.epoch > 0 and int(record["live_clusters"]) <= max(1, k // 2)

    def finish(self) -> None:
        if self.chosen is None:
            return
        if self.targets is not None:
            before = self.worth(head_scores(self.chosen, self.setting.codes)[0])
            if self.worth(self.scores()[self.best]) < before:
                return  # training fitted wrong pairs: the best of the first epoch stays
        self.chosen.take(self.heads, self.best)

    def proposals(self, count: int) -> Consensus:
        """At most ``count`` labels to learn from, from the starts and from the graph; and the compression."""
        gen, k = generator(0), self.setting.n_clusters
        pairs = self.setting.positives(self.setting.u[1], gen)
        if self.search:
            known = () if self.starts is None else consensus(self.starts.scores(), pairs, k, gen, count).labels
            return propose(pairs, k, gen, count, self.setting.compression, list(known))
        assert self.starts is not None
        most = max(1, count - 1)
        found, compression = consensus(self.starts.scores(), pairs, k, gen, most, self.setting.compression)
        if count > 1 and pairs.n <= SPECTRAL:
            labels = torch.from_numpy(spectral_labels(pairs.symmetric(), k, seed=0))
            found = torch.cat([found, labels[None].to(found.device)])
        return Consensus(found, compression)


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
        A_s = subspace_affinity(s.layer.coefficients(Z, number))  # Eq. 4
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


@torch.no_grad()
def head_scores(heads: Heads, codes: Tensor) -> Tensor:
    """Log-probabilities (R, n, k) of codes (n, d), batch normalisation in evaluation mode."""
    training = heads.training
    heads.eval()
    log_p = codes.new_empty(heads.n_starts, len(codes), heads.n_clusters)
    for rows in iter_slices(len(codes), HEAD_BATCH):
        log_p[:, rows] = heads(codes[rows]).log_softmax(dim=-1)
    heads.train(training)
    return log_p


def effective_rank(Z: Tensor) -> float:
    """Exponential of the entropy of the normalised spectrum of ``Z^T Z`` (Roy and Vetterli, 2007)."""
    Z64 = Z.double()
    share = torch.linalg.eigvalsh(Z64.T @ Z64).clamp_min(0.0)
    share = share / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
    return float(torch.exp(-torch.special.xlogy(share, share).sum()))


def one_cycle(progress: float) -> float:
    """Linear warm-up over the first 30 %, then a cosine to zero."""
    if progress < 0.3:
        return 0.04 + 0.96 * progress / 0.3
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) + 1e-4


def _anneal(ends: tuple[float, float], progress: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * min(1.0, max(0.0, progress))


def _groups(*pairs) -> list[dict]:
    groups = [{"params": list(parameters), "lr": rate} for parameters, rate in pairs]
    return [group for group in groups if group["params"]]
