# SPDX-License-Identifier: Apache-2.0
"""The service as a skfolio covariance estimator, for `EmpiricalPrior(covariance_estimator=...)`. Needs skfolio."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from skfolio.moments import BaseCovariance

from sigmahat_client.estimator import as_samples, checked_returns, fit_table, location
from sigmahat_client.intake.containers import Table


class ShrinkageCovariance(BaseCovariance):
    """Covariance of asset returns by learned shrinkage, in skfolio.

    Parameters
    ----------
    url, model_repository, classic, assume_centered
        As `estimator.ShrinkageCovariance` has them.
    window_size : int, optional
        Use this many rows at the end of X; default all.
    nearest, higham, higham_max_iteration
        skfolio's, for matrices that are not positive definite.

    Attributes
    ----------
    covariance_ : array of shape (n_assets, n_assets)
        NaN in rows and columns of assets that are not active in the last row, or whose returns cannot be used.
    location_ : array of shape (n_assets,)
        Means, or zeros; NaN of such assets.
    shrinkage_ : float
        Intensity in [0, 1].

    Examples
    --------
    ::

        MeanRisk(prior_estimator=EmpiricalPrior(covariance_estimator=ShrinkageCovariance())).fit(returns)
    """

    # As skfolio's own estimators that know of it: routed to this one where metadata routing is on.
    __metadata_request__fit: ClassVar[dict[str, bool]] = {"active_mask": True}

    def __init__(
        self,
        url: str | None = None,
        model_repository: str | Path | None = None,
        classic: bool = False,
        window_size: int | None = None,
        assume_centered: bool = False,
        nearest: bool = True,
        higham: bool = False,
        higham_max_iteration: int = 100,
    ) -> None:
        super().__init__(
            assume_centered=assume_centered, nearest=nearest, higham=higham, higham_max_iteration=higham_max_iteration
        )
        self.url = url
        self.model_repository = model_repository
        self.classic = classic
        self.window_size = window_size

    def fit(self, X: Any, y: Any = None, *, active_mask: Any = None) -> Self:
        """Estimate from returns X of shape (n_observations, n_assets); y is not used.

        Parameters
        ----------
        active_mask : boolean array of the shape of X, optional
            False where an asset is not listed: such returns are missing, and an asset that is not listed in the last
            row is left out. Default: all are active.

        Raises
        ------
        As `estimator.ShrinkageCovariance.fit` does; but an asset that cannot be used is left out.

        Warns
        -----
        sigmahat_client.AssetsDropped
            If an active asset cannot be used.
        """
        table = checked_returns(self, X)
        active = np.ones(table.values.shape, bool) if active_mask is None else np.asarray(active_mask, bool)
        if active.shape != table.values.shape:
            raise ValueError(f"active_mask must have the shape of X, {table.values.shape}, got {active.shape}")
        table = table._replace(values=np.where(active, table.values, np.nan))
        table = _last_rows(table, self.window_size)
        fitted = fit_table(self, table, np.flatnonzero(active[-1]), on_bad_asset="drop")
        self.shrinkage_ = fitted.intensity
        unusable = np.isnan(np.diag(fitted.covariance))
        self.location_ = np.where(unusable, np.nan, location(table.values, assume_centered=self.assume_centered))
        self._set_covariance(fitted.covariance)
        return self

    def score(self, X_test: Any, y: Any = None) -> float:
        """See `skfolio.moments.BaseCovariance.score`; what `fit` reads may be scored too."""
        return float(super().score(as_samples(X_test)[0]))

    def mahalanobis(self, X: Any) -> Any:
        """See `skfolio.moments.BaseCovariance.mahalanobis`; what `fit` reads may be measured too."""
        return super().mahalanobis(as_samples(X)[0])


def _last_rows(table: Table, window_size: int | None) -> Table:
    n_rows = len(table.values)
    if window_size is None:
        return table
    if isinstance(window_size, bool) or not 1 <= window_size <= n_rows:
        raise ValueError(f"window_size must be from 1 to the {n_rows} rows of X, got {window_size!r}")
    start = n_rows - window_size
    return table._replace(values=table.values[start:], index=None if table.index is None else table.index[start:])
