# SPDX-License-Identifier: Apache-2.0
"""Estimators of other packages: called as their packages say, refused in one way, left out where one is not there."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest
from skfolio import moments

from sigmahat_trainer.baselines import packages
from sigmahat_trainer.baselines.closed_form import BASELINES, sample
from sigmahat_trainer.baselines.packages import PACKAGED, Packaged, guarded, missing

INSTALLED = [name for name, packaged in PACKAGED.items() if missing(packaged) is None]


@pytest.fixture(scope="module")
def returns():
    rng = np.random.default_rng(1)
    return 0.01 * (rng.standard_normal((90, 1)) + rng.standard_normal((90, 12)))


@pytest.mark.parametrize("name", INSTALLED)
def test_answers_are_covariances_in_the_units_of_the_returns(name, returns):
    covariance, scaled = guarded(PACKAGED[name])(returns), guarded(PACKAGED[name])(2 * returns)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12 * covariance.max())
    assert np.linalg.eigvalsh(covariance)[0] > 0
    np.testing.assert_allclose(scaled / 4 / covariance.max(), covariance / covariance.max(), atol=0.02)
    assert 0.5 < covariance.trace() / sample(returns).trace() < 2


def test_skfolio_is_asked_with_its_defaults(returns):
    for name, estimator in (("shrunk", moments.ShrunkCovariance), ("gerber", moments.GerberCovariance)):
        expected = estimator().fit(returns).covariance_
        np.testing.assert_array_equal(guarded(PACKAGED[f"skfolio_{name}"])(returns), expected)


def test_the_squeeze_kernel_is_the_last_of_its_own_path(returns):
    import squeeze_kernel

    path, _, _ = squeeze_kernel.estimate_squeeze_cov(returns)
    np.testing.assert_array_equal(guarded(PACKAGED["squeeze_kernel"])(returns), path[-1])


@pytest.mark.skipif("nonlinshrink" not in INSTALLED, reason="nonlinshrink is not installed")
def test_nonlinshrink_is_the_analytical_formula(returns):
    expected = BASELINES["analytical"](returns)
    np.testing.assert_allclose(
        guarded(PACKAGED["nonlinshrink"])(returns) / expected.max(), expected / expected.max(), atol=1e-9
    )


@pytest.mark.skipif("riskfolio_denoised" not in INSTALLED, reason="Riskfolio-Lib is not installed")
def test_riskfolio_denoises_as_skfolio_does(returns):
    ours, theirs = (guarded(PACKAGED[f"{package}_denoised"])(returns) for package in ("riskfolio", "skfolio"))
    np.testing.assert_allclose(ours / theirs.max(), theirs / theirs.max(), atol=1e-6)


def test_a_refusal_is_one_kind_of_error_and_repairs_are_silent(returns):
    def refuse(rows):
        raise ValueError("Matrix is singular")

    def warn(rows):
        warnings.warn("the matrix was repaired", UserWarning, stacklevel=1)
        return sample(rows)

    with pytest.raises(np.linalg.LinAlgError, match="some_package: Matrix is singular"):
        guarded(Packaged("some_package", refuse))(returns)
    np.testing.assert_array_equal(guarded(Packaged("some_package", warn))(returns), sample(returns))


def test_a_package_that_is_not_there_is_named_with_what_brings_it(monkeypatch):
    assert missing(Packaged("numpy", sample)) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert packages.missing(PACKAGED["riskfolio_gerber"]) == (
        "riskfolio is not installed: pip install 'sigmahat[tournament]'"
    )
