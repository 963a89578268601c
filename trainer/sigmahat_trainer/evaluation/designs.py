# SPDX-License-Identifier: Apache-2.0
"""Evaluation where the truth is known: four designs, each with the covariance that its last row was drawn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sigmahat_kernels.request import read_request
from sigmahat_trainer.baselines.adapters import Estimator
from sigmahat_trainer.baselines.closed_form import sample
from sigmahat_trainer.baselines.spectral import with_eigenvalues
from sigmahat_trainer.data.panels import fill_missing
from sigmahat_trainer.data.simulate import ISOTROPIC_MEAN, isotropic_population

DAILY_VARIANCE = 1e-4
ORACLE = "oracle"
"""The sample's eigenvectors with the eigenvalues u_i' Sigma u_i that are best for them: PRIAL 100."""


class KnownDraw(NamedTuple):
    """One draw of a design, and its truth."""

    returns: np.ndarray  # (n_obs, n_assets), NaN = missing
    covariance: np.ndarray  # (n_assets, n_assets), of the period that the estimate is for


Design = Callable[[np.random.Generator, int, int], KnownDraw]


def isotropic(rng: np.random.Generator, n_obs: int, n_assets: int) -> KnownDraw:
    """Gaussian, population eigenvalues 20 % = 1, 40 % = 3, 40 % = 10, random eigenvectors.

    The baseline of Ledoit, Wolf (2012), Annals of Statistics 40(2).
    """
    eigenvalues, vectors = isotropic_population(rng, n_assets)
    covariance = with_eigenvalues(vectors, eigenvalues * DAILY_VARIANCE / ISOTROPIC_MEAN)
    return KnownDraw(_gaussian(rng, covariance, n_obs), covariance)


def sectors(rng: np.random.Generator, n_obs: int, n_assets: int) -> KnownDraw:
    """A market, eight sectors, idiosyncratic risk with log-normal volatilities; Student-t(5) with common mixing."""
    covariance = _sector_covariance(rng, rng.integers(8, size=n_assets))
    mixing = np.sqrt(3 / rng.chisquare(5, (n_obs, 1)))  # E[3 / chi2(5)] = 1: the covariance stays
    return KnownDraw(_gaussian(rng, covariance, n_obs) * mixing, covariance)


def switching(rng: np.random.Generator, n_obs: int, n_assets: int) -> KnownDraw:
    """Loadings and volatilities change once, in the second or third quarter of the window; the last regime counts."""
    sector = rng.integers(8, size=n_assets)
    before, after = _sector_covariance(rng, sector), _sector_covariance(rng, sector, stress=2.0)
    change = int(rng.integers(n_obs // 4, 3 * n_obs // 4 + 1))
    returns = np.concatenate([_gaussian(rng, before, change), _gaussian(rng, after, n_obs - change)])
    return KnownDraw(returns, after)


def missing(rng: np.random.Generator, n_obs: int, n_assets: int) -> KnownDraw:
    """`sectors` with 5 % of the cells missing at random, and the first half of a third of the assets."""
    returns, covariance = sectors(rng, n_obs, n_assets)
    returns[rng.random(returns.shape) < 0.05] = np.nan
    returns[: n_obs // 2, rng.permutation(n_assets)[: n_assets // 3]] = np.nan
    return KnownDraw(returns, covariance)


INDEPENDENT = ("isotropic", "sectors", "missing")
"""Designs whose rows are independent and of one covariance: the case that closed-form intensities are made for."""

DESIGNS: dict[str, Design] = {
    "isotropic": isotropic,
    "sectors": sectors,
    "switching": switching,
    "missing": missing,
}


# -------------------------------------------------------------------------------------------------------- evaluation


def evaluate_design(
    name: str, n_assets: int, n_obs: int, estimators: Mapping[str, Estimator], *, draws: int, seed: int
) -> pd.DataFrame:
    """One row a draw and method, the `ORACLE` among them; the same draws for all methods."""
    rng = np.random.default_rng([seed, n_assets, n_obs, list(DESIGNS).index(name)])
    rows: list[dict[str, Any]] = []
    for draw in range(draws):
        returns, truth = DESIGNS[name](rng, n_obs, n_assets)
        request = read_request(returns.astype(np.float32), np.arange(n_assets, dtype=np.int32)[None])
        covariances = {method: estimator(request)[0] for method, estimator in estimators.items()}
        _, eigenvectors = np.linalg.eigh(sample(fill_missing(returns)))
        best = ((truth @ eigenvectors) * eigenvectors).sum(axis=0)
        covariances[ORACLE] = with_eigenvalues(eigenvectors, best)
        where = {"design": name, "n_assets": n_assets, "n_obs": n_obs, "draw": draw}
        known = know(truth)
        rows += [{**where, "method": method, **losses(c, known)} for method, c in covariances.items()]
    return pd.DataFrame(rows)


class Truth(NamedTuple):
    """A population, and what the losses of all estimates ask of it."""

    covariance: np.ndarray  # (n_assets, n_assets)
    eigenvalues: np.ndarray  # (n_assets,), ascending
    least_variance: float  # of a portfolio


def know(covariance: np.ndarray) -> Truth:
    """What `losses` takes; the covariance is positive definite."""
    least = 1 / np.linalg.solve(covariance, np.ones(len(covariance))).sum()
    return Truth(covariance, np.linalg.eigvalsh(covariance), float(least))


def losses(covariance: np.ndarray, truth: Truth) -> dict[str, float]:
    """Losses of an estimate against the truth; NaN, the Frobenius loss apart, where the estimate is singular.

    `frobenius` is the squared norm over n_assets, in units of DAILY_VARIANCE^2; `minimum_variance` the loss of Engle,
    Ledoit, Wolf (2019), J. Business & Economic Statistics 37(2), in units of DAILY_VARIANCE; `gmv_ratio` the true
    variance of the estimate's minimum-variance portfolio over the least possible; `stein` tr(A) - ln det(A) - n_assets
    with A = inv(covariance) truth; `condition_error` the error of the log10 condition number.
    """
    n_assets = len(truth.covariance)
    frobenius = float(((covariance - truth.covariance) ** 2).sum() / n_assets / DAILY_VARIANCE**2)
    figures = {"frobenius": frobenius}
    nothing = dict.fromkeys(("minimum_variance", "gmv_ratio", "stein", "condition_error"), float("nan"))
    if not np.isfinite(covariance).all():
        return figures | nothing
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    if eigenvalues[0] <= 10 * n_assets * np.finfo(np.float64).eps * eigenvalues[-1]:
        return figures | nothing
    true_eigenvalues = truth.eigenvalues
    along = ((truth.covariance @ eigenvectors) * eigenvectors).sum(axis=0)  # u_i' Sigma u_i
    minimum_variance = (along / eigenvalues**2).mean() / (1 / eigenvalues).mean() ** 2
    weights = eigenvectors @ (eigenvectors.sum(axis=0) / eigenvalues)
    weights /= weights.sum()
    return figures | {
        "minimum_variance": float((minimum_variance - 1 / (1 / true_eigenvalues).mean()) / DAILY_VARIANCE),
        "gmv_ratio": float(weights @ truth.covariance @ weights / truth.least_variance),
        "stein": float((along / eigenvalues).sum() - np.log(true_eigenvalues / eigenvalues).sum() - n_assets),
        "condition_error": float(
            np.log10(eigenvalues[-1] * true_eigenvalues[0] / eigenvalues[0] / true_eigenvalues[-1])
        ),
    }


class Prial(NamedTuple):
    """Percentage relative improvement in average loss: 0 for the sample, 100 for the oracle."""

    value: float
    standard_error: float  # jackknife over draws


def prial(
    sample_loss: np.ndarray, loss: np.ndarray, oracle_loss: np.ndarray, against: np.ndarray | None = None
) -> Prial:
    """100 (mean L(S) - mean L) / (mean L(S) - mean L(oracle)): Ledoit, Wolf (2020), Annals of Statistics 48(5).

    Structured targets may exceed 100: the oracle is the best that keeps the sample's eigenvectors. With the losses of
    another method, `against`, the difference of the two PRIALs on the same draws.
    """
    gain = (sample_loss if against is None else against) - loss
    full = sample_loss - oracle_loss
    n = len(gain)
    value = 100 * gain.sum() / full.sum()
    without = 100 * (gain.sum() - gain) / (full.sum() - full)
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    return Prial(float(value), float(error))


def _sector_covariance(rng: np.random.Generator, sector: np.ndarray, *, stress: float = 1.0) -> np.ndarray:
    n_assets = len(sector)
    beta = stress * rng.normal(1.0, 0.3, n_assets)
    loading = rng.uniform(0.2, 0.9, n_assets)
    own = rng.lognormal(0.0, 0.4, n_assets)
    same_sector = sector[:, None] == sector
    return DAILY_VARIANCE * (np.outer(beta, beta) + np.outer(loading, loading) * same_sector + np.diag(own**2))


def _gaussian(rng: np.random.Generator, covariance: np.ndarray, n_obs: int) -> np.ndarray:
    return rng.standard_normal((n_obs, len(covariance))) @ np.linalg.cholesky(covariance).T
