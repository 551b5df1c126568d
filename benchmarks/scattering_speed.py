"""Compare Scattering2D with kymatio 0.3.0's torch front end: largest difference, and time side by side.

kymatio is no dependency of subspan. Install it without its own dependencies (``pip install --no-deps kymatio==0.3.0``
into a folder of its choice, named by KYMATIO_PATH, or into the environment), then run

    OMP_NUM_THREADS=1 python benchmarks/scattering_speed.py

Only its two-dimensional front end is imported: the package itself asks SciPy for a function that is gone. The two
take turns on the same images; processor time is counted, so that other programs on the machine disturb less.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import sys
import time
import types
from pathlib import Path

import torch

from subspan.scattering import Scattering2D

SHAPES = [
    (28, 28, None),
    (28, 28, 2),
    (32, 32, None),
    (8, 8, None),
    (16, 16, None),
    (17, 30, 2),
    (48, 42, None),
    (9, 9, 3),
]


def load_kymatio() -> type:
    """kymatio's ScatteringTorch2D, without running the package's own ``__init__``."""
    path = [os.environ["KYMATIO_PATH"]] if "KYMATIO_PATH" in os.environ else None
    spec = importlib.machinery.PathFinder.find_spec("kymatio", path)
    if spec is None or spec.origin is None:
        raise SystemExit("kymatio is not there: install it (see the top of this file) or set KYMATIO_PATH.")
    root = Path(spec.origin).parent
    for name in ("kymatio", "kymatio.scattering2d"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    return importlib.import_module("kymatio.scattering2d.frontend.torch_frontend").ScatteringTorch2D


def spent(function, *args) -> float:
    """Processor seconds of this process for one call."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def main() -> None:
    front_end = load_kymatio()
    generator = torch.Generator().manual_seed(0)
    for h, w, J in SHAPES:
        ours = Scattering2D((h, w), J)
        images = torch.rand(64, h, w, generator=generator)
        images[::2] = (images[::2] > 0.9).float()
        gap = (ours(images) - front_end(ours.J, (h, w))(images)).abs().max()
        print(json.dumps({"shape": [h, w], "J": ours.J, "channels": ours.n_channels, "largest_difference": float(gap)}))

    images = torch.rand(1000, 28, 28, generator=generator)
    ours, theirs = Scattering2D((28, 28), 3), front_end(3, (28, 28))
    in_batches = {size: (lambda size=size: [theirs(part) for part in images.split(size)]) for size in (64, 250, 1000)}
    times: dict[str, list[float]] = {}
    for _ in range(7):
        times.setdefault("subspan", []).append(spent(ours, images))
        for size, run in in_batches.items():
            times.setdefault(f"kymatio, batches of {size}", []).append(spent(run))
    best = {name: min(values) for name, values in times.items()}
    fastest = min(value for name, value in best.items() if name != "subspan")
    print(json.dumps({"ms_per_image": {name: round(value, 4) for name, value in best.items()}}))
    print(json.dumps({"threads": torch.get_num_threads(), "times_faster": round(fastest / best["subspan"], 2)}))


if __name__ == "__main__":
    with torch.no_grad():
        main()
