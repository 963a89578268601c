# SPDX-License-Identifier: Apache-2.0
"""The service as a skfolio covariance estimator, for `EmpiricalPrior(covariance_estimator=...)`. Needs skfolio."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from skfolio.moments import BaseCovariance

from sigmahat_client.estimator import checked_returns, fitted_covariance


class ShrinkagePriorCovariance(BaseCovariance):
    """Covariance of asset returns by learned shrinkage, in skfolio.

    Parameters
    ----------
    url, model_repository, classic
        As `estimator.ShrinkageCovariance` has them.
    nearest, higham, higham_max_iteration
        skfolio's, for matrices that are not positive definite.

    Attributes
    ----------
    covariance_ : array of shape (n_assets, n_assets)
    shrinkage_ : float
        Intensity in [0, 1].

    Examples
    --------
    ::

        MeanRisk(prior_estimator=EmpiricalPrior(covariance_estimator=ShrinkagePriorCovariance())).fit(returns)
    """

    def __init__(
        self,
        url: str | None = None,
        model_repository: str | Path | None = None,
        classic: bool = False,
        nearest: bool = True,
        higham: bool = False,
        higham_max_iteration: int = 100,
    ) -> None:
        super().__init__(nearest=nearest, higham=higham, higham_max_iteration=higham_max_iteration)
        self.url = url
        self.model_repository = model_repository
        self.classic = classic

    def fit(self, X: Any, y: Any = None) -> Self:
        """Estimate from returns X of shape (n_observations, n_assets); y is not used. Raises as `estimator` does."""
        covariance, self.shrinkage_ = fitted_covariance(self, checked_returns(self, X))
        self._set_covariance(covariance)
        return self
