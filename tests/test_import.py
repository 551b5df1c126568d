"""What ``import subspan`` costs and what it leaves alone, seen in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import subspan

PROBE = """
import json, logging, random, sys, time, warnings
import numpy, torch
before = (numpy.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(), random.getstate(),
          torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(),
          list(logging.getLogger().handlers), logging.getLogger().level, list(warnings.filters),
          torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(), numpy.geterr())
import subspan
for name in subspan.__all__:
    getattr(subspan, name)
import subspan.methods.ncsc, subspan.plots, subspan.runs
after = (numpy.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist(), random.getstate(),
         torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(),
         list(logging.getLogger().handlers), logging.getLogger().level, list(warnings.filters),
         torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled(), numpy.geterr())
names = ("numpy", "torch", "random", "threads", "interop", "dtype", "handlers", "level", "filters", "deterministic",
         "grad", "errors")
print(json.dumps([name for name, a, b in zip(names, before, after) if a != b]))
"""

COLD = """
import sys, time
began = time.process_time()
import subspan
print(time.process_time() - began, "torch" in sys.modules, "matplotlib" in sys.modules)
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_quick_and_loads_nothing_heavy():
    seconds, torch_loaded, matplotlib_loaded = python(COLD).split()
    assert float(seconds) < 3.0  # of processor time: the wall clock of a busy machine says little
    assert (torch_loaded, matplotlib_loaded) == ("False", "False")


def test_importing_everything_public_changes_no_global_state():
    # SciPy and NumPy add warning filters; rich, which scikit-learn's metrics import, draws once from Python's random
    assert set(json.loads(python(PROBE))) <= {"filters", "random"}


def test_public_names_exist_and_are_sorted():
    assert sorted(subspan.__all__) == list(subspan.__all__)
    for name in subspan.__all__:
        assert getattr(subspan, name) is not None
    assert dir(subspan) == subspan.__all__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = subspan.nonsense
