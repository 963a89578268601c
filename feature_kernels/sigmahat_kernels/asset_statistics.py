# SPDX-License-Identifier: Apache-2.0
"""Statistics of single assets within their universe: what a tilt leans on."""

from __future__ import annotations

from sigmahat_kernels.backend import Array, array_namespace

ASSET_STATISTICS: dict[str, float] = {
    "mean_correlation": 0.15,  # mean correlation with the universe's other assets
    "mean_correlation_change": 0.1,  # the same, exponentially weighted minus equal-weighted
    "log_unshared": 1.0,  # ln(1 - r^2), r the largest absolute correlation with another asset
    "log_volatility": 0.5,
    "log_volatility_63": 0.25,  # ln(volatility at half-life 63 / the window's)
    "log_volatility_21": 0.35,  # the same at half-life 21
    "log_kurtosis": 0.7,
    "root_mean_square_correlation": 0.15,  # over the universe's other assets
    "log_volatility_126": 0.1,  # ln(volatility at half-life 126 / the window's)
    "log_cut_21": 0.3,  # the same at half-life 21, of returns cut at 2 standard deviations
    "log_absolute": 0.1,  # ln(mean absolute deviation / the window's volatility)
    "log_absolute_21": 0.3,  # the same at half-life 21
}
"""Statistic -> the size of a usual difference between assets, in which it is measured."""

N_ASSET_STATISTICS = len(ASSET_STATISTICS)

STATISTIC_LIMIT = 4.0
"""No statistic of an asset is further from its universe's mean than this, in usual differences."""

LEAST_UNSHARED = 1e-6
"""At least this much of an asset's variance counts as not shared with its closest neighbour."""


def asset_statistics(slow: Array, fast: Array, volatilities: Array, kurtosis: Array) -> Array:
    """Statistics of each asset: relative to the universe's mean, in usual differences, and limited.

    Parameters
    ----------
    slow, fast : arrays of shape (n, N, N)
        Equal-weighted and exponentially weighted correlation, unit diagonal.
    volatilities : array of shape (7, n, N)
        In the order of `panel.VOLATILITIES`.
    kurtosis : array of shape (n, N)
        Fourth moment of the standardised returns; 3 if normal.

    Returns
    -------
    array of shape (n, N, N_ASSET_STATISTICS)
        In the order of `ASSET_STATISTICS`; of zero mean over the universe unless a limit was met.

    Notes
    -----
    ln(1 - r^2) is what the asset's closest neighbour leaves of its log variance. Where it is very negative, as between
    two funds on one index, a little shrinkage toward independence does great harm.

    >>> import numpy as np
    >>> correlation = np.array([[[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    >>> statistics = asset_statistics(correlation, correlation, np.ones((7, 1, 3)), np.full((1, 3), 3.0))
    >>> statistics[0, :, 2].round(3)  # ln(1 - 0.36) = -0.446, twice
    array([-0.149, -0.149,  0.298])
    """
    xp = array_namespace(slow)
    others = slow.shape[-1] - 1
    ones = xp.ones(slow.shape[-1])
    mean = (slow @ ones - 1.0) / others
    change = (fast @ ones - 1.0) / others - mean
    squares = xp.einsum("nij,nij->ni", slow, slow) - 1.0
    diagonal = xp.arange(slow.shape[-1])
    slow[:, diagonal, diagonal] = 0.0
    nearest = xp.maximum(slow.max(axis=-1), -slow.min(axis=-1))
    slow[:, diagonal, diagonal] = 1.0
    logs = xp.log(volatilities)
    ratios = logs[1:] - logs[0]
    statistics = xp.stack(
        [
            mean,
            change,
            xp.log(xp.maximum(1.0 - nearest**2, LEAST_UNSHARED)),
            logs[0],
            ratios[0],
            ratios[1],
            xp.log(kurtosis),
            xp.sqrt(xp.maximum(squares, 0.0) / others),
            *ratios[2:],
        ],
        axis=-1,
    )
    statistics -= statistics.mean(axis=1, keepdims=True)
    statistics /= xp.asarray(list(ASSET_STATISTICS.values()))
    return xp.clip(statistics, -STATISTIC_LIMIT, STATISTIC_LIMIT)
