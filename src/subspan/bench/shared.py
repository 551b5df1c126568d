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
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np


def pretrained_model(cell: Mapping[str, Any], X: np.ndarray, folder: Path, revision: str, device: str) -> Path:
    """Folder of the model that ``cell["pretraining"]`` describes, fitted on X unless it is in ``folder`` already.

    Parameters
    ----------
    cell : mapping
        Of which "pretraining" holds the "method" and its "values".
    X : array
        Samples of the cell.
    folder : Path
        Of models by digest. Two cells at a time may both train one; the first to end keeps it.
    revision : str
        Of the sources: models of other revisions are not taken.
    device : str
    """
    from subspan.methods import get_method

    target = folder / _digest(cell, len(X), revision)
    if (target / "model.safetensors").is_file():
        return target
    wanted = cell["pretraining"]
    model = get_method(wanted["method"])(
        n_clusters=cell["n_clusters"], random_state=cell["seed"], device=device, **wanted.get("values", {})
    )
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder))
    try:
        model.fit(X).save(partial)
        with suppress(FileExistsError, OSError):  # another cell was faster
            os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _digest(cell: Mapping[str, Any], n: int, revision: str) -> str:
    names = ("pretraining", "data", "n_clusters", "max_samples", "seed")
    text = json.dumps({name: cell[name] for name in names} | {"n": n, "revision": revision}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
