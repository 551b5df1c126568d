"""The end of stage 2 in the global recipe, or where it is asked for: the chosen classifier settles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from subspan.heads import Heads, live_clusters
from subspan.methods._ncsc_classifiers import ClassifierStage, head_scores
from subspan.methods._ncsc_setting import Setting
from subspan.training import Record


class SettlingStage(ClassifierStage):
    """The chosen classifier goes on, and the balance term holds the sizes that it has found.

    The balance is there to find clusters; once they are found, samples at their borders need not move for its sake. So
    its prior becomes the mean scores of the chosen classifier, unless sizes were given or equal ones asked for. How
    firmly they are held is open: a copy of the classifier is trained with each of :func:`holds`.

    Where all candidates told less after training than when they had just learned labels that were searched for, it
    fitted wrong pairs. Then there is nothing to settle, and new classifiers learn the best of these labels to the end.

    Parameters
    ----------
    heads : Heads
        A start for each weight.
    candidates : ClassifierStage
        Where it was chosen.
    head : Heads
        The chosen classifier. Becomes the copy whose labels hold most :func:`~subspan.information.label_information`,
        as it was chosen by, unless its own labels hold more.
    """

    def __init__(
        self, setting: Setting, heads: Heads, *, epochs: int, rate: float, head: Heads, candidates: ClassifierStage
    ):
        super().__init__(setting, heads, name="settling", epochs=epochs, rate=rate)
        self.head, self.candidates = head, candidates
        self.learned: Tensor | None = None  # labels (n,) that are learned instead

    @property
    def sure(self) -> bool:
        return True

    def balance(self, progress: float) -> list[float]:
        return holds(self.setting.balance)

    @property
    def _proposes(self) -> bool:
        return self.candidates._proposes  # no, unless a run was resumed after the candidates

    def propose_once(self) -> None:
        self.candidates.propose_once()

    def start(self) -> None:
        super().start()
        self.compression, self.fewest = self.candidates.compression, self.candidates.fewest
        trained = any(torch.equal(self.head.out[0], one) for one in self.candidates.heads.out)
        if self.candidates.search and not trained:
            assert self.candidates.targets is not None
            self.learned = self.candidates.targets[0]

    def reset(self, gen: torch.Generator, restart: int) -> None:
        if self.learned is None:
            self.heads.take(self.head, 0)  # with the sizes that it expects
            found = head_scores(self.head, self.setting.codes).exp().mean(dim=1)
        else:
            super().reset(gen, restart)
            found = torch.bincount(self.learned, minlength=self.heads.n_clusters) / len(self.learned)
        if self.setting.prior is None and self.setting.compression != 0:  # neither given nor said to be equal
            self.heads.prior.copy_(found.clamp_min(torch.finfo(found.dtype).tiny))

    def losses(self, batch: Tensor, gen: torch.Generator, progress: float) -> Iterator[dict[str, Tensor]]:
        if self.learned is None:
            yield from super().losses(batch, gen, progress)
        else:
            batch = batch.to(self.setting.device)
            yield self.distillation(batch, self.learned[batch].repeat(self.heads.n_starts), gen)

    def monitor(self) -> Record:
        assert self.pairs is not None
        log_p = self.scores()
        worth = [self.worth(one) for one in log_p]
        self.known = max(worth)
        self.best = worth.index(self.known)
        return {
            "positives_per_sample": len(self.pairs.partners) / self.pairs.n,
            "information": self.known.information,
            "start": self.best,
            "live_clusters": live_clusters(log_p[self.best]),
        }

    def collapsed(self, record: Record) -> bool:
        return False  # sizes are held, and what was worse to begin with gets no better by another try

    def finish(self) -> None:
        if self.known >= self.worth(head_scores(self.head, self.setting.codes)[0]):
            self.head.take(self.heads, self.best)


def holds(balance: tuple[float, float]) -> list[float]:
    """Weights with which found sizes are held: those of the balance term at both ends of stage 2, and between them."""
    return sorted({balance[1], math.sqrt(balance[0] * balance[1]), balance[0]})
