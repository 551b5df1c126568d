"""The end of stage 2 in the global recipe: the chosen classifier settles with the sizes that it has found."""

from __future__ import annotations

import math

import torch

from subspan.heads import Heads, live_clusters
from subspan.methods._ncsc_setting import Setting
from subspan.methods._ncsc_stages import ClassifierStage, head_scores
from subspan.training import Record


class SettlingStage(ClassifierStage):
    """The chosen classifier goes on, and the balance term holds the sizes that it has found.

    The balance is there to find clusters; once they are found, samples at their borders need not move for its sake. So
    its prior becomes the mean scores of the chosen classifier, unless sizes were given. How firmly they are held is
    open: a copy of the classifier is trained with each of :func:`holds`.

    Parameters
    ----------
    heads : Heads
        A start for each weight.
    before : Heads
        The chosen classifier.
    head : Heads
        Becomes the one of these whose labels hold most :func:`~subspan.merging.label_information`.
    """

    def __init__(self, setting: Setting, heads: Heads, *, epochs: int, rate: float, before: Heads, head: Heads):
        super().__init__(setting, heads, name="settling", epochs=epochs, rate=rate)
        self.before, self.head = before, head

    @property
    def sure(self) -> bool:
        return True

    def balance(self, progress: float) -> list[float]:
        return holds(self.setting.balance)

    def _expect_sizes(self) -> None:
        """Those that the chosen classifier has found, or those given."""
        self.heads.prior.copy_(self.before.prior)
        if self.setting.prior is None:
            self.heads.prior.copy_(head_scores(self.before, self.setting.codes).exp().mean(dim=1))

    def reset(self, gen: torch.Generator, restart: int) -> None:
        self.heads.take(self.before, 0)
        self._expect_sizes()

    def monitor(self) -> Record:
        assert self.pairs is not None
        log_p = self.scores()
        known = [self.information(one) for one in log_p]
        best = known.index(max(known))
        return {
            "positives_per_sample": len(self.pairs.partners) / self.pairs.n,
            "information": known[best],
            "start": best,
            "live_clusters": live_clusters(log_p[best]),
        }

    def collapsed(self, record: Record) -> bool:
        return False  # sizes are held, and what was worse to begin with gets no better by another try

    def finish(self) -> None:
        scores = (*head_scores(self.before, self.setting.codes), *self.scores())
        known = [self.information(one) for one in scores]
        best = known.index(max(known))
        self.head.take(*((self.before, 0) if best == 0 else (self.heads, best - 1)))


def holds(balance: tuple[float, float]) -> list[float]:
    """Weights with which found sizes are held: those of the balance term at both ends of stage 2, and between them."""
    return sorted({balance[1], math.sqrt(balance[0] * balance[1]), balance[0]})
