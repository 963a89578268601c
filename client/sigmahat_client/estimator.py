# SPDX-License-Identifier: Apache-2.0
"""The service as a scikit-learn covariance estimator. Needs scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.covariance import EmpiricalCovariance
from sklearn.utils.validation import validate_data

from sigmahat_client.shared_clients import shared_client
from sigmahat_kernels.status import MAX_ABS_RETURN, MAX_MEAN_ABS_RETURN, MIN_ASSETS, MIN_OBSERVATIONS

_USUAL_RETURN = 0.01


class ShrinkageCovariance(EmpiricalCovariance):
    """Covariance of asset returns by learned shrinkage.

    Parameters
    ----------
    url : str, optional
        host:port of the server; default 127.0.0.1:8001.
    model_repository : path, optional
        Compute in this process with the members in that folder, without a server.
    classic : bool
        Textbook linear shrinkage of the sample covariance, with the learned intensity.
    store_precision : bool
        Whether to keep `precision_`.

    Attributes
    ----------
    covariance_, precision_ : arrays of shape (n_features, n_features)
        In the squared unit of X.
    location_ : array of shape (n_features,)
        Means.
    shrinkage_ : float
        Intensity in [0, 1].
    n_features_in_, feature_names_in_
        Of X.

    Notes
    -----
    X of shape (n_samples, n_features) holds returns, oldest first; NaN = missing. The networks know returns (0.01 is
    1 %); values too large for that are brought to the size of daily returns, and the covariance back to theirs.

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
    ) -> None:
        super().__init__(store_precision=store_precision)
        self.url = url
        self.model_repository = model_repository
        self.classic = classic

    def fit(self, X: Any, y: Any = None) -> Self:
        """Estimate from X of shape (n_samples, n_features); y is not used.

        Raises
        ------
        ValueError
            If X has fewer samples or features than the service takes.
        sigmahat_client.UniverseError
            If X is refused for another reason, a constant column for instance; names it.
        sigmahat_client.SigmahatError
            If the server does not answer.
        """
        X = checked_returns(self, X)
        covariance, self.shrinkage_ = fitted_covariance(self, X)
        self.location_ = np.nanmean(X, axis=0)
        self._set_covariance(covariance)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def checked_returns(estimator: Any, X: Any) -> np.ndarray:
    """Check X as scikit-learn does, and set `n_features_in_` and `feature_names_in_`."""
    X = validate_data(estimator, X, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_features=MIN_ASSETS)
    if len(X) < MIN_OBSERVATIONS:
        raise ValueError(
            f"Found array with {len(X)} sample(s) (shape={X.shape}) while a minimum of {MIN_OBSERVATIONS} is required "
            f"by {type(estimator).__name__}."
        )
    return X


def fitted_covariance(estimator: Any, X: np.ndarray) -> tuple[np.ndarray, float]:
    """Covariance in float64, and intensity, of all columns of X, with the settings of an estimator."""
    scale = return_scale(X)
    names = getattr(estimator, "feature_names_in_", None)
    estimates = shared_client(estimator.url, estimator.model_repository).estimate(
        X * scale, assets=None if names is None else list(names), covariance=True, classic=estimator.classic
    )
    estimates.raise_for_status()
    assert estimates.covariance is not None
    return estimates.covariance[0].astype(np.float64) / scale**2, float(estimates.intensity[0])


def return_scale(X: np.ndarray) -> float:
    """Factor that makes returns of X: 1 where it holds any, else such that a typical absolute value is 1 %."""
    size = np.abs(X[np.isfinite(X)])
    means = np.nanmean(np.abs(X), axis=0)
    if not size.size or (size.max() <= MAX_ABS_RETURN and means.max() <= MAX_MEAN_ABS_RETURN):
        return 1.0
    return float(_USUAL_RETURN / np.median(size[size > 0]))
