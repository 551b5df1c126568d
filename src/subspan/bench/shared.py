"""Auto-encoders that several cells share: trained by the first, kept in a folder, taken by the others.

Cells of DEC, IDEC, DCN and SAE-KM on one data set and seed may ask for the same pre-training. With ``--cache`` it runs
once, and its seconds count for each of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import subspan
from subspan._environment import versions
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


def _is_whole(folder: Path) -> bool:
    from subspan.base import load

    try:
        load(folder)
    except CheckpointError:
        return False
    return True


def _digest(cell: Mapping[str, Any], X: np.ndarray, device: str) -> str:
    """Name of the model of a cell: of all that decides its weights."""
    decisive = {name: cell[name] for name in ("pretraining", "n_clusters", "seed")}
    decisive |= {"device": device, "versions": versions(), "shape": X.shape, "dtype": str(X.dtype)}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(X).reshape(-1).view(np.uint8).data)  # without a copy
    for source in sorted(Path(subspan.__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
