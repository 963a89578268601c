# SPDX-License-Identifier: Apache-2.0
"""Statistics of correlation matrices that need no eigenvalues: level, dispersion, structure, drift."""

from __future__ import annotations

from sigmahat_kernels.backend import Array, array_namespace
from sigmahat_kernels.targets import mean_correlation, single_factor_loadings

CORRELATION = {
    "mean_correlation": "average off-diagonal correlation; (-1, 1)",
    "correlation_std": "standard deviation of the off-diagonal correlations; [0, 1]",
    "correlation_skewness": "their skewness; 0 where they hardly vary (variance up to 1e-7)",
    "negative_share": "share of negative off-diagonal correlations; [0, 1]",
    "asset_correlation_std": "standard deviation over assets of the asset's average correlation",
    "nearest_correlation": "average over assets of the largest correlation with another asset",
    "factor_r2": "average over assets of the squared correlation with the equal-weighted factor; [0, 1]",
    "single_factor_misfit": "||R - single factor||^2 / ||R - I||^2; small where one factor explains R",
    "constant_misfit": "||R - constant correlation||^2 / ||R - I||^2; [0, 1]",
    "ledoit_wolf_identity": "sum over i != j of pi-hat / (n ||R - I||^2): closed form (Ledoit, Wolf 2003); [0, 1]",
    "correlation_drift": "||R_fast - R||^2 / ||R - I||^2, R_fast exponentially weighted with half-life 63",
}
"""Feature name -> definition. Norms are Frobenius; R is the universe's correlation matrix."""

_TINY = 1e-12

_HARDLY_VARIES = 1e-7
"""Below this variance the third moment around the average is lost in the rounding of the third moment around zero."""


def correlation_features(
    correlation: Array, fast_correlation: Array, sampling_noise: Array, n_effective: Array
) -> dict[str, Array]:
    """The features listed in `CORRELATION`, each of shape (n,).

    Parameters
    ----------
    correlation, fast_correlation : arrays of shape (n, N, N)
        Equal-weighted and exponentially weighted correlation.
    sampling_noise : array of shape (n,)
        Sum over i != j of Ledoit and Wolf's pi-hat, less the sum of squared correlations: the fourth moments only.
    n_effective : array of shape (n,)
        Observations less one.
    """
    xp = array_namespace(correlation)
    n_assets = correlation.shape[-1]
    n_pairs = n_assets * (n_assets - 1)
    average = mean_correlation(correlation)
    off_diagonal = xp.maximum((correlation**2).sum(axis=(1, 2)) - n_assets, 0.0)  # = ||R - I||^2
    scale = xp.maximum(off_diagonal, _TINY)
    variance = xp.maximum(off_diagonal / n_pairs - average**2, 0.0)
    third = ((correlation * correlation * correlation).sum(axis=(1, 2)) - n_assets) / n_pairs
    central_third = third - 3.0 * average * variance - average**3
    varies = variance > _HARDLY_VARIES

    asset_average = (correlation.sum(axis=2) - 1.0) / (n_assets - 1)
    others = correlation - 2.0 * xp.eye(n_assets)  # the diagonal becomes -1, below every correlation

    loadings = single_factor_loadings(correlation)
    squares = loadings**2
    fitted = ((correlation @ loadings[:, :, None])[:, :, 0] * loadings).sum(axis=1) - squares.sum(axis=1)
    factor_norm = squares.sum(axis=1) ** 2 - (squares**2).sum(axis=1)

    noise = xp.maximum(sampling_noise - off_diagonal, 0.0)
    return {
        "mean_correlation": average,
        "correlation_std": xp.sqrt(variance),
        "correlation_skewness": xp.where(varies, central_third / xp.where(varies, variance, 1.0) ** 1.5, 0.0),
        "negative_share": (correlation < 0).sum(axis=(1, 2)) / n_pairs,
        "asset_correlation_std": asset_average.std(axis=1),
        "nearest_correlation": others.max(axis=2).mean(axis=1),
        "factor_r2": squares.mean(axis=1),
        "single_factor_misfit": (off_diagonal - 2.0 * fitted + factor_norm) / scale,
        "constant_misfit": n_pairs * variance / scale,
        "ledoit_wolf_identity": xp.minimum(noise / (n_effective * scale), 1.0),
        "correlation_drift": ((fast_correlation - correlation) ** 2).sum(axis=(1, 2)) / scale,
    }
