# SPDX-License-Identifier: Apache-2.0
"""A window of the panel: volatilities, and winsorised standardised returns."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np

from sigmahat_kernels.backend import Array, array_namespace, kept_for_each_device

WINSOR_LIMIT = 3.0
"""Standardised returns are cut here: one fat-tailed day must not set the correlations."""

FAST_HALFLIFE = 63.0
VOLATILITY_HALFLIVES = (63.0, 21.0)

VOLATILITY_FLOOR = 0.1
"""An exponentially weighted volatility is at least this share of the window's: a stale price is not a safe asset."""

_OLDEST_HALFLIVES = 500.0
"""No weight is below 2^-500, about 1e-151: its product with a squared return is still a number above zero."""

TINY = 1e-300
"""What sums of squares are divided by at least: a series that does not move."""


class Window(NamedTuple):
    """Returns of `m` columns over `T` rows, prepared once and shared by all universes of the window."""

    returns: Array  # (T, m) simple returns as sent, missing = 0
    observed: Array  # (T, m) 1.0 where there is a return
    standardised: Array  # (T, m) winsorised, zero mean, missing = 0
    volatilities: Array  # (3, m) per period: of the window, then by `VOLATILITY_HALFLIVES`
    n_observed: Array  # (m,)
    kurtosis: Array  # (m,) fourth moment of the standardised returns before the cut; 3 if normal
    tail_share: Array  # (m,) share of returns that the cut moved

    @property
    def complete(self) -> bool:
        """Whether no return is missing."""
        return bool(self.n_observed.min() == len(self.returns))

    def mask(self, values: Array) -> None:
        """Put 0 where a return is missing, in place; on a GPU to look whether one is costs more than to multiply."""
        if array_namespace(values) is not np or not self.complete:
            values *= self.observed

    def columns(self, cut: slice) -> Window:
        """The same of some of the columns, as views."""
        return Window(*(values[..., cut] for values in self))


def prepare_window(returns: Array, *, winsor_limit: float | None = WINSOR_LIMIT) -> Window:
    """Measure volatilities and standardise the returns of one window.

    Parameters
    ----------
    returns : array of shape (T, m)
        Simple returns, NaN = missing; columns that passed `returns.column_status`.
    winsor_limit : float or None
        Cut in standard deviations; None leaves the returns as they are (textbook sample correlation).

    Returns
    -------
    Window
        In float64. Volatilities are per period; the window's divides by n - 1.
    """
    xp = array_namespace(returns)
    missing = xp.isnan(returns)
    complete = xp is np and not missing.any()
    observed = xp.ones(returns.shape) if complete else (~missing).astype(xp.float64)
    n_observed = observed.sum(axis=0)
    filled = (returns if complete else xp.where(missing, 0.0, returns)).astype(xp.float64)
    deviations = filled - filled.sum(axis=0) / n_observed
    if not complete:
        deviations *= observed
    squares = deviations**2
    window_volatility = xp.sqrt(squares.sum(axis=0) / (n_observed - 1))
    volatilities = [window_volatility]
    for halflife in VOLATILITY_HALFLIVES:
        weights = exponential_weights(xp, len(returns), halflife)
        # An asset without a recent return has only tiny weights left, so both sums are tiny: their ratio is sound.
        variance = weights @ squares / (weights @ observed)
        volatilities.append(xp.maximum(xp.sqrt(variance), VOLATILITY_FLOOR * window_volatility))

    standardised = deviations / window_volatility
    kurtosis = ((standardised**2) ** 2).sum(axis=0) / n_observed  # a power of 4 is ten times as slow
    tail_share = xp.zeros_like(window_volatility)
    if winsor_limit is not None:
        tail_share = (xp.abs(standardised) > winsor_limit).sum(axis=0) / n_observed
        standardised = xp.clip(standardised, -winsor_limit, winsor_limit)
        standardised -= standardised.sum(axis=0) / n_observed
        if not complete:
            standardised *= observed
    volatility = xp.stack(volatilities)
    return Window(filled, observed, standardised, volatility, n_observed, kurtosis, tail_share)


@kept_for_each_device(64)
def exponential_weights(xp: ModuleType, n_obs: int, halflife: float) -> Array:
    """Weights 2^(-age/halflife), the last row's age being 0; not normalised. Shape (n_obs,); not to be written to."""
    exponents = -xp.arange(n_obs - 1, -1, -1, dtype=xp.float64) / halflife
    # Older rows keep a weight above zero: an asset whose returns all lie there would be 0 / 0.
    return 2.0 ** xp.maximum(exponents, -_OLDEST_HALFLIVES)


def correlation_factor(window: Window, *, halflife: float | None = None) -> Array:
    """Z of shape (T, m) such that Z'Z is the window's correlation matrix, equal-weighted or exponentially weighted.

    Columns have unit length, so a pair is normalised by the root of the product of the two assets' own sums:
    with missing cells (zeros in Z) the matrix stays positive semi-definite with a unit diagonal.
    """
    xp = array_namespace(window.standardised)
    z = window.standardised
    if halflife is not None:
        z = z * xp.sqrt(exponential_weights(xp, len(z), halflife))[:, None]
    return z / xp.sqrt((z**2).sum(axis=0))
