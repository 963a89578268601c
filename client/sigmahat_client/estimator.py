# SPDX-License-Identifier: Apache-2.0
"""The service as a scikit-learn covariance estimator. Needs scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from sklearn.covariance import EmpiricalCovariance
from sklearn.utils.validation import check_is_fitted, validate_data

from sigmahat_client.intake.containers import Table, read_table
from sigmahat_client.intake.rows import index_rows
from sigmahat_client.shared_clients import shared_client
from sigmahat_kernels.returns import column_status, mean_row_days
from sigmahat_kernels.status import MIN_ASSETS, MIN_OBSERVATIONS, Status

_UNITS = (0.01, 0.0001)
"""Percent and basis points."""
_USUAL_RETURN = 0.01
_TOO_SMALL_TO_MATTER = 1e-6
"""No value of this size is refused for it; levels are refused at any size."""


class ShrinkageCovariance(EmpiricalCovariance):
    """Covariance of asset returns by learned shrinkage.

    Parameters
    ----------
    url : str, optional
        host:port of a server. Default: compute in this process, without one.
    model_repository : path, optional
        Where the members are for that; default: those that come with this package.
    classic : bool
        Textbook linear shrinkage of the sample covariance, with the learned intensity.
    store_precision : bool
        Whether to keep `precision_`.
    assume_centered : bool
        Whether `location_`, and with it `score` and `mahalanobis`, is zero instead of the mean. The covariance is that
        of deviations from the mean in both cases.

    Attributes
    ----------
    covariance_, precision_ : arrays of shape (n_features, n_features)
        In the squared unit of X.
    location_ : array of shape (n_features,)
        Means, or zeros.
    shrinkage_ : float
        Intensity in [0, 1].
    n_features_in_, feature_names_in_
        Of X.

    Notes
    -----
    X of shape (n_samples, n_features) holds returns, oldest first; NaN = missing. A frame's dates go along, so that the
    answer is that of `ShrinkageClient.estimate` for the same frame. The networks know returns (0.01 is 1 %): values in
    percent or basis points are brought there, others that are too large to the size of daily returns, and the
    covariance back to their unit. Prices and other levels are refused.

    Examples
    --------
    ::

        ShrinkageCovariance().fit(returns).covariance_
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        model_repository: str | Path | None = None,
        classic: bool = False,
        store_precision: bool = True,
        assume_centered: bool = False,
    ) -> None:
        super().__init__(store_precision=store_precision, assume_centered=assume_centered)
        self.url = url
        self.model_repository = model_repository
        self.classic = classic

    def fit(self, X: Any, y: Any = None) -> Self:
        """Estimate from X of shape (n_samples, n_features); y is not used.

        Raises
        ------
        ValueError
            If X has fewer samples or features than the service takes, or its dates do not increase.
        sigmahat_client.UniverseError
            If X is refused for another reason, prices or a constant column for instance; names all such columns.
        sigmahat_client.SigmahatError
            If the server does not answer.
        """
        table = checked_returns(self, X)
        fitted = fit_table(self, table)
        self.shrinkage_ = fitted.intensity
        self.location_ = location(table.values, assume_centered=self.assume_centered)
        self._set_covariance(fitted.covariance)
        return self

    def score(self, X_test: Any, y: Any = None) -> float:
        """Mean Gaussian log-likelihood of the rows of X_test, each over the assets that it has; y is not used.

        Rows without a return do not count; with none at all the score is NaN.
        """
        values, likelihoods = self._samples(X_test), []
        for seen, rows in _patterns(values):
            covariance = self.covariance_[np.ix_(seen, seen)]
            distances = _squared_distances(values[np.ix_(rows, seen)] - self.location_[seen], covariance)
            log_determinant = np.linalg.slogdet(2 * np.pi * covariance)[1]
            likelihoods.append(-0.5 * (distances + log_determinant))
        return float(np.concatenate(likelihoods).mean()) if likelihoods else float("nan")

    def mahalanobis(self, X: Any) -> Any:
        """Squared Mahalanobis distance of each row of X, over the assets that it has; NaN of a row that has none.

        Returns
        -------
        array of shape (n_samples,)
            Or a Series with the index of X, after ``set_output(transform="pandas")``.
        """
        values = self._samples(X)
        distances = np.full(len(values), np.nan)
        for seen, rows in _patterns(values):
            deviations = values[np.ix_(rows, seen)] - self.location_[seen]
            distances[rows] = _squared_distances(deviations, self.covariance_[np.ix_(seen, seen)])
        if getattr(self, "_sklearn_output_config", {}).get("transform") == "pandas":
            import pandas as pd

            return pd.Series(distances, index=getattr(X, "index", None), name="mahalanobis")
        return distances

    def set_output(self, *, transform: Literal["default", "pandas"] | None = None) -> Self:
        """Choose what `mahalanobis` returns; None leaves it as it is. Attributes stay arrays, as scikit-learn's do."""
        if transform not in (None, "default", "pandas"):
            raise ValueError(f'transform must be "default" or "pandas", got {transform!r}')
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}  # the name that `sklearn.clone` copies
        return self

    def _samples(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        samples: np.ndarray = validate_data(
            self, as_samples(X)[0], reset=False, dtype=np.float64, ensure_all_finite="allow-nan"
        )
        return samples

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class Fitted(NamedTuple):
    """A covariance in the unit of X, float64; NaN in rows and columns of assets that were left out."""

    covariance: np.ndarray  # (n_features, n_features)
    intensity: float


def checked_returns(estimator: Any, X: Any) -> Table:
    """Check X as scikit-learn does, set `n_features_in_` and `feature_names_in_`, and keep its labels and index."""
    X, found = as_samples(X)
    values = validate_data(
        estimator, X, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_features=MIN_ASSETS
    )
    if len(values) < MIN_OBSERVATIONS:
        raise ValueError(
            f"Found array with {len(values)} sample(s) (shape={values.shape}) while a minimum of {MIN_OBSERVATIONS} is "
            f"required by {type(estimator).__name__}."
        )
    return Table(values, found.labels, found.index)


def as_samples(X: Any) -> tuple[Any, Table]:
    """Make of X what scikit-learn can check: a column of dates is taken out. Also give what its container says."""
    if not hasattr(X, "columns") and not hasattr(X, "__arrow_c_stream__") and not hasattr(X, "coords"):
        return X, Table(np.empty((0, 0)), None, None)
    table = read_table(X)
    if tuple(np.shape(X)) == table.values.shape and hasattr(X, "columns"):
        return X, table
    import pandas as pd

    return pd.DataFrame(table.values, columns=list(table.labels or range(table.values.shape[1]))), table


def fit_table(
    estimator: Any,
    table: Table,
    assets: np.ndarray | None = None,
    *,
    on_bad_asset: Literal["raise", "drop"] = "raise",
) -> Fitted:
    """Estimate with the settings of an estimator.

    Parameters
    ----------
    assets : integer array, optional
        The columns to use; default all.
    """
    n_columns = table.values.shape[1]
    labels = range(n_columns) if table.labels is None else table.labels
    assets = np.arange(n_columns) if assets is None else assets
    scale = return_scale(table)
    estimates = shared_client(estimator.url, estimator.model_repository).estimate(
        table._replace(values=table.values * scale),
        {"all": [labels[column] for column in assets.tolist()]},
        covariance=True,
        classic=estimator.classic,
        on_bad_asset=on_bad_asset,
    )
    estimates.raise_for_status()
    assert estimates.covariance is not None
    column_of = {label: column for column, label in enumerate(labels)}
    kept = [column_of[label] for label in estimates.assets[0]]
    covariance = np.full((n_columns, n_columns), np.nan)
    covariance[np.ix_(kept, kept)] = estimates.covariance[0].astype(np.float64) / scale**2
    return Fitted(covariance, float(estimates.intensity[0]))


def location(values: np.ndarray, *, assume_centered: bool) -> np.ndarray:
    """Means of the columns over the values that are there, NaN of a column without any; or zeros."""
    if assume_centered:
        return np.zeros(values.shape[1])
    n = np.isfinite(values).sum(axis=0)
    sums = np.nansum(values, axis=0)
    return np.divide(sums, n, out=np.full(len(n), np.nan), where=n > 0)


def return_scale(table: Table) -> float:
    """Factor that makes returns of the values: 1 where they are, or where no factor would, as of prices.

    All values have one unit: where most columns are returns as they stand, those that are not have no say.
    """
    values = table.values
    rows = None if table.index is None else index_rows(table.index, len(values))
    row_days = mean_row_days(None if rows is None else rows.days)

    def with_status(scale: float, *codes: Status) -> np.ndarray:
        return np.isin(column_status(values * scale, row_days), codes)

    n_returns = with_status(1.0, Status.GOOD, Status.IMPOSSIBLE_RETURN).sum()
    if with_status(1.0, Status.NOT_RETURNS).sum() <= n_returns:
        return 1.0
    size = np.abs(values[np.isfinite(values)])
    if with_status(_TOO_SMALL_TO_MATTER / float(size.max()), Status.LEVELS).any():
        return 1.0
    usual = _USUAL_RETURN / float(np.median(size[size > 0]))
    known = (scale for scale in _UNITS if not with_status(scale, Status.NOT_RETURNS, Status.IMPOSSIBLE_RETURN).any())
    return next(known, usual)


def _patterns(X: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Assets that are there, and the rows in which just these are; none of rows without any."""
    patterns, pattern_of = np.unique(np.isfinite(X), axis=0, return_inverse=True)
    found = ((np.flatnonzero(seen), np.flatnonzero(pattern_of.ravel() == i)) for i, seen in enumerate(patterns))
    return [(seen, rows) for seen, rows in found if len(seen)]


def _squared_distances(deviations: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    distances: np.ndarray = (deviations * np.linalg.solve(covariance, deviations.T).T).sum(axis=1)
    return distances
