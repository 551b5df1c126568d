from __future__ import annotations

import ast
import errno
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import subspan
from subspan import checkpoint as checkpoint_module
from subspan.checkpoint import Checkpoint, Position, saved_seed, write_tensors
from subspan.errors import CheckpointError
from subspan.training import Outcome, Phase, train

SOURCES = Path(subspan.__file__).parent


class Line(Phase):
    def __init__(self, module, epochs=2):
        super().__init__("line", epochs, 4)
        self.module = module

    def parameter_groups(self):
        return [{"params": list(self.module.parameters()), "lr": 0.1}]

    def losses(self, batch, gen, progress):
        yield {"size": sum(p.square().sum() for p in self.module.parameters())}


def linear(seed=0):
    module = nn.utils.skip_init(nn.Linear, 3, 2)
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=gen))
    return module


def stepped(module, steps=3):
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
    return optimizer


def saved(folder, seed=0, fingerprint=None, position=None):
    module = linear(seed)
    optimizer = stepped(module)
    checkpoint = Checkpoint(folder, fingerprint or {"k": 3}, resume=False)
    checkpoint.write(
        position or Position(1, 2, 1), {"m": module}, optimizer, Outcome([{"epoch": 0, "a": 0.1}], {"x": "done"})
    )
    return module, optimizer


def test_round_trip_is_bit_equal(tmp_path):
    """Position, history, weights and the optimiser: the next step is the one that would have followed."""
    module, optimizer = saved(tmp_path)
    state = Checkpoint(tmp_path, {"k": 3}, resume=True).read()
    assert state.position == Position(1, 2, 1)
    assert state.history == [{"epoch": 0, "a": 0.1}]
    assert state.stop_reasons == {"x": "done"}
    other = linear(1)
    state.load_modules({"m": other})
    again = torch.optim.Adam(other.parameters(), lr=0.1)
    state.load_optimizer(again)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert optimizer.state[a].keys() == again.state[b].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(optimizer.state[a][key], again.state[b][key]) for key in again.state[b])
    for model, adam in ((module, optimizer), (other, again)):
        adam.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        adam.step()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_the_whole_optimiser_goes_to_the_device_of_its_parameters(tmp_path):
    """Fused Adam on a graphics card needs its step count there, too; "meta" stands for the card."""
    saved(tmp_path)
    other = linear(1).to("meta")
    again = torch.optim.Adam(other.parameters(), lr=0.1)
    Checkpoint(tmp_path, {"k": 3}, resume=True).read().load_optimizer(again)
    states = [again.state[parameter] for parameter in other.parameters()]
    assert [set(state) for state in states] == [{"step", "exp_avg", "exp_avg_sq"}] * 2
    assert {tensor.device.type for state in states for tensor in state.values()} == {"meta"}


def test_an_optimiser_that_lost_its_moments_would_be_noticed(tmp_path):
    """The test above can fail: a fresh Adam takes another step."""
    module, optimizer = saved(tmp_path)
    fresh = torch.optim.Adam(module.parameters(), lr=0.1)
    before = [p.detach().clone() for p in module.parameters()]
    steps = []
    for adam in (optimizer, fresh):
        with torch.no_grad():
            [p.copy_(b) for p, b in zip(module.parameters(), before, strict=True)]
        adam.zero_grad()
        module(torch.ones(1, 3)).square().sum().backward()
        adam.step()
        steps.append(module.weight.detach().clone())
    assert not torch.equal(*steps)


def test_entry_belongs_to_its_phase(tmp_path):
    saved(tmp_path, position=Position(1, 2, 1))
    checkpoint = Checkpoint(tmp_path, {"k": 3}, resume=True)
    checkpoint.write_entry(1, {"m.weight": torch.ones(2, 3)})
    assert torch.equal(checkpoint.read().entry["m.weight"], torch.ones(2, 3))
    checkpoint.write_entry(0, {"m.weight": torch.ones(2, 3)})  # what a full disk leaves of an earlier phase
    assert checkpoint.read().entry == {}


def no_space(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(tensors, path, meta):
    Path(path).write_bytes(b"half")
    no_space()


@pytest.mark.parametrize("broken", ["save_file", "os.replace", "os.fsync"])
def test_failed_write_keeps_the_old_state_and_leaves_nothing(tmp_path, monkeypatch, broken):
    saved(tmp_path, seed=0)
    old = (tmp_path / "state.safetensors").read_bytes()
    target = half_written if broken == "save_file" else no_space
    monkeypatch.setattr(f"subspan.checkpoint.{broken}", target)
    with pytest.warns(RuntimeWarning, match=r"could not be written .*No space left.*previous checkpoint is kept"):
        saved(tmp_path, seed=1)
    assert (tmp_path / "state.safetensors").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(tensors, path, meta):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_module, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)}, {})
    assert not list(tmp_path.iterdir())


def test_safetensors_own_errors_become_os_errors(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_tensors(tmp_path / "absent" / "a.safetensors", {"a": torch.ones(1)}, {})


def test_training_goes_on_without_space(tmp_path, monkeypatch):
    expected, module = linear(), linear()
    train([Line(expected)], {"m": expected}, n_samples=8, seed=0)
    monkeypatch.setattr("subspan.checkpoint.os.replace", no_space)
    with pytest.warns(RuntimeWarning, match="free some space"):
        outcome = train([Line(module)], {"m": module}, n_samples=8, seed=0, checkpoint=Checkpoint(tmp_path, {}, False))
    assert torch.equal(module.weight, expected.weight)
    assert len(outcome.history) == 2
    assert not list(tmp_path.iterdir())


def test_killed_between_write_and_replacement_the_old_state_is_read(tmp_path):
    """What a power cut leaves: a partial file next to the old state."""
    saved(tmp_path)
    (tmp_path / "state.partial").write_bytes(b"half of a new state")
    assert Checkpoint(tmp_path, {"k": 3}, resume=True).read().position == Position(1, 2, 1)


def damage_header(content):
    return content[:20] + b"\xff\xff" + content[22:]


@pytest.mark.parametrize(
    "damage",
    [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: c[:-1], lambda c: b"garbage" * 50, damage_header],
    ids=["empty", "half", "one byte short", "garbage", "header"],
)
@pytest.mark.parametrize("name", ["state", "entry"])
def test_damaged_file_is_named(tmp_path, damage, name):
    saved(tmp_path)
    checkpoint = Checkpoint(tmp_path, {"k": 3}, resume=True)
    checkpoint.write_entry(1, {"a": torch.ones(3)})
    path = tmp_path / f"{name}.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors' is damaged .*: delete it to start again"):
        checkpoint.read()


@pytest.mark.parametrize("meta", [{"position": "{"}, {"history": None}, {"fingerprint": None}])
def test_damaged_metadata_is_named(tmp_path, meta):
    good = {"version": "1", "fingerprint": "{}", "position": "{}", "history": "[]", "stop_reasons": "{}"}
    write_tensors(tmp_path / "state.safetensors", {}, {k: v for k, v in (good | meta).items() if v is not None})
    with pytest.raises(CheckpointError, match="is damaged"):
        Checkpoint(tmp_path, {}, resume=True).read()


def test_other_version_is_refused(tmp_path):
    write_tensors(tmp_path / "state.safetensors", {}, {"version": "99"})
    with pytest.raises(CheckpointError, match="format version 99; this subspan reads 1"):
        Checkpoint(tmp_path, {}, resume=True).read()


@pytest.mark.parametrize("now", [{"k": 4, "u": [0.7, 0.9]}, {"k": 4, "u": (0.7, 0.9)}])
def test_other_run_is_refused_by_the_name_of_what_differs(tmp_path, now):
    saved(tmp_path, fingerprint={"k": 3, "u": (0.7, 0.9)})
    with pytest.raises(CheckpointError, match=r"of another run \(k: 3 then, 4 now\): use another folder"):
        Checkpoint(tmp_path, now, resume=True).read()


def test_numbers_of_numpy_and_arrays_are_the_same_configuration(tmp_path):
    wide = np.arange(2000.0)
    saved(tmp_path, fingerprint={"k": np.int64(3), "l": np.float32(0.5), "u": np.array([0.7, 0.9]), "w": wide})
    same = {"k": 3, "l": 0.5, "u": (0.7, 0.9), "w": list(wide)}
    assert Checkpoint(tmp_path, same, resume=True).read() is not None
    with pytest.raises(CheckpointError, match=r"of another run \(w: "):
        Checkpoint(tmp_path, same | {"w": np.where(wide == 1000, 0.0, wide)}, resume=True).read()


def test_the_seed_of_a_state_is_known_without_its_configuration(tmp_path):
    assert saved_seed(tmp_path) is None
    saved(tmp_path, fingerprint={"k": 3})
    assert saved_seed(tmp_path) is None
    saved(tmp_path, fingerprint={"k": 3, "seed": 17})
    assert saved_seed(tmp_path) == 17
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        saved_seed(tmp_path)
    write_tensors(path, {}, {"version": "1", "fingerprint": "{"})
    with pytest.raises(CheckpointError, match="is damaged"):
        saved_seed(tmp_path)


@pytest.mark.parametrize("now", [{"k": 3, "new": 1}, {}])
def test_missing_and_added_parameters_are_differences(tmp_path, now):
    saved(tmp_path, fingerprint={"k": 3})
    with pytest.raises(CheckpointError, match="another run"):
        Checkpoint(tmp_path, now, resume=True).read()


def test_without_resume_the_state_is_overwritten(tmp_path):
    saved(tmp_path, fingerprint={"k": 99})
    module = linear()
    train([Line(module)], {"m": module}, n_samples=8, seed=0, checkpoint=Checkpoint(tmp_path, {"k": 3}, resume=False))
    state = Checkpoint(tmp_path, {"k": 3}, resume=True).read()
    assert asdict(state.position) == {"phase": 1, "epoch": 0, "restart": 0}
    assert torch.equal(state.tensors["module.m.weight"], module.weight)


def test_nothing_to_resume_is_a_fresh_start(tmp_path):
    assert Checkpoint(tmp_path / "new" / "folder", {}, resume=True).read() is None


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot create the checkpoint folder"):
        Checkpoint(tmp_path / "file", {}, resume=False)


def test_files_are_safetensors_without_code(tmp_path):
    class Restartable(Line):
        def collapsed(self, record):
            return False

    module = linear()
    for phase, kept in ((Line, {"state.safetensors"}), (Restartable, {"state.safetensors", "entry.safetensors"})):
        train([phase(module)], {"m": module}, n_samples=8, seed=0, checkpoint=Checkpoint(tmp_path, {}, resume=False))
        assert {path.name for path in tmp_path.iterdir()} == kept
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert content[8:9] == b"{"  # length, then a JSON header
        assert content[:2] not in (b"PK", b"\x80\x04", b"\x80\x02")


FORBIDDEN = {"pickle", "joblib", "dill", "cloudpickle", "shelve"}


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCES)))
def test_no_module_can_pickle(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] not in FORBIDDEN
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "save"), ("torch", "load")}
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False
