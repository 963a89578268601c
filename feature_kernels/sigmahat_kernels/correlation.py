# SPDX-License-Identifier: Apache-2.0
"""Statistics of correlation matrices that need no eigenvalues: level, dispersion, structure, drift."""

from __future__ import annotations

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.pairs import HISTOGRAM_BINS, PairStatistics
from sigmahat_kernels.panel import FAST_HALFLIFE
from sigmahat_kernels.targets import factor_moves

CORRELATION = {
    "mean_correlation": "average off-diagonal correlation; (-1, 1)",
    "correlation_std": "standard deviation of the off-diagonal correlations; [0, 1]",
    "correlation_skewness": "their skewness; 0 where they hardly vary (variance up to 1e-7)",
    "correlation_q10": "their 10 % quantile, interpolated in a histogram of 32 equal bins; [-1, 1]",
    "correlation_q50": "the same for the median",
    "correlation_q90": "the same for the 90 % quantile",
    "negative_share": "share of negative off-diagonal correlations; [0, 1]",
    "asset_correlation_std": "standard deviation over assets of the asset's average correlation",
    "nearest_correlation": "average over assets of the largest correlation with another asset",
    "factor_r2": "average over assets of the squared correlation with the equal-weighted factor; [0, 1]",
    "single_factor_misfit": "||R - single factor||^2 / ||R - I||^2; small where one factor explains R",
    "constant_misfit": "||R - constant correlation||^2 / ||R - I||^2; [0, 1]",
    "ledoit_wolf_identity": "sum over i != j of pi-hat / (n ||R - I||^2): closed form (Ledoit, Wolf 2003); [0, 1]",
    "correlation_drift": "||R_fast - R||^2 / ||R - I||^2, R_fast exponentially weighted with half-life "
    f"{FAST_HALFLIFE:g}",
    "correlation_stability": "cosine between the off-diagonal sums of products of the window's two halves; 0 where a "
    "half's norm is below 1e-4 of the window's; [-1, 1]",
}
"""Feature name -> definition. Norms are Frobenius; R is the universe's correlation matrix."""

_TINY = 1e-12
_STILL = 1e-8

_HARDLY_VARIES = 1e-7
"""Below this variance the third moment around the average is lost in the rounding of the third moment around zero."""


def correlation_features(
    pairs: PairStatistics, n_assets: Array, sampling_noise: Array, n_effective: Array
) -> dict[str, Array]:
    """The features listed in `CORRELATION`, each of shape (n,).

    Parameters
    ----------
    pairs : PairStatistics
        Of n universes; row sums of a universe of fewer assets than the widest end in zeros.
    n_assets : integer array of shape (n,)
    sampling_noise : array of shape (n,)
        Sum over i != j of Ledoit and Wolf's pi-hat, less the sum of squared correlations: the fourth moments only.
    n_effective : array of shape (n,)
        Observations less one.
    """
    xp = array_namespace(n_assets)
    n_pairs = n_assets * (n_assets - 1) // 2
    total = pairs.row_sum.sum(axis=1)
    average = 0.5 * (total - n_assets) / n_pairs
    off_diagonal = 2.0 * pairs.square  # = ||R - I||^2
    scale = xp.maximum(off_diagonal, _TINY)
    variance = xp.maximum(pairs.square / n_pairs - average**2, 0.0)
    central_third = pairs.cube / n_pairs - 3.0 * average * variance - average * average * average
    varies = variance > _HARDLY_VARIES
    spread = xp.sqrt(xp.where(varies, variance, 1.0))

    held = xp.arange(pairs.row_sum.shape[1]) < n_assets[:, None]
    asset_average = (pairs.row_sum - 1.0) / (n_assets - 1.0)[:, None]
    asset_variance = (held * (asset_average - average[:, None]) ** 2).sum(axis=1) / n_assets

    # The loadings on the equal-weighted factor are l = R1 / sqrt(1'R1), see `targets.single_factor_loadings`.
    row_squares = pairs.row_sum**2
    has_factor = factor_moves(total, n_assets)
    total = xp.where(has_factor, total, 1.0)
    r2 = xp.where(has_factor, row_squares.sum(axis=1) / total, 0.0)
    fitted = xp.where(has_factor, pairs.form / total, 0.0) - r2
    factor_norm = r2**2 - xp.where(has_factor, (row_squares**2).sum(axis=1) / total**2, 0.0)

    second_square = pairs.square - 2.0 * pairs.first_product + pairs.first_square
    both = pairs.first_product - pairs.first_square
    # A half that hardly moved is a difference of two large numbers.
    moved = xp.minimum(pairs.first_square, second_square) > _STILL * pairs.square
    stability = xp.where(moved, both, 0.0) / xp.sqrt(xp.where(moved, pairs.first_square * second_square, 1.0))

    quantiles = _quantiles(pairs.histogram, n_pairs, 0.1 + 0.4 * xp.arange(3))
    noise = xp.maximum(sampling_noise - off_diagonal, 0.0)
    return {
        "mean_correlation": average,
        "correlation_std": xp.sqrt(variance),
        "correlation_skewness": xp.where(varies, central_third / (spread * spread * spread), 0.0),
        **{f"correlation_q{level}": quantiles[:, k] for k, level in enumerate((10, 50, 90))},
        "negative_share": pairs.histogram[:, : HISTOGRAM_BINS // 2].sum(axis=1) / n_pairs,
        "asset_correlation_std": xp.sqrt(asset_variance),
        "nearest_correlation": pairs.nearest / n_assets,
        "factor_r2": r2 / n_assets,
        "single_factor_misfit": (off_diagonal - 2.0 * fitted + factor_norm) / scale,
        "constant_misfit": 2.0 * n_pairs * variance / scale,
        "ledoit_wolf_identity": xp.minimum(noise / (n_effective * scale), 1.0),
        "correlation_drift": 2.0 * pairs.drift / scale,
        "correlation_stability": xp.clip(stability, -1.0, 1.0),
    }


def _quantiles(histogram: Array, n_pairs: Array, levels: Array) -> Array:
    """The correlations below which shares `levels` of the pairs lie, spread evenly inside each bin; (n, levels)."""
    xp = array_namespace(histogram)
    below = xp.cumsum(histogram, axis=1)
    wanted = n_pairs[:, None] * levels
    bin_ = (below[:, None, :] < wanted[:, :, None]).sum(axis=2)
    inside = xp.take_along_axis(histogram, bin_, axis=1)
    before = xp.take_along_axis(below, bin_, axis=1) - inside
    return 2.0 / HISTOGRAM_BINS * (bin_ + (wanted - before) / inside) - 1.0
