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

RECENT_ROWS = 252
"""Rows of full weight: older ones count by (RECENT_ROWS / age)^2, see `memory_weights`."""

ROBUST_LIMIT = 2.0
"""Standardised returns are cut here for a volatility in which jumps count little."""

VOLATILITIES = ("window", "halflife_63", "halflife_21", "halflife_126", "cut_21", "absolute", "absolute_21")
"""Rows of `Window.volatilities`: first those that an estimate blends (`parameters.VOLATILITY_BASES`); half-life 126;
half-life 21 of returns cut at `ROBUST_LIMIT`; mean absolute deviations, of the window and with half-life 21."""

VOLATILITY_FLOOR = 0.1
"""An exponentially weighted volatility is at least this share of the window's: a stale price is not a safe asset."""

_OLDEST_HALFLIVES = 500.0
"""No weight is below 2^-500, about 1e-151: its product with a squared return is still a number above zero."""

TINY = 1e-300
"""What sums of squares are divided by at least: a series that does not move."""


class Window(NamedTuple):
    """Returns of `m` columns over `T` rows, prepared once and shared by all universes of the window."""

    returns: Array  # (T, m) simple returns as sent, missing = 0; 0 too above the rows of a shorter window
    weights: Array  # (T,) of the rows in the window's volatilities and correlations, see `memory_weights`
    observed: Array  # (T, m) 1.0 where there is a return
    standardised: Array  # (T, m) winsorised, zero mean, missing = 0
    volatilities: Array  # (7, m) per period, in the order of `VOLATILITIES`
    n_observed: Array  # (m,)
    n_effective: Array  # (m,) equally weighted returns that know as much: (sum w)^2 / sum w^2
    kurtosis: Array  # (m,) fourth moment of the standardised returns before the cut; 3 if normal
    tail_share: Array  # (m,) share of returns that the cut moved
    lengths: Array | None = None  # (m,) rows of each column's window, the last ones, where not all have T

    @property
    def n_rows(self) -> Array | int:
        """Rows of each column's window: T, or (m,)."""
        return len(self.returns) if self.lengths is None else self.lengths

    @property
    def complete(self) -> bool:
        """Whether no return is missing."""
        return bool((self.n_observed == self.n_rows).all())

    def mask(self, values: Array) -> None:
        """Put 0 where a return is missing, in place; on a GPU to look whether one is costs more than to multiply."""
        if array_namespace(values) is not np or not self.complete:
            values *= self.observed

    def columns(self, cut: slice, n_rows: int) -> Window:
        """The same of the columns of one window of so many rows, as views."""
        last = slice(len(self.returns) - n_rows, None)
        of_rows = {name: getattr(self, name)[last, cut] for name in ("returns", "observed", "standardised")}
        of_columns = {name: getattr(self, name)[..., cut] for name in _OF_COLUMNS}
        return Window(**of_rows, **of_columns, weights=self.weights[last])


_OF_COLUMNS = ("volatilities", "n_observed", "n_effective", "kurtosis", "tail_share")


def prepare_window(
    returns: Array, *, winsor_limit: float | None = WINSOR_LIMIT, lengths: Array | None = None
) -> Window:
    """Measure volatilities and standardise the returns of one window.

    Parameters
    ----------
    returns : array of shape (T, m)
        Simple returns, NaN = missing; columns that passed `returns.column_status`.
    winsor_limit : float or None
        Cut in standard deviations; None leaves the returns as they are and weighs all rows alike (textbook sample
        correlation).
    lengths : integer array of shape (m,), optional
        See `Window`; what lies above is missing in `returns`.

    Returns
    -------
    Window
        In float64. Volatilities are per period; the window's divides by n - 1, n the sum of the rows' weights.
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
    alike = winsor_limit is None or len(returns) <= RECENT_ROWS
    weights = xp.ones(len(returns)) if alike else memory_weights(xp, len(returns))
    n_weighted, n_effective, total = n_observed, n_observed, squares.sum(axis=0)
    if not alike:
        n_weighted, total = weights @ observed, weights @ squares
        n_effective = n_weighted**2 / (weights**2 @ observed)
    # One degree of freedom goes to the mean, of weighted rows sum w^2 / sum w: n - 1 where all count alike.
    window_volatility = xp.sqrt(total / (n_weighted - n_weighted / n_effective))
    standardised = deviations / window_volatility
    volatilities = _volatilities(window_volatility, deviations, squares, observed, weights)
    kurtosis = ((standardised**2) ** 2).sum(axis=0) / n_observed  # a power of 4 is ten times as slow
    tail_share = xp.zeros_like(window_volatility)
    if winsor_limit is not None:
        tail_share = (xp.abs(standardised) > winsor_limit).sum(axis=0) / n_observed
        standardised = xp.clip(standardised, -winsor_limit, winsor_limit)
        standardised -= standardised.sum(axis=0) / n_observed
        if not complete:
            standardised *= observed
    of_columns = volatilities, n_observed, n_effective, kurtosis, tail_share
    return Window(filled, weights, observed, standardised, *of_columns, lengths)


def _volatilities(window: Array, deviations: Array, squares: Array, observed: Array, weights: Array) -> Array:
    """Those of `VOLATILITIES` of each column, (7, m); but for the window's, (m,), none is below a share of that."""
    xp = array_namespace(squares)

    def average(values: Array, of_rows: Array) -> Array:
        # An asset without a recent return has only tiny weights left, so both sums are tiny: their ratio is sound.
        return of_rows @ values / (of_rows @ observed)

    halflife_63, halflife_21, halflife_126 = (
        exponential_weights(xp, len(squares), h) for h in (*VOLATILITY_HALFLIVES, 126.0)
    )
    cut = xp.minimum(squares, (ROBUST_LIMIT * window) ** 2)
    sizes = xp.abs(deviations)
    others = xp.stack(
        [
            *(xp.sqrt(average(squares, of_rows)) for of_rows in (halflife_63, halflife_21, halflife_126)),
            xp.sqrt(average(cut, halflife_21)),
            average(sizes, weights),
            average(sizes, halflife_21),
        ]
    )
    return xp.concatenate([window[None], xp.maximum(others, VOLATILITY_FLOOR * window)])


@kept_for_each_device(64)
def memory_weights(xp: ModuleType, n_obs: int) -> Array:
    """Weights min(1, (RECENT_ROWS / age)^2), the last row's age being 1. Shape (n_obs,); not to be written to.

    Correlations drift, so the further back a row lies, the less it says about the days to come; what weight is best for
    it was measured on the validation period, see docs/estimate.md.
    """
    age = xp.arange(n_obs, 0, -1, dtype=xp.float64)
    return xp.minimum(1.0, (RECENT_ROWS / age) ** 2)


@kept_for_each_device(64)
def exponential_weights(xp: ModuleType, n_obs: int, halflife: float) -> Array:
    """Weights 2^(-age/halflife), the last row's age being 0; not normalised. Shape (n_obs,); not to be written to."""
    exponents = -xp.arange(n_obs - 1, -1, -1, dtype=xp.float64) / halflife
    # Older rows keep a weight above zero: an asset whose returns all lie there would be 0 / 0.
    return 2.0 ** xp.maximum(exponents, -_OLDEST_HALFLIVES)


def correlation_factor(window: Window, *, halflife: float | None = None) -> Array:
    """Z of shape (T, m) such that Z'Z is the window's correlation matrix.

    Rows count by the window's `weights`, or exponentially by a half-life.

    Columns have unit length, so a pair is normalised by the root of the product of the two assets' own sums:
    with missing cells (zeros in Z) the matrix stays positive semi-definite with a unit diagonal.
    """
    xp = array_namespace(window.standardised)
    z = window.standardised
    if halflife is not None:
        z = z * xp.sqrt(exponential_weights(xp, len(z), halflife))[:, None]
    elif len(z) > RECENT_ROWS:
        z = z * xp.sqrt(window.weights)[:, None]
    return z / xp.sqrt((z**2).sum(axis=0))
