"""SSC, KSSC and LRR on ten faces of Extended Yale B and on a union of subspaces, beside scikit-learn's Lasso.

    python benchmarks/convex_methods.py [--seeds 3]

One line per method: ACC / NMI / ARI of the labels (raw affinity for the sparse ones), the largest violation of the
optimality conditions (KKT; relative residuals of ADMM for LRR), seconds of the fit. The reference solves the Lasso of
SSC sample by sample with scikit-learn's coordinate descent on all atoms, to the same tolerance of the same conditions,
for a hundred samples; its seconds are those, times n / 100, of the codes alone, as is the column "codes" of the others.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from sklearn.linear_model import Lasso

from subspan import evaluate, load_dataset
from subspan.methods import kssc, lrr, ssc

SUBJECTS = 10
SOLVED = 100  # samples whose codes the reference finds


def faces() -> tuple[np.ndarray, np.ndarray]:
    """Images of the first ten subjects as rows."""
    data = load_dataset("eyaleb")
    some = np.isin(data.y, np.unique(data.y)[:SUBJECTS])
    return data.X[some].reshape(some.sum(), -1).astype(np.float64), data.y[some]


def union_of_subspaces(n: int = 1000, k: int = 10, r: int = 5, p: int = 50, noise: float = 0.1):
    """k random subspaces of dimension r in p, unit-length samples with relative noise."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(n) % k)
    bases = np.linalg.qr(rng.normal(size=(k, p, r)))[0]
    X = np.einsum("npr,nr->np", bases[y], rng.normal(size=(n, r)))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X + noise / np.sqrt(p) * rng.normal(size=X.shape), y


def reference(Z: np.ndarray, weight: float, tol: float) -> tuple[float, float, float]:
    """Seconds, KKT residual and mean objective of scikit-learn's Lasso, sample by sample, at a tolerance for each.

    ``min ||c||_1 + weight / 2 ||z - c Z||^2`` is Lasso's objective with ``alpha = 1 / (weight d)``.
    """
    n, d = Z.shape
    some = np.random.default_rng(0).permutation(n)[:SOLVED]
    began, worst, total = time.perf_counter(), 0.0, 0.0
    for i in some:
        atoms = np.delete(Z, i, axis=0)
        solver = Lasso(alpha=1.0 / (weight * d), fit_intercept=False, tol=1e-6, max_iter=100_000)
        for solver.tol in (1e-5, 1e-7, 1e-9):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                c = solver.fit(atoms.T, Z[i]).coef_
            rest = Z[i] - c @ atoms
            slope = weight * (atoms @ rest)
            kkt = np.where(c != 0, np.abs(slope - np.sign(c)), np.maximum(np.abs(slope) - 1.0, 0.0)).max()
            if kkt <= tol:
                break
        worst, total = max(worst, kkt), total + np.abs(c).sum() + weight / 2 * rest @ rest
    return (time.perf_counter() - began) * n / len(some), worst, total / len(some)


def line(name: str, model, X: np.ndarray, y: np.ndarray) -> None:
    began = time.perf_counter()
    model.fit(X)
    seconds = time.perf_counter() - began
    record = model.history_[0]
    residual = record["kkt"] if "kkt" in record else max(record.get("primal", 0.0), record.get("dual", 0.0))
    scores = " / ".join(f"{100 * evaluate(y, model.labels_)[m]:.1f}" for m in ("acc", "nmi", "ari"))
    codes = f"{record['seconds']:.1f}" if "seconds" in record else ""
    print(f"| {name} | {scores} | {residual:.1e} | {codes} | {seconds:.1f} | {model.stop_reason_} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    sets = {"Extended Yale B, ten subjects": faces, "10 subspaces of 5 in 50, noise 10 %": union_of_subspaces}
    for title, make in sets.items():
        X, y = make()
        print(f"\n{title}: {X.shape[0]} samples of {X.shape[1]}\n")
        print("| method | ACC / NMI / ARI | residual | codes, s | fit, s | stop |\n|---|---|---|---|---|---|")
        for seed in range(options.seeds):
            rest = {"random_state": seed, "scale_rows": False}
            line("SSC", ssc.SSC(10, **rest), X, y)
            line("SSC, rows scaled", ssc.SSC(10, random_state=seed), X, y)
            line("SSC, outliers", ssc.SSC(10, alpha_e=20.0, **rest), X, y)
            line("KSSC, polynomial", kssc.KSSC(10, **rest), X, y)
            line("KSSC, Gaussian", kssc.KSSC(10, kernel="rbf", **rest), X, y)
            line("LRR", lrr.LRR(10, random_state=seed), X, y)
        Z = ssc.SSC(10).fit(X).transform(X).astype(np.float64)
        Z /= np.linalg.norm(Z, axis=1, keepdims=True)
        weight = 20.0 / np.abs(Z @ Z.T - np.diag((Z * Z).sum(axis=1))).max(axis=1).min()
        seconds, kkt, value = reference(Z, weight, tol=1e-3)
        print(f"| scikit-learn's Lasso | | {kkt:.1e} | {seconds:.1f} | | mean objective {value:.5f} |", flush=True)


if __name__ == "__main__":
    main()
