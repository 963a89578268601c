# SPDX-License-Identifier: Apache-2.0
"""Eigenvalues of correlation matrices, and what they say against the Marchenko-Pastur law."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from sigmahat_kernels.backend import AnyArray, Array, array_namespace, kept_for_each_device

SPECTRUM = {
    "log_assets": "ln N",
    "log_observations": "ln n, n = average over assets of (sum w)^2 / sum w^2 of the weights of their rows, less one",
    "log_concentration": "ln q, q = N / n",
    "null_share": "share of eigenvalues that are exactly zero because T - 1 < N; [0, 1)",
    "top_share": "lambda_1 / N, share of variance of the first principal component; (0, 1]",
    "top3_share": "(lambda_1 + lambda_2 + lambda_3) / N; (0, 1]",
    "top10_share": "share of the ten largest; (0, 1]",
    "effective_rank": "exp(entropy of lambda / N) / N (Roy, Vetterli 2007); (0, 1]",
    "participation": "N / sum lambda^2, participation ratio over N; (0, 1]",
    "stable_rank": "ln(sum lambda^2 / lambda_1^2), stable rank of R; >= 0",
    "numerical_rank": "share of eigenvalues above lambda_1 max(N, T) eps, eps = 2.2e-16; (0, 1]",
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
    "mp_q10": "(x - lambda_-) / (lambda_+ - lambda_-), lambda_- = (1 - sqrt q)^2, x = 10 % quantile of the non-null",
    "mp_q50": "the same for the median",
    "mp_q90": "the same for the 90 % quantile",
    **{
        f"sketch_{k}": f"random projection {k} of the non-null eigenvalues' 32 quantiles, see `SKETCH_SIGNS`"
        for k in range(1, 9)
    },
}
"""Feature name -> definition. lambda_1 >= lambda_2 >= ... are the eigenvalues of the correlation matrix; sum N."""

SKETCH_SIGNS = (
    0x243F6A88,
    0x85A308D3,
    0x13198A2E,
    0x03707344,
    0xA4093822,
    0x299F31D0,
    0x082EFA98,
    0xEC4E6C89,
)
"""The random projections (Achlioptas 2003: entries +1 or -1), one a row: the digits of pi, so that anyone can redraw
them. sketch_k is the sum over i of +-ln(x_i) / sqrt 32, + where bit i of the k-th word is set (bit 0 is the lowest) and
x_i the (i + 1/2) / 32 quantile (nearest rank, floored at 1e-6) of the non-null eigenvalues: 32 numbers in 8 that keep
their distances, whatever the order of the assets."""

_SKETCH_LEVELS = 32
_FLOOR = 1e-6
_CONDITION_CAP = 10.0
_MAX_FACTORS = 10
_EPSILON = float(np.finfo(np.float64).eps)


def correlation_spectrum(correlation: Array) -> Array:
    """Eigenvalues of a stack of correlation matrices, shape (n, N, N) -> (n, N), ascending, none negative."""
    xp = array_namespace(correlation)
    return xp.maximum(xp.linalg.eigvalsh(correlation), 0.0)


def is_dual(n_obs: AnyArray, n_assets: AnyArray) -> Any:
    """Whether demeaned returns leave a correlation matrix with null eigenvalues: T - 1 < N."""
    return n_obs - 1 < n_assets


def dual_spectrum(factor: Array, solve: Callable[[Array], Array] = correlation_spectrum) -> Array:
    """The same eigenvalues from the factor Z of R = Z'Z, for T - 1 < N.

    The T x T Gram matrix Z Z' has the non-zero eigenvalues of R. The columns of Z sum to zero, so at most T - 1 of them
    are not null: the N - T + 1 others are exactly zero here.

    Parameters
    ----------
    factor : array of shape (n, N, T)
        Z', one row an asset.
    solve : callable
        Spectra of Gram matrices, shape (n, T, T) -> (n, T), ascending, none negative; the first of each is null.

    Returns
    -------
    array of shape (n, N)
        Ascending, none negative.
    """
    n, n_assets, n_obs = factor.shape
    eigenvalues = array_namespace(factor).zeros((n, n_assets))
    eigenvalues[:, n_assets - n_obs + 1 :] = solve(factor.transpose(0, 2, 1) @ factor)[:, 1:]
    return eigenvalues


class _Spectra(NamedTuple):
    """Eigenvalues of `n` universes beside the Marchenko-Pastur law of their concentration; see `spectrum_features`."""

    eigenvalues: Array  # (n, width)
    floored: Array  # (n, width)
    logs: Array  # (n, width), of those
    n_assets: Array  # (n,)
    n_kept: Array  # (n,) number of non-null eigenvalues
    concentration: Array  # (n,) q
    lower: Array  # (n,) lambda_-
    upper: Array  # (n,) lambda_+
    above: Array  # (n, width), whether above lambda_+

    @property
    def first(self) -> Array:
        """lambda_1, (n,)."""
        return self.eigenvalues[:, -1]

    def quantiles(self, values: Array, levels: Array, count: Array) -> Array:
        """Of the `count` smallest non-null ones of `values`, by nearest rank; (n, len(levels))."""
        xp = array_namespace(values)
        rank = xp.rint(levels * (count - 1)[:, None]).astype(xp.int64)
        return xp.take_along_axis(values, (values.shape[1] - self.n_kept)[:, None] + rank, axis=1)


def spectrum_features(eigenvalues: Array, n_assets: Array, n_obs: Array, n_effective: Array) -> dict[str, Array]:
    """The features listed in `SPECTRUM`, each of shape (n,).

    Parameters
    ----------
    eigenvalues : array of shape (n, width)
        Ascending, as `correlation_spectrum` and `dual_spectrum` return them; a universe of fewer assets than `width`
        has zeros in front.
    n_assets : integer array of shape (n,)
    n_obs : integer array of shape (n,)
        Rows of the window; sets how many eigenvalues are null.
    n_effective : array of shape (n,)
        Average number of returns of a universe's assets, less one.
    """
    xp = array_namespace(eigenvalues)
    floored = xp.maximum(eigenvalues, _FLOOR)
    concentration = n_assets / n_effective
    lower, upper = ((1.0 + sign * xp.sqrt(concentration)) ** 2 for sign in (-1.0, 1.0))
    spectra = _Spectra(
        eigenvalues,
        floored,
        xp.log(floored),
        n_assets,
        xp.minimum(n_assets, n_obs - 1),
        concentration,
        lower,
        upper,
        eigenvalues > upper[:, None],
    )
    levels, projections = sketching(xp)
    sketch = spectra.quantiles(spectra.logs, levels, spectra.n_kept) @ projections
    return {
        "log_assets": xp.log(n_assets),
        "log_observations": xp.log(n_effective),
        "log_concentration": xp.log(concentration),
        "null_share": 1.0 - spectra.n_kept / n_assets,
        **_shares_and_ranks(spectra),
        "numerical_rank": _numerical_rank(spectra, n_obs) / n_assets,
        **_edge_and_gaps(spectra),
        **_bulk(spectra),
        **{f"sketch_{k + 1}": sketch[:, k] for k in range(len(SKETCH_SIGNS))},
    }


def _shares_and_ranks(spectra: _Spectra) -> dict[str, Array]:
    """How the variance is spread over the eigenvalues."""
    eigenvalues, n_assets, first = spectra.eigenvalues, spectra.n_assets, spectra.first
    xp = array_namespace(eigenvalues)
    descending = eigenvalues[:, ::-1]
    shares = eigenvalues / n_assets[:, None]
    entropy = -(shares * xp.log(xp.maximum(shares, 1e-300))).sum(axis=1)
    sum_squares = (eigenvalues**2).sum(axis=1)
    smallest = spectra.quantiles(eigenvalues, xp.zeros(1), spectra.n_kept)[:, 0]
    kept = xp.arange(eigenvalues.shape[1]) >= (eigenvalues.shape[1] - spectra.n_kept)[:, None]
    return {
        "top_share": first / n_assets,
        "top3_share": descending[:, :3].sum(axis=1) / n_assets,
        "top10_share": descending[:, :10].sum(axis=1) / n_assets,
        "effective_rank": xp.exp(entropy) / n_assets,
        "participation": n_assets / sum_squares,
        "stable_rank": xp.log(sum_squares / first**2),
        "log_condition": xp.minimum(xp.log10(first / xp.maximum(smallest, 1e-300)), _CONDITION_CAP),
        "log_determinant": (spectra.logs * kept).sum(axis=1) / spectra.n_kept,
    }


def _numerical_rank(spectra: _Spectra, n_obs: Array) -> Array:
    xp = array_namespace(spectra.eigenvalues)
    negligible = spectra.first * xp.maximum(spectra.n_assets, n_obs) * _EPSILON
    return (spectra.eigenvalues > negligible[:, None]).sum(axis=1)


def _edge_and_gaps(spectra: _Spectra) -> dict[str, Array]:
    """The largest eigenvalues against the edge of the noise, and against each other."""
    xp = array_namespace(spectra.eigenvalues)
    first, second = spectra.first, spectra.floored[:, -2]
    logs = spectra.logs[:, ::-1][:, : _MAX_FACTORS + 1]
    n_ratios = xp.maximum(xp.minimum(xp.minimum(_MAX_FACTORS, spectra.n_assets // 2), spectra.n_kept - 1), 1)
    ratios = logs[:, :-1] - logs[:, 1:]
    ratios = xp.where(xp.arange(ratios.shape[1]) < n_ratios[:, None], ratios, -1.0)  # a ratio's logarithm is >= 0
    return {
        "log_gap": xp.log(first / second),
        "edge_ratio": xp.log(first / spectra.upper),
        "second_edge_ratio": xp.log(second / spectra.upper),
        "factors": xp.log1p(spectra.above.sum(axis=1)),
        "factor_share": (spectra.eigenvalues * spectra.above).sum(axis=1) / spectra.n_assets,
        "eigenvalue_ratio": ratios.max(axis=1),
        "eigenvalue_ratio_k": xp.log(1.0 + ratios.argmax(axis=1)),
    }


def _bulk(spectra: _Spectra) -> dict[str, Array]:
    """Deciles of the eigenvalues up to the edge over their mean, and of all non-null ones between the law's edges."""
    xp = array_namespace(spectra.eigenvalues)
    # In ascending order the bulk is the first n_kept - n_above non-null eigenvalues.
    n_bulk = xp.maximum(spectra.n_kept - spectra.above.sum(axis=1), 1)
    mean = xp.maximum((spectra.eigenvalues * ~spectra.above).sum(axis=1) / n_bulk, _FLOOR)
    deciles = 0.1 + 0.4 * xp.arange(3)
    bulk = xp.log(spectra.quantiles(spectra.floored, deciles, n_bulk) / mean[:, None])
    above_lower = spectra.quantiles(spectra.eigenvalues, deciles, spectra.n_kept) - spectra.lower[:, None]
    position = above_lower / (spectra.upper - spectra.lower)[:, None]
    return {
        **{name: bulk[:, k] for k, name in enumerate(("bulk_q10", "bulk_q50", "bulk_q90"))},
        **{name: position[:, k] for k, name in enumerate(("mp_q10", "mp_q50", "mp_q90"))},
    }


@kept_for_each_device(2 * 8)
def sketching(xp: ModuleType) -> tuple[Array, Array]:
    """Quantile levels, and the projections of these quantiles, shape (levels, projections)."""
    levels = (xp.arange(_SKETCH_LEVELS) + 0.5) / _SKETCH_LEVELS
    signs = [[1.0 if word >> i & 1 else -1.0 for word in SKETCH_SIGNS] for i in range(_SKETCH_LEVELS)]
    return levels, xp.asarray(signs) / math.sqrt(_SKETCH_LEVELS)
