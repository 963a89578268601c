# SPDX-License-Identifier: Apache-2.0
"""Covariance estimators of other packages, with their defaults, under the convention of `closed_form`.

None of the packages is needed until one of its estimators is called; `missing` says which are not installed.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from sigmahat_trainer.baselines.closed_form import Baseline

FloatArray: TypeAlias = npt.NDArray[np.float64]

REFUSALS = (ArithmeticError, AssertionError, RuntimeError, ValueError)
"""What these packages raise at returns that they cannot estimate; `numpy.linalg.LinAlgError` is a ValueError too."""


class Packaged(NamedTuple):
    """An estimator of a package."""

    module: str  # that must be importable
    estimate: Baseline


def missing(packaged: Packaged) -> str | None:
    """Why it cannot be called here; None if it can."""
    if importlib.util.find_spec(packaged.module) is not None:
        return None
    return f"{packaged.module} is not installed: pip install 'sigmahat[tournament]'"


def guarded(packaged: Packaged) -> Baseline:
    """The estimator, with `numpy.linalg.LinAlgError` for every refusal and nothing said about repairs on the way."""

    def estimate(returns: FloatArray) -> FloatArray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return np.asarray(packaged.estimate(returns), np.float64)
            except REFUSALS as error:
                raise np.linalg.LinAlgError(f"{packaged.module}: {error}") from error

    return estimate


def _skfolio(estimator: str) -> Packaged:
    """`estimator` is the name of a class of skfolio.moments."""

    def estimate(returns: FloatArray) -> Any:
        from skfolio import moments

        return getattr(moments, estimator)().fit(returns).covariance_

    return Packaged("skfolio", estimate)


def _riskfolio(method: str) -> Packaged:
    """`method` is what riskfolio.ParamsEstimation.covar_matrix calls it."""

    def estimate(returns: FloatArray) -> Any:
        import pandas as pd
        from riskfolio import ParamsEstimation

        return ParamsEstimation.covar_matrix(pd.DataFrame(returns), method=method)

    return Packaged("riskfolio", estimate)


def _squeeze_kernel(returns: FloatArray) -> Any:
    """A filter that sees the returns day by day: Kende (2026), The Squeeze Kernel Covariance Estimator."""
    from squeeze_kernel import SqueezeKernel

    kernel = SqueezeKernel()
    for row in returns:
        kernel.update(row)
    return kernel.covariance()


def _nonlinshrink(returns: FloatArray) -> Any:
    """The formula of `spectral.analytical`, by others."""
    from nonlinshrink import shrink_cov

    return shrink_cov(returns)


PACKAGED: dict[str, Packaged] = {
    "nonlinshrink": Packaged("nonlinshrink", _nonlinshrink),
    "squeeze_kernel": Packaged("squeeze_kernel", _squeeze_kernel),
    "skfolio_shrunk": _skfolio("ShrunkCovariance"),
    "skfolio_gerber": _skfolio("GerberCovariance"),
    "skfolio_denoised": _skfolio("DenoiseCovariance"),
    "skfolio_regime_adjusted": _skfolio("RegimeAdjustedEWCovariance"),
    "riskfolio_shrunk": _riskfolio("shrunk"),
    "riskfolio_gerber": _riskfolio("gerber2"),  # gerber1 is skfolio's, in 15 s for 100 assets
    "riskfolio_denoised": _riskfolio("fixed"),
    "riskfolio_denoised_shrunk": _riskfolio("shrink"),
}
"""Name -> estimator, in the order in which tables list them."""
