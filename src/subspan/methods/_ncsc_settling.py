"""The end of stage 2 in the global recipe: the chosen classifier settles with the sizes that it has found."""

from __future__ import annotations

import math

import torch
from torch import Tensor

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
        found = head_scores(self.before, self.setting.codes).exp().mean(dim=1)
        self.heads.prior.copy_(found if self.setting.prior is None else self.before.prior)

    def reset(self, gen: torch.Generator, restart: int) -> None:
        self.heads.take(self.before, 0)
        self._expect_sizes()

    def monitor(self) -> Record:
        assert self.pairs is not None
        log_p = self.scores()
        best, information = self._best(log_p)
        return {
            "positives_per_sample": len(self.pairs.partners) / self.pairs.n,
            "information": information,
            "start": best,
            "live_clusters": live_clusters(log_p[best]),
        }

    def collapsed(self, record: Record) -> bool:
        return False  # sizes are held, and what was worse to begin with gets no better by another try

    def finish(self) -> None:
        best, information = self._best(self.scores())
        if self._best(head_scores(self.before, self.setting.codes))[1] > information:
            self.head.take(self.before, 0)
        else:
            self.head.take(self.heads, best)

    def _best(self, log_p: Tensor) -> tuple[int, float]:
        """Start whose labels hold most information, of scores (R, n, k), and how much."""
        information = [self.information(one) for one in log_p]
        return max(enumerate(information), key=lambda found: found[1])


def holds(balance: tuple[float, float]) -> list[float]:
    """Weights with which found sizes are held: those of the balance term at both ends of stage 2, and between them."""
    return sorted({balance[1], math.sqrt(balance[0] * balance[1]), balance[0]})
