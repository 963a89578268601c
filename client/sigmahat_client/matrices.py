# SPDX-License-Identifier: Apache-2.0
"""What one does with a covariance matrix: correlation, annual figures, a single factor, a picture.

Matrices are arrays of shape (..., N, N), or labelled DataFrames as `Estimates.covariance_of` gives them; what comes
back is of the same kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from sigmahat_client.intake.arrays import require
from sigmahat_kernels.status import InvalidRequest
from sigmahat_kernels.targets import single_factor_loadings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Matrix = TypeVar("Matrix")
"""An array, or a DataFrame whose index and columns are the assets."""


class SingleFactor(NamedTuple):
    """Covariance of one factor: outer(loadings, loadings) + diag(idiosyncratic); DataFrames give Series."""

    loadings: Any
    """(..., N) covariance of each asset with the factor, whose variance is 1: returns per standard deviation of it."""
    idiosyncratic: Any
    """(..., N) variance that the factor does not explain, in squared returns per period; not negative."""


def to_correlation(covariance: Matrix) -> Matrix:
    """Divide a covariance matrix by the volatilities.

    Returns
    -------
    array or DataFrame of shape (..., N, N)
        With a diagonal of exactly 1.

    Raises
    ------
    InvalidRequest
        If it is not square, or a variance is not positive; names the asset.

    >>> to_correlation(np.array([[4.0, 1.0], [1.0, 1.0]]))
    array([[1. , 0.5],
           [0.5, 1. ]])
    """
    values = _checked(covariance)
    volatilities = np.sqrt(np.einsum("...ii->...i", values))
    correlation = values / volatilities[..., :, None] / volatilities[..., None, :]
    diagonal = np.arange(values.shape[-1])
    correlation[..., diagonal, diagonal] = 1.0
    return _like(covariance, correlation)


def annualise(covariance: Matrix, periods: float) -> Matrix:
    """Covariance of a year of returns, from that of one period: returns of different periods count as uncorrelated.

    Parameters
    ----------
    covariance : array or DataFrame of shape (..., N, N)
        Per period, as it is estimated.
    periods : float
        Periods a year: 252 for daily returns. Volatilities grow by its root, correlations stay.

    Raises
    ------
    InvalidRequest
        If `periods` is not positive.

    >>> annualise(np.array([[0.0001]]), 252)
    array([[0.0252]])
    """
    require(0 < periods < np.inf, f"periods must be a positive number of periods a year, got {periods}")
    return cast(Matrix, covariance * periods)  # type: ignore[operator]  # any array or frame multiplies


def single_factor(covariance: Matrix) -> SingleFactor:
    """Take one factor out of a covariance matrix, as the model's single-factor target does.

    The factor is the equal-weighted mean of the assets' returns, each divided by its volatility, scaled to variance 1.
    With D the volatilities and R the correlation, the loading of asset i is D_i (R1)_i / sqrt(1'R1), and what it leaves
    of D_i^2 is idiosyncratic. Residuals of two assets are still correlated where the market has other factors.

    Parameters
    ----------
    covariance : array or DataFrame of shape (..., N, N)
        In squared returns per period.

    Raises
    ------
    InvalidRequest
        As `to_correlation` does.

    References
    ----------
    Ledoit, Wolf (2003), J. Empirical Finance 10; there the factor is given, here it is made of the assets.

    >>> single_factor(np.array([[1.0, 0.5], [0.5, 1.0]])).loadings.round(4)
    array([0.866, 0.866])
    """
    values = _checked(covariance)
    volatilities = np.sqrt(np.einsum("...ii->...i", values))
    correlations = single_factor_loadings(to_correlation(values).sum(axis=-1))
    loadings = volatilities * correlations
    idiosyncratic = volatilities**2 * np.maximum(1.0 - correlations**2, 0.0)
    if not hasattr(covariance, "index"):
        return SingleFactor(loadings, idiosyncratic)
    import pandas as pd

    found = ((loadings, "loading"), (idiosyncratic, "idiosyncratic_variance"))
    return SingleFactor(*(pd.Series(values, covariance.index, name=name) for values, name in found))


def plot_matrix(matrix: Any, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw one matrix as a heat map, colours centred at zero; needs matplotlib.

    Parameters
    ----------
    matrix : array or DataFrame of shape (N, N)
        A correlation matrix is easiest to read: its colours run from -1 to 1. Labels are written up to 60 assets.
    ax : matplotlib Axes, optional
        Where to draw; default: a new figure.
    title : str, optional

    Returns
    -------
    matplotlib Axes
    """
    values = np.asarray(matrix, dtype=np.float64)
    require(
        values.ndim == 2 and values.shape[0] == values.shape[1], f"matrix must have shape (N, N), got {values.shape}"
    )
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(layout="constrained").add_subplot()
    largest = float(np.nanmax(np.abs(values)))
    image = ax.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="none")
    ax.figure.colorbar(image, ax=ax)
    labels = getattr(matrix, "columns", None)
    if labels is not None and len(labels) <= _MOST_LABELS:
        texts, size = list(map(str, labels)), min(10.0, _LABEL_POINTS / len(labels))
        ax.set_xticks(range(len(labels)), labels=texts, rotation=90, fontsize=size)
        ax.set_yticks(range(len(labels)), labels=texts, fontsize=size)
    if title is not None:
        ax.set_title(title)
    return ax


_MOST_LABELS = 60
_LABEL_POINTS = 300.0  # of all labels of an axis, one above the other


def _checked(covariance: Any) -> npt.NDArray[np.float64]:
    values = np.array(covariance, dtype=np.float64)  # a copy
    require(
        values.ndim >= 2 and values.shape[-1] == values.shape[-2],
        f"a covariance matrix must have shape (..., N, N), got {values.shape}",
    )
    variances = np.einsum("...ii->...i", values)
    bad = np.argwhere(~(variances > 0) & ~np.isnan(variances))
    if len(bad):
        asset = int(bad[0, -1])
        name = covariance.columns[asset] if hasattr(covariance, "columns") else asset
        raise InvalidRequest(f"variances must be positive, got {variances[tuple(bad[0])]:g} of asset {name!r}")
    return values


def _like(given: Matrix, values: npt.NDArray[np.float64]) -> Matrix:
    if not hasattr(given, "index"):
        return cast(Matrix, values)
    import pandas as pd

    return cast(Matrix, pd.DataFrame(values, given.index, given.columns))  # type: ignore[attr-defined]
