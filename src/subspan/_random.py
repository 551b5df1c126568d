"""Local, counter-based random generators (layer 0). Global generators are never touched."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.utils import check_random_state


def draw_seed(random_state) -> int:
    """One integer seed in [0, 2**31) from scikit-learn's ``random_state`` (None, int or RandomState)."""
    return int(check_random_state(random_state).randint(0, 2**31 - 1))


def generator(seed: int, *counters: int) -> torch.Generator:
    """Generator whose stream depends only on ``seed`` and the counters: work is resumed without storing a state."""
    state = np.random.SeedSequence([seed, *counters]).generate_state(2, np.uint32)
    # 63 bits: torch.Generator.manual_seed takes a signed 64-bit integer
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
