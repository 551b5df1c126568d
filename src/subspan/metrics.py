"""Agreement of a clustering with labels (layer 6): the only functions that take labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from subspan.errors import InvalidInputError


def accuracy(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Clustering accuracy (Eq. 11): share of samples that agree under the best one-to-one map of clusters to labels.

    Parameters
    ----------
    labels_true, labels_pred : array_like of shape (n,)
        Any values (integers, strings, ...). With unequal numbers of clusters and labels the surplus stays unmatched.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InvalidInputError
        The two differ in length, are empty, are not one-dimensional, or hold NaN.
    """
    true, pred = _codes(labels_true, labels_pred)
    counts = np.zeros((pred.max() + 1, true.max() + 1), dtype=np.int64)
    np.add.at(counts, (pred, true), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(true))


def nmi(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Normalised mutual information (arithmetic mean of the entropies); arguments and errors as :func:`accuracy`."""
    return float(normalized_mutual_info_score(*_codes(labels_true, labels_pred)))


def ari(labels_true: ArrayLike, labels_pred: ArrayLike) -> float:
    """Adjusted Rand index; arguments and errors as :func:`accuracy`."""
    return float(adjusted_rand_score(*_codes(labels_true, labels_pred)))


def evaluate(labels_true: ArrayLike, labels_pred: ArrayLike) -> dict[str, int | float]:
    """All measures at once: ``{"n", "acc", "nmi", "ari"}``; arguments and errors as :func:`accuracy`."""
    true, pred = _codes(labels_true, labels_pred)
    return {"n": len(true), "acc": accuracy(true, pred), "nmi": nmi(true, pred), "ari": ari(true, pred)}


def _codes(labels_true: ArrayLike, labels_pred: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Both labellings as integers from 0, of one length."""
    true, pred = (_code(labels, name) for labels, name in ((labels_true, "labels_true"), (labels_pred, "labels_pred")))
    if len(true) != len(pred):
        raise InvalidInputError(
            f"There are {len(true)} true and {len(pred)} predicted labels; give one of each a sample."
        )
    return true, pred


def _code(labels: ArrayLike, name: str) -> NDArray[np.intp]:
    values = np.asarray(labels)
    if values.ndim != 1 or values.size == 0:
        raise InvalidInputError(f"{name} has shape {values.shape}; give a non-empty one-dimensional array.")
    if values.dtype.kind == "f" and bool(np.isnan(values).any()):
        raise InvalidInputError(f"{name} holds NaN; leave samples without a label out of the evaluation.")
    return np.unique(values, return_inverse=True)[1]
