"""A fit that was killed goes on, and a saved model is the same model elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from ncsc_cases import SMALL, STAGES, digits, planted

from interrupted import assert_same_bits, cut_off
from subspan import NCSC
from subspan.errors import CheckpointError, CollapseWarning
from subspan.methods._ncsc_classifiers import ClassifierStage

SCRIPT = """
import os, signal, sys
import numpy as np, torch
torch.set_num_threads(int(sys.argv[2]))
from subspan import training
sys.path[:0] = sys.argv[3:]
from test_ncsc_resume import KILLED_IN, RESUME, NCSC, digits

X = digits(160)
for variant, options in RESUME.items():
    for stage in KILLED_IN[variant]:
        if os.fork() == 0:
            steps, step = [0], training._Loop.step
            def killing(self, phase, *rest):
                step(self, phase, *rest)
                steps[0] += phase.name == stage and phase.epoch == 1
                if steps[0] == 2:  # in the middle of the second epoch
                    os.kill(os.getpid(), signal.SIGKILL)
            training._Loop.step = killing
            NCSC(10, **options, checkpoint_dir=f"{sys.argv[1]}/{variant}-{stage}").fit(X)
            os._exit(1)
        assert os.WTERMSIG(os.wait()[1]) == signal.SIGKILL
"""
RESUME = {
    "closed": SMALL | {"batch_size": 80, "tolerance": 0.0},
    "learned": SMALL | {"batch_size": 80, "tolerance": 0.0, "self_expression": "parameter", "n_starts": 3},
}
KILLED_IN = {"closed": STAGES, "learned": ("subspace", "collaboration")}  # a learned C changes in these


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with the checkpoint of one killed fit for every variant and stage."""
    folder = tmp_path_factory.mktemp("killed")
    here = os.path.dirname(os.path.abspath(__file__))
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), str(torch.get_num_threads())]
    words += [here, os.path.dirname(here)]
    subprocess.run(words, check=True)
    return folder


@pytest.fixture(scope="module")
def unbroken():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollapseWarning)
        return {variant: NCSC(10, **options).fit(digits(160)) for variant, options in RESUME.items()}


@pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(signal, "SIGKILL"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize(("variant", "stage"), [(v, stage) for v, stages in KILLED_IN.items() for stage in stages])
@pytest.mark.filterwarnings("ignore::subspan.errors.CollapseWarning")
def test_killed_fit_is_resumed_to_the_unbroken_result(killed, unbroken, variant, stage):
    """kill -9 within a stage, then resume=True in another process: every bit is that of the unbroken run."""
    folder, expected = killed / f"{variant}-{stage}", unbroken[variant]
    resumed = NCSC(10, **RESUME[variant], checkpoint_dir=folder, resume=True).fit(digits(160))
    assert np.array_equal(resumed.labels_, expected.labels_)
    for part in ("encoder_", "head_"):
        states = [getattr(model, part).state_dict() for model in (resumed, expected)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1]), part
    assert torch.equal(resumed.center_, expected.center_)
    assert (resumed.gamma_, resumed.n_neighbors_) == (expected.gamma_, expected.n_neighbors_)
    histories = [[{k: v for k, v in r.items() if k != "seconds"} for r in m.history_] for m in (resumed, expected)]
    assert histories[0] == histories[1]
    assert resumed.stop_reasons_ == expected.stop_reasons_


def test_checkpoint_of_other_parameters_is_refused(tmp_path):
    X, _ = planted(n=60)
    NCSC(3, **SMALL, checkpoint_dir=tmp_path).fit(X)
    with pytest.raises(CheckpointError, match=r"gamma: 'auto' then, 1\.0 now"):
        NCSC(3, **SMALL, gamma=1.0, checkpoint_dir=tmp_path, resume=True).fit(X)
    with pytest.raises(CheckpointError, match="seed"):
        NCSC(3, **(SMALL | {"random_state": 1}), checkpoint_dir=tmp_path, resume=True).fit(X)
    with pytest.raises(CheckpointError, match="n_samples: 60 then, 50 now"):
        NCSC(3, **SMALL, checkpoint_dir=tmp_path, resume=True).fit(X[:50])


def test_checkpoint_of_other_data_is_refused(tmp_path):
    """Also where two samples of many have changed places, and shape, mean and range are the same."""
    X, _ = planted(n=240)
    NCSC(3, **SMALL, checkpoint_dir=tmp_path).fit(X)
    other = X.copy()
    other[[99, 100]] = X[[100, 99]]
    with pytest.raises(CheckpointError, match=r"of another run \(data: "):
        NCSC(3, **SMALL, checkpoint_dir=tmp_path, resume=True).fit(other)
    NCSC(3, **SMALL, checkpoint_dir=tmp_path, resume=True).fit(X)


def test_fit_without_random_state_goes_on_with_its_seed(tmp_path, monkeypatch):
    """As docs/getting_started.md shows it: the seed is that of the checkpoint, and the rest must agree."""
    X, options = planted(n=60)[0], SMALL | {"random_state": None}
    broken = NCSC(3, **options, checkpoint_dir=tmp_path)
    cut_off(monkeypatch, ClassifierStage, 1, lambda: broken.fit(X))
    resumed = NCSC(3, **options, checkpoint_dir=tmp_path, resume=True).fit(X)
    assert resumed.seed_ == broken.seed_
    with pytest.raises(CheckpointError, match=r"of another run \(gamma: 'auto' then, 1\.0 now\)"):
        NCSC(3, **options, gamma=1.0, checkpoint_dir=tmp_path, resume=True).fit(X)
    monkeypatch.setattr("subspan.base.draw_seed", lambda _: broken.seed_)
    assert_same_bits(resumed, NCSC(3, **options).fit(X))


LOAD = """
import pickle, sys
import numpy, torch
def refuse(*args, **kwargs):
    raise AssertionError("code could be read")
pickle.load = pickle.loads = pickle.Unpickler = numpy.load = torch.load = refuse
torch.set_num_threads(int(sys.argv[3]))
import subspan
model = subspan.load(sys.argv[1])
X = numpy.fromfile(sys.argv[2], dtype=numpy.uint8).reshape(-1, 8, 8)
found = [model.predict_proba(X).ravel(), model.transform(X).ravel(), model.predict(X)]
numpy.concatenate(found).astype(numpy.float64).tofile(sys.argv[2])
print(type(model).__name__, model.n_features_in_, model.random_state, len(model.history_), model.labels_.sum())
"""


def test_saved_model_predicts_bit_by_bit_elsewhere(tmp_path):
    """In another process, without the training data and without anything that could run code from a file."""
    X = digits(260)
    model = NCSC(10, **SMALL).fit(X[:200])
    model.save(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"model.json", "model.safetensors"}
    X[200:].tofile(tmp_path / "new")
    words = [sys.executable, "-c", LOAD, str(tmp_path / "model"), str(tmp_path / "new"), str(torch.get_num_threads())]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert told == ["NCSC", "64", "0", str(len(model.history_)), str(model.labels_.sum())]
    expected = [model.predict_proba(X[200:]).ravel(), model.transform(X[200:]).ravel(), model.predict(X[200:])]
    assert np.array_equal(np.fromfile(tmp_path / "new"), np.concatenate(expected).astype(np.float64))
