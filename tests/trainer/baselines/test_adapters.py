# SPDX-License-Identifier: Apache-2.0
"""Estimators see their own rows and columns, and answer what the parts they are made of answer."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from trainer.some_constants import CONSTANTS

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.parameters import HEADS, N_PARAMETERS, split_parameters
from sigmahat_kernels.request import PADDING, read_request
from sigmahat_trainer.baselines.adapters import (
    checkpoint_pipeline,
    closed_form,
    learned_constants,
    run_constants,
    served,
)
from sigmahat_trainer.baselines.closed_form import BASELINES, sample
from sigmahat_trainer.config import TrainConfig
from sigmahat_trainer.data.panels import fill_missing
from sigmahat_trainer.model.member_file import CheckpointError, save_member
from sigmahat_trainer.model.network import MemberNetwork


def ragged_request():
    """Universes of different size and window."""
    rng = np.random.default_rng(0)
    returns = 0.01 * rng.standard_normal((120, 1)) + 0.01 * rng.standard_normal((120, 30))
    universes = np.array([[4, 1, 7, 2], [9, 3, 5, PADDING]], np.int32)
    return read_request(returns.astype(np.float32), universes, windows=np.array([[10, 90], [40, 120]]))


def test_closed_form_hands_each_universe_its_own_rows_and_columns():
    request = ragged_request()
    seen = []

    def estimator(returns):
        seen.append(returns)
        return sample(returns)

    covariances = closed_form(estimator)(request)
    for returns, universe, rows in zip(seen, ([4, 1, 7, 2], [9, 3, 5]), (slice(10, 90), slice(40, 120)), strict=True):
        np.testing.assert_array_equal(returns, request.panel[rows][:, universe])
        assert returns.dtype == np.float64
    assert [matrix.shape for matrix in covariances] == [(4, 4), (3, 3)]
    np.testing.assert_allclose(covariances[1], np.cov(seen[1].T), rtol=1e-10)


def test_filled_returns_have_the_mean_and_variance_of_what_is_known():
    rng = np.random.default_rng(1)
    returns = 0.01 + rng.standard_normal((50, 4))
    returns[:25, 1] = np.nan
    returns[rng.random(50) < 0.2, 3] = np.nan
    filled = fill_missing(returns)
    np.testing.assert_allclose(filled.mean(axis=0), np.nanmean(returns, axis=0), rtol=1e-9)
    np.testing.assert_allclose(filled.var(axis=0, ddof=1), np.nanvar(returns, axis=0, ddof=1), rtol=1e-9)
    # A pair of which one lacks half: the covariance of the common days, attenuated by sqrt(days of both / of each).
    both = slice(25, 50)
    x, y = returns[both, 0] - returns[:, 0].mean(), returns[both, 1] - returns[both, 1].mean()
    assert np.cov(filled[:, 0], filled[:, 1])[0, 1] == pytest.approx((x @ y) / np.sqrt(49 * 24), rel=1e-9)
    np.testing.assert_array_equal(fill_missing(returns[:, :1]), returns[:, :1])


def test_an_estimator_that_does_not_exist_answers_nan_and_spoils_no_other():
    def fussy(returns):
        if returns.shape[1] == 4:
            raise np.linalg.LinAlgError("no")
        return sample(returns)

    covariances = closed_form(fussy)(ragged_request())
    assert np.isnan(covariances[0]).all()
    assert covariances[0].shape == (4, 4)
    assert np.isfinite(covariances[1]).all()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_applied_as_they_are(name):
    request = ragged_request()
    covariances = closed_form(BASELINES[name])(request)
    expected = BASELINES[name](request.panel[40:120][:, [9, 3, 5]].astype(float))
    np.testing.assert_allclose(covariances[1], expected, rtol=1e-10)


def test_learned_constants_are_one_answer_for_all_universes():
    request = ragged_request()
    covariances = learned_constants(CONSTANTS)(request)
    parameters = split_parameters(np.zeros((2, N_PARAMETERS)))
    parameters = parameters._replace(**{name: np.array([values, values]) for name, values in CONSTANTS.items()})
    expected = assemble(request, parameters, np.zeros(2, int))
    np.testing.assert_array_equal(covariances[0], expected[0])
    np.testing.assert_array_equal(covariances[1], expected[1][:3, :3])
    assert covariances[0].dtype == np.float64
    assert set(CONSTANTS) < set(HEADS)  # what is not named is 0


def test_served_is_the_pipeline_without_padding():
    request = ragged_request()
    matrices = np.full((2, 4, 4), np.nan, np.float32)
    matrices[0], matrices[1, :3, :3] = np.arange(16).reshape(4, 4), np.arange(9).reshape(3, 3)
    seen = []

    def estimate(given):
        seen.append(given)
        return SimpleNamespace(covariance=matrices)

    covariances = served(SimpleNamespace(estimate=estimate))(request)
    assert seen == [request]
    np.testing.assert_array_equal(covariances[0], matrices[0])
    np.testing.assert_array_equal(covariances[1], np.arange(9).reshape(3, 3))


# -------------------------------------------------------------------------------------------------------- checkpoints


@pytest.fixture
def run(tmp_path):
    for k in range(1, TrainConfig().members + 1):
        torch.manual_seed(k)
        network = MemberNetwork(len(FEATURE_NAMES)).eval()
        path = tmp_path / f"member_{k}.safetensors"
        save_member(network, TrainConfig(), path, feature_names=FEATURE_NAMES)
    (tmp_path / "metrics.json").write_text(json.dumps({"constants": CONSTANTS, "config": asdict(TrainConfig())}))
    return tmp_path


def test_checkpoints_answer_in_float32_what_the_networks_answer(run):
    pipeline = checkpoint_pipeline(run)
    features = np.random.default_rng(2).standard_normal((5, len(FEATURE_NAMES))).astype(np.float32)
    answers = [member(features) for member in pipeline.members]
    for k, answer in enumerate(answers, start=1):
        torch.manual_seed(k)
        with torch.no_grad():
            expected = MemberNetwork(len(FEATURE_NAMES)).eval()(torch.from_numpy(features)).numpy()
        np.testing.assert_array_equal(answer, expected)
    assert (answers[0] != answers[1]).any()
    covariances = served(pipeline)(ragged_request())
    assert [np.linalg.eigvalsh(c)[0] > 0 for c in covariances] == [True, True]
    assert run_constants(run) == CONSTANTS


def test_a_missing_checkpoint_is_an_error_that_names_it(run):
    (run / "member_2.safetensors").unlink()
    with pytest.raises((CheckpointError, OSError), match="member_2"):
        checkpoint_pipeline(run)
