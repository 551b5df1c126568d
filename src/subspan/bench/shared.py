"""Auto-encoders that several cells share: trained by the first, kept in a folder, taken by the others.

Cells of DEC, IDEC, DCN and SAE-KM on one data set and seed may ask for the same pre-training, and cells of
self-expression for the same codes. With ``--cache`` these are learned once, and their seconds count for each of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

import subspan
from subspan._environment import versions
from subspan.bench.codes import learn_codes
from subspan.checkpoint import write_tensors
from subspan.errors import CheckpointError


def pretrained_model(cell: Mapping[str, Any], X: np.ndarray, folder: Path, device: str) -> Path:
    """Folder of the model that ``cell["pretraining"]`` describes, fitted on X unless it is in ``folder`` already.

    Parameters
    ----------
    cell : mapping
        Of which "pretraining" holds the "method" and its "values".
    X : array
        Samples of the cell.
    folder : Path
        Of models by digest. Two cells at a time may both train one; the first to end keeps it.
    device : str

    Notes
    -----
    A model is taken for the same samples, seed, settings, device, versions and sources of this package alone.
    """
    from subspan.methods import get_method

    target = folder / _digest(cell, X, device)
    if _is_whole(target):
        return target
    wanted = cell["pretraining"]
    model = get_method(wanted["method"])(
        n_clusters=cell["n_clusters"], random_state=cell["seed"], device=device, **wanted.get("values", {})
    )
    model.fit(X)
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder))
    try:
        model.save(partial)
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)
        try:
            os.rename(partial, target)
        except OSError:
            if not _is_whole(target):  # else another cell was faster
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def shared_codes(cell: Mapping[str, Any], X: np.ndarray, folder: Path, device: str) -> tuple[np.ndarray, float]:
    """Codes (n, d) of the samples X that ``cell["codes"]`` describes, and the seconds in which they were learned.

    They are taken from ``folder`` if they are there, under the conditions of :func:`pretrained_model`.
    """
    target = folder / f"{_digest(cell, X, device)}.safetensors"
    found = _read_codes(target)
    if found is not None:
        return found
    begin = time.perf_counter()
    codes = learn_codes(X, cell["n_clusters"], cell["seed"], device=device, **cell["codes"])
    seconds = time.perf_counter() - begin
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"partial-{os.getpid()}.safetensors"  # another cell may write the same
    write_tensors(partial, {"codes": torch.from_numpy(codes)}, {"seconds": str(seconds)})
    os.replace(partial, target)
    return codes, seconds


def _read_codes(path: Path) -> tuple[np.ndarray, float] | None:
    """What :func:`shared_codes` wrote, or None if it is not there or damaged."""
    try:
        with safe_open(path, framework="np") as file:
            return file.get_tensor("codes"), float(file.metadata()["seconds"])
    except (SafetensorError, OSError):
        return None


def _is_whole(folder: Path) -> bool:
    from subspan.base import load

    try:
        load(folder)
    except CheckpointError:
        return False
    return True


def _digest(cell: Mapping[str, Any], X: np.ndarray, device: str) -> str:
    """Name of the model or the codes of a cell: of all that decides them."""
    decisive = {name: cell[name] for name in ("pretraining", "codes", "n_clusters", "seed")}
    decisive |= {"device": device, "versions": versions(), "shape": X.shape, "dtype": str(X.dtype)}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(X).reshape(-1).view(np.uint8).data)  # without a copy
    for source in sorted(Path(subspan.__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
