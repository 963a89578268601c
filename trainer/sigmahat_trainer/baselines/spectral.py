# SPDX-License-Identifier: Apache-2.0
"""Non-linear shrinkage: the eigenvectors of the sample matrix are kept, its eigenvalues replaced by a rule.

A `Rule` maps ascending eigenvalues, shape (n_assets,), and ``n_effective`` to the eigenvalues that take their place.
With n_assets > n_effective the first ``n_assets - n_effective`` of them are zero but for rounding: null eigenvalues are
told by their count, never by a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
Rule: TypeAlias = Callable[[FloatArray, int], FloatArray]


def shrink_spectrum(sample: FloatArray, n_effective: int, rule: Rule) -> FloatArray:
    """Replace the eigenvalues of a sample covariance or correlation.

    Parameters
    ----------
    sample : array of shape (n_assets, n_assets)
        Symmetric, of rank min(n_assets, n_effective).
    n_effective : int
        n_obs, or n_obs - 1 if the returns were demeaned.
    rule : Rule

    Returns
    -------
    array of shape (n_assets, n_assets)
        Positive definite.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the rank is lower, as when two assets have the same returns, or the rule does not reach n_assets >
        n_effective.
    """
    eigenvalues, eigenvectors = np.linalg.eigh(sample)  # ascending; a general eigensolver would not be orthogonal
    n_assets, n_null = len(eigenvalues), max(len(eigenvalues) - n_effective, 0)
    if eigenvalues[n_null] <= n_assets * np.finfo(np.float64).eps * eigenvalues[-1]:
        raise np.linalg.LinAlgError(
            f"the sample matrix of {n_assets} assets must have rank {n_assets - n_null}, its eigenvalue number "
            f"{n_null + 1} is {eigenvalues[n_null]:.3g}: are the returns of some assets the same?"
        )
    return with_eigenvalues(eigenvectors, rule(eigenvalues, n_effective))


def shrink_correlation(sample: FloatArray, n_effective: int, rule: Rule) -> FloatArray:
    """Shrink the correlation as `shrink_spectrum` does, reset its diagonal, put the sample volatilities back.

    An asset of large variance then no longer sets the scale of the spectrum; the sample variances are kept.
    """
    volatility = np.sqrt(sample.diagonal())
    shrunk = shrink_spectrum(sample / np.outer(volatility, volatility), n_effective, rule)
    scale = volatility / np.sqrt(shrunk.diagonal())
    return shrunk * np.outer(scale, scale)


def with_eigenvalues(eigenvectors: FloatArray, eigenvalues: FloatArray) -> FloatArray:
    """The matrix U diag(d) U' of eigenvectors in columns and positive eigenvalues."""
    half = eigenvectors * np.sqrt(eigenvalues)
    return half @ half.T  # a product with its own transpose is symmetric to the last bit


# ------------------------------------------------------------------------------------------------------------- rules


def quadratic_inverse(eigenvalues: FloatArray, n_effective: int) -> FloatArray:
    """QIS, the trace kept: Ledoit, Wolf (2022), Bernoulli 28(3), 1519-1547, section 4.5."""
    n_assets, n_null = len(eigenvalues), max(len(eigenvalues) - n_effective, 0)
    inverse = 1 / eigenvalues[n_null:]
    c = n_assets / n_effective
    theta, conjugate = _smoothed_stein(inverse, n_assets, c)
    if n_null == 0:
        # The paper's (1-c)^2 + 2 c (1-c) theta + c^2 (theta^2 + conjugate^2), as a sum of squares: never negative.
        shrunk = 1 / (inverse * ((1 - c + c * theta) ** 2 + (c * conjugate) ** 2))
    else:
        null = np.full(n_null, 1 / ((c - 1) * inverse.mean()))
        shrunk = np.concatenate([null, 1 / (inverse * (theta**2 + conjugate**2))])
    return shrunk * (eigenvalues.sum() / shrunk.sum())


def linear_inverse(eigenvalues: FloatArray, n_effective: int) -> FloatArray:
    """LIS, for n_assets <= n_effective: Ledoit, Wolf (2022), Bernoulli 28(3), 1519-1547, section 4.2."""
    n_assets = len(eigenvalues)
    _refuse_wide("linear-inverse shrinkage", n_assets, n_effective)
    inverse = 1 / eigenvalues
    c = n_assets / n_effective
    theta, _ = _smoothed_stein(inverse, n_assets, c)
    return 1 / np.maximum((1 - c) * inverse + 2 * c * inverse * theta, inverse.min())


def analytical(eigenvalues: FloatArray, n_effective: int) -> FloatArray:
    """The analytical estimator of Ledoit, Wolf (2020), Annals of Statistics 48(5), 3043-3065, section 4."""
    n_assets, n_null = len(eigenvalues), max(len(eigenvalues) - n_effective, 0)
    positive = eigenvalues[n_null:]
    c = n_assets / n_effective
    global_bandwidth = n_effective ** (-1 / 3)
    bandwidth = positive * global_bandwidth  # of column j
    z = (positive[:, None] - positive) / bandwidth
    density = (3 / (4 * np.sqrt(5)) * np.maximum(1 - z**2 / 5, 0) / bandwidth).mean(axis=1)
    transform = (_epanechnikov_hilbert(z) / bandwidth).mean(axis=1)
    if n_null == 0:
        scale = np.pi * c * positive
        return positive / ((scale * density) ** 2 + (1 - c - scale * transform) ** 2)
    h = global_bandwidth
    root = np.sqrt(5) * h
    if root >= 1:  # zero itself lies under the kernels
        raise np.linalg.LinAlgError(
            f"with more assets than observations the analytical formula needs 12 of these, got {n_effective}"
        )
    null_transform = 3 / (10 * h**2) + 3 / (4 * root) * (1 - 1 / (5 * h**2)) * np.log((1 + root) / (1 - root))
    null = 1 / ((c - 1) * null_transform * (1 / positive).mean())  # the paper's pi and 1 / pi cancel
    return np.concatenate([np.full(n_null, null), positive / ((np.pi * positive) ** 2 * (density**2 + transform**2))])


def rotationally_invariant(eigenvalues: FloatArray, n_effective: int) -> FloatArray:
    """RIE of a correlation matrix, for n_assets <= n_effective, the trace kept.

    References
    ----------
    Ledoit, Peche (2011), Probability Theory and Related Fields 151, for the estimator; Bun, Bouchaud, Potters (2017),
    Physics Reports 666, 1-109, section 8.1, for the correction of small eigenvalues.
    """
    n_assets = len(eigenvalues)
    _refuse_wide("the rotationally invariant estimator", n_assets, n_effective)
    q = n_assets / n_effective
    z = eigenvalues - 1j / np.sqrt(n_assets)
    # The eigenvalue itself is left out of its own sum: 1 / (z_k - lambda_k) would be i sqrt(n_assets) for all k.
    terms = 1 / (z[:, None] - eigenvalues)
    np.fill_diagonal(terms, 0)
    stieltjes = terms.sum(axis=1) / n_assets
    shrunk = eigenvalues / np.abs(1 - q + q * z * stieltjes) ** 2
    if q < 1:
        # What the formula makes of an inverse Wishart matrix whose spectrum starts where this one does.
        low = eigenvalues[0]
        variance, high = low / (1 - np.sqrt(q)) ** 2, low * ((1 + np.sqrt(q)) / (1 - np.sqrt(q))) ** 2
        g = z + variance * (q - 1) - np.sqrt(z - low) * np.sqrt(z - high)
        g = g / (2 * q * z * variance)
        shrunk = shrunk * np.maximum(variance * np.abs(1 - q + q * z * g) ** 2 / eigenvalues, 1.0)
    return shrunk * (eigenvalues.sum() / shrunk.sum())


# ------------------------------------------------------------------------------------------------------------- parts


def _smoothed_stein(inverse: FloatArray, n_assets: int, c: float) -> tuple[FloatArray, FloatArray]:
    """The smoothed Stein shrinker of the inverse eigenvalues and its conjugate, equations 4.4 and 4.5 of the paper."""
    h = min(c**2, 1 / c**2) ** 0.35 / n_assets**0.35
    difference = inverse - inverse[:, None]  # l_j - l_i in row i, column j
    kernel = inverse / (difference**2 + h**2 * inverse**2)
    return (kernel * difference).mean(axis=1), (kernel * h * inverse).mean(axis=1)


def _epanechnikov_hilbert(z: FloatArray) -> FloatArray:
    """Hilbert transform of the Epanechnikov kernel of variance one.

    -3 z / (10 pi) + 3 / (4 sqrt(5) pi) (1 - z^2 / 5) ln|(sqrt(5) - z) / (sqrt(5) + z)|. Far out its two terms cancel
    to 1 / z^2 of themselves; there the sum is -3 / (sqrt(5) pi) sum_k x^(2k+1) / ((2k+1) (2k+3)) with x = sqrt(5) / z.
    """
    root = np.sqrt(5.0)
    far = np.abs(z) > 5
    near = np.where(far, 0.0, z)
    with np.errstate(divide="ignore", invalid="ignore"):
        second = (1 - near**2 / 5) * np.log(np.abs((root - near) / (root + near)))
    second = np.where(np.abs(near) == root, 0.0, second)
    direct = -3 * near / (10 * np.pi) + 3 / (4 * root * np.pi) * second
    x = root / np.where(far, z, np.inf)
    series, square = np.zeros_like(x), x**2
    for k in reversed(range(20)):  # |x| < 0.45: to the last digit
        series *= square
        series += 1 / ((2 * k + 1) * (2 * k + 3))
    return np.where(far, -3 / (root * np.pi) * x * series, direct)


def _refuse_wide(name: str, n_assets: int, n_effective: int) -> None:
    if n_assets > n_effective:
        raise np.linalg.LinAlgError(
            f"{name} needs at least as many observations as assets, got {n_effective} (one lost to the mean) and "
            f"{n_assets}"
        )
