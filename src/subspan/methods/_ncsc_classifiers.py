"""Stage 2 of Algorithm 1 (Zhang et al., ICML 2019): classifiers learn from pairs that A_s is sure of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from subspan._random import generator
from subspan._validation import iter_slices
from subspan.heads import Heads, live_clusters, live_labels
from subspan.information import EFFECTIVE, UNEVEN, are_groups, flow_information, label_flow
from subspan.losses import balance_loss
from subspan.merging import Consensus, consensus
from subspan.methods._ncsc_setting import Setting
from subspan.pairs import Pairs
from subspan.proposals import difference, fewest_groups, propose
from subspan.spectral import spectral_labels
from subspan.training import Phase, Record

ANCHORS = 400  # samples per step of a classifier stage, at least,
ANCHORS_PER_CLUSTER = 5  # and at least so many for each cluster of a start, on average
STEPS = (50, 175)  # steps per epoch of a classifier stage, at least and at most
HEAD_BATCH = 5000
ENTRIES = 12_000_000  # of the scores of pairs that are looked at together
SIZED = 2  # of the candidates learn the best labels once more with the sizes that these have,
SURER = 0.001  # and take part in the choice if they then tell more by this share than equal sizes do, see choice
SPECTRAL = 100_000  # samples up to which spectral clustering proposes labels, where they are not searched for


class Worth(NamedTuple):
    """What labels are chosen by, the first things first."""

    groups: bool  # whether they are k groups, not fewer and some outliers
    value: float  # label_information with compression,
    information: float  # and without


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
        :func:`~subspan.information.label_information`, before Eq. 5 and after it, as they were searched for. If one of
        them held more when it had just learned the labels it was given, it becomes that one.

    Notes
    -----
    With ``search``, and where sizes may differ, the last classifiers learn the best labels once more and expect their
    sizes instead of equal ones. Equal sizes are the safer guess: they are given up only where the same labels tell
    more without, which is so if classes that differ in size were made equal, and is not if wrong labels were mended.
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
        self.fewest = EFFECTIVE  # effective groups of each of k that labels must have, if these are uneven,
        self.told: list[Worth] = []  # and their worth, if that is what they were searched for by
        self.sized = 0  # so many classifiers, the last ones, expect the sizes of their targets

    @property
    def preparation(self) -> str:
        parts = [] if len(self.setting.codes) else ["codes", "neighbours"]
        return ", ".join(parts + (["labels to learn first"] if self._proposes else []))

    @property
    def _proposes(self) -> bool:
        """Whether labels to learn first have to be found yet."""
        return self.targets is None and (self.search or self.starts is not None)

    def start(self) -> None:
        if not len(self.setting.codes):
            self.setting.encode_all()
        self.propose_once()
        self._expect_sizes()

    def propose_once(self) -> None:
        """Find the labels to learn first, if there are to be any and they are not found yet."""
        if not self._proposes:
            return
        count, gen = self.heads.n_starts, generator(0)
        pairs = self.setting.positives(self.setting.u[1], gen)
        found, self.compression = self.proposals(pairs, gen, count)
        order = torch.arange(count)
        if self.compression >= UNEVEN:
            self.sized, self.fewest = count, fewest_groups(found[0], self.heads.n_clusters)
        elif self.search and self.setting.compression is None and self.setting.prior is None and count >= 2 * SIZED:
            self.sized = SIZED
            order = torch.cat([order[:-SIZED], order[:SIZED]])
        if self.setting.prior is not None:
            found = torch.stack([number_by_size(labels, self.setting.prior) for labels in found])
        self.targets, self.told = found[order % len(found)], [Worth(True, 0.0, 0.0)] * count
        if self.search:
            self.told = [self._worth(labels, pairs) for labels in self.targets]

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
            yield self.distillation(batch, self.targets[:, batch].flatten(), gen)
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

    def distillation(self, batch: Tensor, labels: Tensor, gen: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy with labels (R * b,) of the samples ``batch`` (b,), summed over starts."""
        log_p = self.heads(self.setting.changed_codes(batch, gen)).log_softmax(dim=-1)
        return {"distillation": nll_loss(log_p.flatten(0, 1), labels) * len(log_p)}

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
        for part in iter_slices(len(rows), max(1, ENTRIES // log_p[:, 0].numel())):
            i, j = log_p[:, rows[part]], log_p[:, self.pairs.partners[part]]
            total += (-torch.logsumexp(i + j, dim=-1) * weight[part]).sum(dim=-1)
        active = max(int((self.pairs.counts() > 0).sum()), 1)
        return total / active + (self.setting.balance[1] or 1.0) * balance_loss(log_p, self.heads.prior)

    def monitor(self) -> Record:
        assert self.pairs is not None
        log_p = self.scores()
        objective = self.objective(log_p)
        worth = [] if self.targets is None else [self.worth(one) for one in log_p]
        chosen = self.choice(worth, log_p.argmax(dim=2)) if worth else None
        if self.chosen is not None and self.epoch == 0 and chosen is not None:
            self.chosen.take(self.heads, chosen)
        self.best = int(objective.argmin()) if chosen is None or not self.search else chosen
        record: Record = {
            "positives_per_sample": len(self.pairs.partners) / self.pairs.n,
            "objective": float(objective[self.best]),
            "objective_worst": float(objective.max()),
            "start": self.best,
            "live_clusters": live_clusters(log_p[self.best]),
        }
        if worth:
            record["information"] = worth[self.best].information
        return record

    def worth(self, log_p: Tensor) -> Worth:
        """Worth of the labels that scores (n, k) give."""
        assert self.pairs is not None
        return self._worth(log_p.argmax(dim=1), self.pairs)

    def _worth(self, labels: Tensor, pairs: Pairs) -> Worth:
        k = self.heads.n_clusters
        groups = are_groups(labels, k, self.fewest) if self.compression >= UNEVEN else live_labels(labels, k) > k // 2
        flow = label_flow(labels, pairs, k)
        return Worth(groups, flow_information(flow, self.compression), flow_information(flow))

    def choice(self, worth: Sequence[Worth], labels: Tensor) -> int:
        """The classifier whose labels (R, n) are worth most, those that it learned first and those that it has now.

        The first say which of several divisions is best without the noise of training, the second what the codes make
        of it. One that expects the sizes of the labels it learned takes part only if it tells clearly more than its
        twin, which learned the same labels and expects equal sizes, and than all whose labels differ from the twin's by
        no more than its own do: they have found the same division, and how well training went for each is luck.
        """
        both = list(zip(self.told, worth, strict=True))
        total = [(now.groups, told.value + now.value) for told, now in both]
        plain = [told.information + now.information for told, now in both]
        even = len(worth) - self.sized
        for r in range(even, len(worth) if even else 0):
            apart = [difference(one, labels[r - even], self.heads.n_clusters) for one in labels]
            if plain[r] * (1 - SURER) <= max(plain[c] for c in range(even) if apart[c] <= apart[r]):
                total[r] = (False, -math.inf)
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

    def proposals(self, pairs: Pairs, gen: torch.Generator, count: int) -> Consensus:
        """At most ``count`` labels to learn from, from the starts and from the graph; and the compression."""
        k = self.setting.n_clusters
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


def one_cycle(progress: float) -> float:
    """Linear warm-up over the first 30 %, then a cosine to zero."""
    if progress < 0.3:
        return 0.04 + 0.96 * progress / 0.3
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) + 1e-4


def _anneal(ends: tuple[float, float], progress: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * min(1.0, max(0.0, progress))


def number_by_size(labels: Tensor, prior: Tensor) -> Tensor:
    """Labels (n,) with the groups numbered as the given sizes (k,) are: the largest as the largest, and so on."""
    sizes = torch.bincount(labels, minlength=len(prior))
    number = torch.empty_like(sizes)
    number[sizes.argsort(descending=True, stable=True)] = prior.argsort(descending=True, stable=True)
    return number[labels]
