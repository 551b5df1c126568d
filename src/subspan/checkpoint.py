"""Checkpoints of the training loop (layer 1): one safetensors file per state, written atomically, no pickle."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from subspan._json import to_json
from subspan.errors import CheckpointError

VERSION = 1
STATE = "state.safetensors"


def module_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Every tensor of the modules, keyed ``module.tensor``; not copied."""
    return {f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()}


def load_module_tensors(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`module_tensors`; tensors of other modules are left alone."""
    for name, module in modules.items():
        prefix = name + "."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


@dataclass(frozen=True)
class Position:
    """Where the loop stands: the phase, the next epoch of it, and how often it was restarted."""

    phase: int = 0
    epoch: int = 0
    restart: int = 0


@dataclass
class Saved:
    """A state read from disk."""

    position: Position
    history: list[dict]
    stop_reasons: dict[str, str]
    tensors: dict[str, Tensor]
    entry: dict[str, Tensor] = field(default_factory=dict)

    def load_modules(self, modules: Mapping[str, nn.Module]) -> None:
        tensors = {k.removeprefix("module."): v for k, v in self.tensors.items() if k.startswith("module.")}
        for name, module in modules.items():
            try:
                load_module_tensors({name: module}, tensors)
            except RuntimeError as error:
                raise CheckpointError(
                    f"the checkpoint does not fit module '{name}' ({error}): use another folder to start again"
                ) from error

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        for i, parameter in enumerate(_parameters(optimizer)):
            prefix = f"optimizer.{i}."
            state = {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}
            if state:  # fused Adam keeps its step count with the parameter, as everything else
                optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}


class Checkpoint:
    """A folder that holds the newest state of a run.

    Parameters
    ----------
    folder : path
        Created when missing.
    fingerprint : dict
        What the run depends on (parameters, shape of the data). A state with another fingerprint is refused.
    resume : bool
        Whether a state found in the folder is continued; otherwise it is overwritten.
    """

    def __init__(self, folder: str | os.PathLike, fingerprint: dict[str, Any], resume: bool):
        self.folder = Path(folder)
        self.fingerprint = json.loads(json.dumps(to_json(fingerprint)))
        self.resume = resume
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot create the checkpoint folder '{folder}': {error.strerror}") from error

    def read(self) -> Saved | None:
        """The saved state, or None when there is none or it is not to be continued.

        Raises
        ------
        CheckpointError
            When the state is damaged or belongs to another configuration.
        """
        path = self.folder / STATE
        if not self.resume or not path.exists():
            return None
        tensors, meta = _read(path)
        found, position, history, stop_reasons = (
            _parsed(path, meta, key) for key in ("fingerprint", "position", "history", "stop_reasons")
        )
        different = sorted(k for k in found.keys() | self.fingerprint.keys() if found.get(k) != self.fingerprint.get(k))
        if different:
            shown = ", ".join(f"{k}: {found.get(k)!r} then, {self.fingerprint.get(k)!r} now" for k in different[:3])
            raise CheckpointError(f"the checkpoint in '{self.folder}' is of another run ({shown}): use another folder")
        return Saved(Position(**position), history, stop_reasons, tensors, self._read_entry(position["phase"]))

    def _read_entry(self, phase: int) -> dict[str, Tensor]:
        """What :meth:`write_entry` saved for this phase; empty when the file is of an earlier one."""
        path = self.folder / "entry.safetensors"
        if not path.exists():
            return {}
        tensors, meta = _read(path)
        return tensors if meta.get("phase") == str(phase) else {}

    def write(self, position: Position, modules: Mapping[str, nn.Module], optimizer, outcome) -> None:
        tensors = {f"module.{k}": v for k, v in module_tensors(modules).items()}
        if optimizer is not None:
            for i, parameter in enumerate(_parameters(optimizer)):
                tensors |= {f"optimizer.{i}.{k}": v for k, v in optimizer.state.get(parameter, {}).items()}
        meta = {
            "version": str(VERSION),
            "fingerprint": json.dumps(self.fingerprint),
            "position": json.dumps(vars(position)),
            "history": json.dumps(outcome.history),
            "stop_reasons": json.dumps(outcome.stop_reasons),
        }
        self._write(STATE, tensors, meta)

    def write_entry(self, phase: int, tensors: dict[str, Tensor]) -> None:
        """Save the modules as they were when this phase began (what a restart goes back to)."""
        self._write("entry.safetensors", tensors, {"version": str(VERSION), "phase": str(phase)})

    def _write(self, name: str, tensors: dict[str, Tensor], meta: dict[str, str]) -> None:
        try:
            write_tensors(self.folder / name, tensors, meta)
        except OSError as error:
            warnings.warn(
                f"the checkpoint in '{self.folder}' could not be written ({error}); training goes on and the previous "
                "checkpoint is kept: free some space",
                RuntimeWarning,
                stacklevel=3,
            )


def saved_seed(folder: str | os.PathLike) -> int | None:
    """Seed of the run whose state is in a folder; None when there is no state.

    Raises
    ------
    CheckpointError
        When the state is damaged.
    """
    path = Path(folder) / STATE
    return _parsed(path, _read(path, tensors=False)[1], "fingerprint").get("seed") if path.exists() else None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: dict[str, str]) -> None:
    """Write a safetensors file so that ``path`` holds either the old or the new content, whatever happens.

    Raises
    ------
    OSError
        When the file cannot be written (for example a full disk); nothing is left behind.
    """
    partial = path.with_suffix(".partial")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, meta)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        partial.unlink(missing_ok=True)  # there is none after the replacement


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}): delete it to start again") from error
    if meta.get("version") != str(VERSION):
        raise CheckpointError(f"'{path}' has format version {meta.get('version')}; this subspan reads {VERSION}")
    return found, meta


def _parsed(path: Path, meta: Mapping[str, str], key: str) -> Any:
    try:
        return json.loads(meta[key])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error!r}): delete it to start again") from error


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
