"""K-Means and the methods that cluster codes of an auto-encoder, with a budget for a CPU, on the first n samples.

    python benchmarks/autoencoders.py mnist --samples 5000 --methods dec idec

Prints one JSON line per run. Labels are used for the printed scores only.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from subspan import evaluate, load_dataset
from subspan.methods import get_method

METHODS = ("kmeans", "sae-km", "cae-km", "dec", "idec", "dcn")


def budget(method: str, layers: int, autoencoder: int, clustering: int) -> dict:
    """Epochs that the method knows."""
    if method == "kmeans":
        return {}
    epochs = {"layers": layers, "autoencoder": autoencoder, "clustering": clustering}
    return {"epochs": {name: epochs[name] for name in get_method(method)._epochs}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--layers", type=int, default=10, help="epochs of each layer")
    parser.add_argument("--autoencoder", type=int, default=40, help="epochs of end-to-end pre-training")
    parser.add_argument("--clustering", type=int, default=10, help="updates of the target; epochs of dcn")
    options = parser.parse_args()
    data = load_dataset(options.source)
    X, y = data.X[: options.samples], np.asarray(data.y)[: options.samples]
    for method in options.methods:
        epochs = budget(method, options.layers, options.autoencoder, options.clustering)
        for seed in range(options.seeds):
            start = time.perf_counter()
            model = get_method(method)(len(np.unique(y)), random_state=seed, **epochs).fit(X)
            seconds = round(time.perf_counter() - start, 1)
            scores = {k: round(float(v), 4) for k, v in evaluate(y, model.labels_).items()}
            last = {k: v for k, v in model.history_[-1].items() if k in ("phase", "epoch", "changed", "live_clusters")}
            line = {"method": method, "source": options.source, "seed": seed, **scores, **last, "seconds": seconds}
            print(json.dumps(line | {"stop": model.stop_reason_}), flush=True)


if __name__ == "__main__":
    main()
