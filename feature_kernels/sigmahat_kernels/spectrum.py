# SPDX-License-Identifier: Apache-2.0
"""Eigenvalues of correlation matrices, and what they say against the Marchenko-Pastur law."""

from __future__ import annotations

import math

from sigmahat_kernels.backend import Array, array_namespace

SPECTRUM = {
    "log_assets": "ln N",
    "log_observations": "ln n, n = average number of returns an asset has, less one",
    "log_concentration": "ln q, q = N / n",
    "null_share": "share of eigenvalues that are exactly zero because T - 1 < N; [0, 1)",
    "top_share": "lambda_1 / N, share of variance of the first principal component; (0, 1]",
    "top3_share": "(lambda_1 + lambda_2 + lambda_3) / N; (0, 1]",
    "effective_rank": "exp(entropy of lambda / N) / N (Roy, Vetterli 2007); (0, 1]",
    "participation": "N / sum lambda^2, participation ratio over N; (0, 1]",
    "stable_rank": "ln(sum lambda^2 / lambda_1^2), stable rank of R; >= 0",
    "log_condition": "log10(lambda_1 / smallest non-null eigenvalue), capped at 10",
    "log_determinant": "mean ln(lambda) over the non-null eigenvalues, each floored at 1e-6",
    "log_gap": "ln(lambda_1 / lambda_2), lambda_2 floored at 1e-6",
    "edge_ratio": "ln(lambda_1 / lambda_+), lambda_+ = (1 + sqrt q)^2, the Marchenko-Pastur edge",
    "second_edge_ratio": "ln(lambda_2 / lambda_+), lambda_2 floored at 1e-6",
    "factors": "ln(1 + number of eigenvalues above lambda_+)",
    "factor_share": "share of variance in eigenvalues above lambda_+; [0, 1]",
    "eigenvalue_ratio": "max ln(lambda_k / lambda_k+1), k <= min(10, N/2, non-null - 1) (Ahn, Horenstein 2013)",
    "eigenvalue_ratio_k": "ln of the k at which that maximum stands",
    "bulk_q10": "ln of the 10 % quantile (nearest rank) of the non-null eigenvalues up to lambda_+ over their mean",
    "bulk_q50": "the same for the median",
    "bulk_q90": "the same for the 90 % quantile",
}
"""Feature name -> definition. lambda_1 >= lambda_2 >= ... are the eigenvalues of the correlation matrix; sum N."""

_FLOOR = 1e-6
_CONDITION_CAP = 10.0
_MAX_FACTORS = 10


def correlation_spectrum(correlation: Array) -> Array:
    """Eigenvalues of a stack of correlation matrices, shape (n, N, N) -> (n, N), ascending, none negative."""
    xp = array_namespace(correlation)
    return xp.maximum(xp.linalg.eigvalsh(correlation), 0.0)


def dual_spectrum(factor: Array) -> Array:
    """The same eigenvalues from the factor Z of R = Z'Z, for T - 1 < N.

    The T x T Gram matrix Z Z' has the non-zero eigenvalues of R. The columns of Z sum to zero, so at most T - 1 of them
    are not null: the N - T + 1 others are exactly zero here.

    Parameters
    ----------
    factor : array of shape (n, T, N)

    Returns
    -------
    array of shape (n, N)
        Ascending, none negative.
    """
    xp = array_namespace(factor)
    n, n_obs, n_assets = factor.shape
    eigenvalues = xp.zeros((n, n_assets))
    gram = factor @ factor.transpose(0, 2, 1)
    eigenvalues[:, n_assets - n_obs + 1 :] = correlation_spectrum(gram)[:, 1:]
    return eigenvalues


def spectrum_features(eigenvalues: Array, n_obs: int, n_effective: Array) -> dict[str, Array]:
    """The features listed in `SPECTRUM`, each of shape (n,).

    Parameters
    ----------
    eigenvalues : array of shape (n, N)
        Ascending, as `correlation_spectrum` and `dual_spectrum` return them.
    n_obs : int
        Rows of the window; sets how many eigenvalues are null.
    n_effective : array of shape (n,)
        Average number of returns of a universe's assets, less one.
    """
    xp = array_namespace(eigenvalues)
    n_assets = eigenvalues.shape[1]
    n_kept = min(n_assets, n_obs - 1)
    kept = eigenvalues[:, n_assets - n_kept :]
    descending = kept[:, ::-1]
    first = descending[:, 0]
    second = xp.maximum(descending[:, min(1, n_kept - 1)], _FLOOR)
    floored = xp.maximum(kept, _FLOOR)
    concentration = n_assets / n_effective
    edge = (1.0 + xp.sqrt(concentration)) ** 2

    shares = kept / n_assets
    entropy = -(shares * xp.log(xp.maximum(shares, 1e-300))).sum(axis=1)
    sum_squares = (kept**2).sum(axis=1)

    above = kept > edge[:, None]
    n_above = above.sum(axis=1)
    # The bulk: non-null eigenvalues below the edge, in ascending order the first n_kept - n_above ones.
    n_bulk = xp.maximum(n_kept - n_above, 1)
    bulk_mean = xp.maximum((kept * ~above).sum(axis=1) / n_bulk, _FLOOR)

    n_ratios = max(1, min(_MAX_FACTORS, n_assets // 2, n_kept - 1))
    logs = xp.log(xp.maximum(descending[:, : n_ratios + 1], _FLOOR))
    ratios = logs[:, :-1] - logs[:, 1:]

    features = {
        "log_assets": xp.full_like(first, math.log(n_assets)),
        "log_observations": xp.log(n_effective),
        "log_concentration": xp.log(concentration),
        "null_share": xp.full_like(first, 1.0 - n_kept / n_assets),
        "top_share": first / n_assets,
        "top3_share": descending[:, :3].sum(axis=1) / n_assets,
        "effective_rank": xp.exp(entropy) / n_assets,
        "participation": n_assets / sum_squares,
        "stable_rank": xp.log(sum_squares / first**2),
        "log_condition": xp.minimum(xp.log10(first / xp.maximum(kept[:, 0], 1e-300)), _CONDITION_CAP),
        "log_determinant": xp.log(floored).mean(axis=1),
        "log_gap": xp.log(first / second),
        "edge_ratio": xp.log(first / edge),
        "second_edge_ratio": xp.log(second / edge),
        "factors": xp.log1p(n_above),
        "factor_share": (kept * above).sum(axis=1) / n_assets,
        "eigenvalue_ratio": ratios.max(axis=1),
        "eigenvalue_ratio_k": xp.log(1.0 + ratios.argmax(axis=1)),
    }
    for name, level in (("bulk_q10", 0.1), ("bulk_q50", 0.5), ("bulk_q90", 0.9)):
        position = xp.rint(level * (n_bulk - 1)).astype(xp.int64)
        features[name] = xp.log(xp.take_along_axis(floored, position[:, None], axis=1)[:, 0] / bulk_mean)
    return features
