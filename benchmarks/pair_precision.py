"""What the positive pairs of NCSC are worth, epoch by epoch, on the codes of a fitted model.

    python benchmarks/pair_precision.py RUN/model fashion-mnist --settings default u=0.7 u=0.95 recipe=global

Trains the starts and the classifier of the paper's recipe on the codes of the model, the encoder at rest, once for each
setting, and writes one JSON line per epoch: pairs per sample, their precision (share of pairs whose samples have one
label), the label-free objective of the best classifier, its ACC. Labels are used for precision and ACC only. Objectives
on different pairs are not comparable, so the table at the end has, without labels too, the mutual information (nats) of
the final labels at both ends of an edge of one graph: the ten neighbours of each sample, C from all samples.
"""

from __future__ import annotations

import argparse
import ast
import functools
import os
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch
from _results import Results
from torch.nn.functional import normalize

import subspan
from subspan import NCSC, evaluate, load_dataset
from subspan._random import generator
from subspan.information import label_information
from subspan.methods import ncsc
from subspan.methods._ncsc_classifiers import ClassifierStage
from subspan.neighbours import GlobalSelfExpression
from subspan.pairs import Pairs
from subspan.selection import choose_expression
from subspan.training import Callback, Phase, Record


class OnSavedCodes(NCSC):
    """NCSC that takes the encoder of ``model``, where that was trained."""

    model: NCSC

    def _encoder(self, samples, seed, name=None):
        return self.model.encoder_


class Watch(Callback):
    """Writes a line for every epoch of the classifier stages."""

    def __init__(self, y: np.ndarray, about: dict[str, Any], out: Path):
        self.y, self.about, self.results = torch.from_numpy(y), about, Results(out)

    def on_epoch(self, phase: Phase, record: Record) -> None:
        if not isinstance(phase, ClassifierStage):
            return
        assert phase.pairs is not None
        without = float((phase.pairs.counts() == 0).float().mean())
        labels = phase.scores()[phase.best].argmax(dim=1).numpy()
        line = {
            **self.about,
            "stage": phase.name,
            "epoch": record["epoch"],
            "pairs": round(len(phase.pairs.partners) / len(self.y), 2),
            "without": round(without, 4),
            "precision": round(precision(phase.pairs, self.y), 4),
            "objective": round(float(record["objective"]), 4),
            "acc": round(100 * evaluate(self.y.numpy(), labels)["acc"], 2),
        }
        self.results.add(line)


def precision(pairs: Pairs, y: torch.Tensor) -> float:
    """Share of pairs whose samples have one label."""
    return float((y[pairs.rows()] == y[pairs.partners]).float().mean())


def parameters(text: str) -> dict[str, Any]:
    """ "u=0.7,batches=random" -> parameters of the estimator."""
    found: dict[str, Any] = {}
    for part in text.split(",") if text != "default" else []:
        name, _, value = part.partition("=")
        try:
            found[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            found[name] = value
    return found


def reference(model: NCSC, X: np.ndarray, k: int) -> Pairs:
    """Ten neighbours of each sample by self-expression of the codes by all others, gamma chosen without labels."""
    codes = torch.from_numpy(model.transform(X))
    Z = normalize(codes - model.center_.cpu(), dim=1)
    found = choose_expression(Z, k, 10)
    return GlobalSelfExpression(found.gamma, found.positive).fit(Z).neighbours(Z, 10, gen=generator(0)).pairs()


def run(model: NCSC, X: np.ndarray, y: np.ndarray, graph: Pairs, setting: str, seed: int, out: Path) -> dict[str, Any]:
    """Train with one setting; a row of the table."""
    k = len(np.unique(y))
    watch = Watch(np.unique(y, return_inverse=True)[1], {"setting": setting, "seed": seed, "n": len(X)}, out)
    OnSavedCodes.model = model
    rest = {"autoencoder": 0, "subspace": 0, "settling": 0, "collaboration": 0}
    options = {"recipe": "paper"} | parameters(setting)
    whole = ncsc.train
    ncsc.train = functools.partial(_train, whole, watch)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = OnSavedCodes(k, encoder=model.encoder_.name, random_state=seed, epochs=rest, **options).fit(X)
    finally:
        ncsc.train = whole
    information = label_information(torch.from_numpy(found.labels_), graph, k)
    last = watch.results.lines[-1] | {"information": round(information, 4)}
    scores = {name: round(100 * float(v), 2) for name, v in evaluate(y, found.labels_).items() if name != "n"}
    return {key: last[key] for key in ("setting", "pairs", "without", "precision", "information")} | scores


def _train(train, watch, *args, callbacks=(), **options):
    return train(*args, callbacks=[*callbacks, watch], **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="what NCSC with a trained encoder saved: RUN/model")
    parser.add_argument("source")
    parser.add_argument("--settings", nargs="+", default=["default"])
    parser.add_argument("--samples", type=int, default=70_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("pair_precision.jsonl"))
    options = parser.parse_args()
    model, data = subspan.load(options.model), load_dataset(options.source)
    X, y = data.X[: options.samples], np.asarray(data.y)[: options.samples]
    graph = reference(model, X, len(np.unique(y)))
    print(
        f"precision of the common graph: {precision(graph, torch.from_numpy(np.unique(y, return_inverse=True)[1])):.4f}"
    )
    rows = [run(model, X, y, graph, setting, options.seed, options.out) for setting in options.settings]
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
