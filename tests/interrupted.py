"""What the tests of networks share: a fit that is cut off, and its continuation."""

from __future__ import annotations

import numpy as np
import torch


class Cut(Exception):
    pass


def histories(model):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in model.history_]


def cut_off(monkeypatch, phase, epoch, fit):
    """Run ``fit`` until the end of this epoch of the phase class; the epoch itself is lost."""
    monitor = phase.monitor

    def cutting(self):
        if self.epoch == epoch:
            raise Cut
        return monitor(self)

    with monkeypatch.context() as patch:
        patch.setattr(phase, "monitor", cutting)
        try:
            fit()
        except Cut:
            return
    raise AssertionError("the fit was not cut off")


def assert_same_bits(model, other):
    np.testing.assert_array_equal(model.labels_, other.labels_)
    assert histories(model) == histories(other)
    assert model.stop_reasons_ == other.stop_reasons_
    state, expected = model.encoder_.state_dict(), other.encoder_.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
