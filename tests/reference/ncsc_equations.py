"""Eqs. 1 and 4-9 of Neural Collaborative Subspace Clustering, one sample pair at a time; rows are samples."""

from __future__ import annotations

from math import log, sqrt

import numpy as np


def eq1_classifier_affinity(scores):
    """A_c(i, j) = nu_i . nu_j, nu the scores of a sample divided by their length."""
    n, k = scores.shape
    A_c = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            length_i = sqrt(sum(scores[i, c] ** 2 for c in range(k)))
            length_j = sqrt(sum(scores[j, c] ** 2 for c in range(k)))
            for c in range(k):
                A_c[i, j] += scores[i, c] / length_i * scores[j, c] / length_j
    return A_c


def eq4_subspace_affinity(C):
    """Symmetrised magnitudes over the largest off-diagonal one of the row (Sec. 4), ones on the diagonal."""
    n = len(C)
    A_s = np.zeros((n, n))
    for i in range(n):
        row = [(abs(C[i, j]) + abs(C[j, i])) / 2 for j in range(n)]
        largest = max(row[j] for j in range(n) if j != i)
        for j in range(n):
            if j == i:
                A_s[i, j] = 1
            elif largest > 0:
                A_s[i, j] = row[j] / largest
    return A_s


def eq6_positive(A_s, A_c, u):
    """Sum over selected pairs of the cross-entropy, and the number of pairs."""
    total, count = 0.0, 0
    for i in range(len(A_s)):
        for j in range(len(A_s)):
            if i != j and A_s[i, j] > u:
                total -= A_s[i, j] * log(A_c[i, j])
                count += 1
    return total, count


def eq7_negative(A_c, A_s, l):  # noqa: E741
    """Sum over selected pairs of the cross-entropy, and the number of pairs."""
    total, count = 0.0, 0
    for i in range(len(A_s)):
        for j in range(len(A_s)):
            if i != j and A_c[i, j] < l:
                total -= (1 - A_c[i, j]) * log(1 - A_s[i, j])
                count += 1
    return total, count


def eq5_collaboration(A_s, A_c, u, l):  # noqa: E741
    """L_pos + alpha L_neg with sums and alpha = #positive / #negative."""
    positive, n_positive = eq6_positive(A_s, A_c, u)
    negative, n_negative = eq7_negative(A_c, A_s, l)
    return positive + n_positive / n_negative * negative


def eq9_subspace(C, Z, X, Xhat, lambda_1):
    """||C||_F^2 + lambda_1 / 2 ||Z - C Z||_F^2 + 1/2 ||X - Xhat||_F^2."""
    n, d = Z.shape
    size = sum(C[i, j] ** 2 for i in range(n) for j in range(n))
    residual = 0.0
    for i in range(n):
        for a in range(d):
            residual += (Z[i, a] - sum(C[i, j] * Z[j, a] for j in range(n))) ** 2
    flat, flat_hat = X.reshape(n, -1), Xhat.reshape(n, -1)
    error = sum((flat[i, a] - flat_hat[i, a]) ** 2 for i in range(n) for a in range(flat.shape[1]))
    return size + lambda_1 / 2 * residual + error / 2


def eq8_total(C, Z, X, Xhat, lambda_1, A_s, A_c, u, l, lambda_cl):  # noqa: E741
    """L_sub + lambda_cl Omega."""
    return eq9_subspace(C, Z, X, Xhat, lambda_1) + lambda_cl * eq5_collaboration(A_s, A_c, u, l)
