# SPDX-License-Identifier: Apache-2.0
"""Calibration: figures of made rows whose truth is known, and rows measured by loops."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.parameters import N_PARAMETERS, REGIMES, TARGETS, split_parameters
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import read_request
from sigmahat_trainer.baselines.adapters import unpadded
from sigmahat_trainer.data.dataset import regime_label
from sigmahat_trainer.evaluation.calibration import calibrate, confidence, head_rows, reliability, spearman
from sigmahat_trainer.evaluation.portfolios import gmv_weights


def made_rows(n=6_000, *, seed=0):
    """Answers that are exactly right, in distribution."""
    rng = np.random.default_rng(seed)
    expected = rng.normal(0.1, 0.2, n)
    aleatoric, epistemic = rng.uniform(0.2, 0.5, n), rng.uniform(0.0, 0.2, n)
    probabilities = rng.dirichlet([2, 2, 1, 1], n)
    confidences = rng.uniform(0.1, 0.9, (n, 3))
    condition = rng.normal(2, 0.3, n)
    good = rng.random((n, 3)) < confidences
    return pd.DataFrame(
        {
            "panel": "p",
            "step": rng.integers(0, 36, n),
            "condition": condition,
            "condition_measured": condition + rng.normal(0.05, 0.1, n),
            "expected_error": expected,
            "aleatoric": aleatoric,
            "epistemic": epistemic,
            "error": expected + np.sqrt(aleatoric**2 + epistemic**2) * rng.standard_normal(n),
            "regime": [rng.choice(4, p=p) for p in probabilities],
            **{f"regime_{name}": probabilities[:, k] for k, name in enumerate(REGIMES)},
            **{f"confidence_{name}": confidences[:, k] for k, name in enumerate(TARGETS)},
            **{f"alone_{name}": np.where(good[:, k], -1, 1) * rng.uniform(0, 0.1, n) for k, name in enumerate(TARGETS)},
        }
    )


def test_answers_that_are_right_look_right():
    rows = made_rows()
    found = calibrate(rows)
    assert found.n_universes == len(rows)
    assert found.condition.root_mean_square_error == pytest.approx(math.hypot(0.05, 0.1), rel=0.05)
    assert found.condition.mean_error == pytest.approx(-0.05, abs=0.01)
    assert found.expected_error.decile_gap < 0.03
    assert found.uncertainty.coverage_50 == pytest.approx(0.5, abs=0.03)
    assert found.uncertainty.coverage_90 == pytest.approx(0.9, abs=0.02)
    assert found.uncertainty.t < -3
    assert found.regime.t < -3
    for figures in found.confidence.values():
        assert figures.log_score < figures.log_score_of_base_rate
        assert figures.loss_without_lowest_decile < figures.loss


def test_scores_equal_those_of_scikit_learn_and_scipy():
    rows = made_rows(500)
    found = calibrate(rows)
    probabilities = rows[[f"regime_{name}" for name in REGIMES]].to_numpy()
    assert found.regime.log_score == pytest.approx(log_loss(rows["regime"], probabilities, labels=range(4)))
    brier = sum(brier_score_loss(rows["regime"] == k, probabilities[:, k]) for k in range(4))
    assert found.regime.brier == pytest.approx(brier)
    rates = rows["regime"].value_counts(normalize=True)
    assert found.regime.log_score_of_base_rates == pytest.approx(stats.entropy(rates))
    rank_correlation = stats.spearmanr(rows["expected_error"], rows["error"])[0]
    assert found.expected_error.spearman == pytest.approx(rank_correlation)
    good = rows["alone_identity"] <= 0
    assert found.confidence["identity"].log_score == pytest.approx(log_loss(good, rows["confidence_identity"]))
    deviation = np.hypot(rows["aleatoric"], rows["epistemic"])
    likelihood = stats.norm(rows["expected_error"], deviation).logpdf(rows["error"]).mean()
    assert found.uncertainty.negative_log_likelihood == pytest.approx(-likelihood)


def test_overconfidence_and_ignorance_are_seen():
    rows = made_rows()
    rows["aleatoric"] *= 0.4
    rows["epistemic"] *= 0.4
    assert calibrate(rows).uncertainty.coverage_90 < 0.6
    assert calibrate(rows).uncertainty.t > 3
    shuffled = made_rows()
    shuffled["expected_error"] = np.random.default_rng(1).permutation(shuffled["expected_error"])
    assert abs(calibrate(shuffled).expected_error.spearman) < 0.05
    assert calibrate(shuffled).expected_error.r_squared < 0


def test_rows_without_an_estimate_are_left_out():
    rows = made_rows(300)
    rows.loc[:9, "condition"] = np.nan
    assert calibrate(rows).n_universes == 290


def test_dropping_a_decile_drops_the_tenth_that_is_least_trusted():
    rows = pd.DataFrame({"confidence_identity": np.arange(20) / 20, "alone_identity": [1.0, 1.0, *[0.0] * 18]})
    figures = confidence(rows, "identity")
    assert figures.loss == pytest.approx(0.1)
    assert figures.loss_without_lowest_decile == 0.0


def test_reliability_bins_hold_equal_shares_in_order():
    expected = np.random.default_rng(2).permutation(200) / 200
    bins = reliability(expected, 2 * expected)
    assert len(bins) == 10
    np.testing.assert_allclose(bins["expected"], np.arange(10) / 10 + 0.0475)
    np.testing.assert_allclose(bins["realised"], 2 * bins["expected"])
    assert len(reliability(expected[:50], expected[:50])) == 2  # 20 rows at least
    assert spearman(np.ones(5), np.arange(5.0)) == 0.0


def test_rows_say_what_the_heads_said_and_what_came_of_it():
    """Against the definitions, for a pipeline of three members that answer noise."""
    rng = np.random.default_rng(3)

    def member(seed):
        def answer(features):
            raw = np.random.default_rng(seed).uniform(0.1, 0.9, (len(features), N_PARAMETERS)).astype(np.float32)
            heads = split_parameters(raw)
            for shares in (heads.target_weights, heads.volatility[:, :-1], heads.regime):
                shares /= shares.sum(axis=1, keepdims=True)
            return raw

        return answer

    pipeline = Pipeline.of([member(seed) for seed in range(3)])
    returns = 0.01 * rng.standard_normal((150, 1)) + 0.01 * rng.standard_normal((150, 9))
    request = read_request(returns[:130].astype(np.float32), np.array([[0, 2, 4, 6], [1, 3, 5, -1]], np.int32))
    forwards = [returns[130:, [0, 2, 4, 6]], returns[130:, [1, 3, 5]]]
    answer = pipeline.estimate(request)
    covariances = unpadded(request, answer.covariance)
    heads = split_parameters(answer.combined.parameters)
    for k, row in enumerate(head_rows(request, answer, covariances, forwards)):
        weights = gmv_weights(covariances[k])
        realised = ((forwards[k] @ weights) ** 2).mean()
        forecast = weights @ covariances[k] @ weights
        assert row["error"] == pytest.approx(0.5 * math.log(realised / forecast))
        assert row["expected_error"] == heads.expected_error[k, 0]
        assert row["condition"] == heads.condition[k, 0]
        assert row["condition_measured"] == pytest.approx(math.log10(np.linalg.cond(covariances[k])))
        assert (row["aleatoric"], row["epistemic"]) == tuple(answer.combined.uncertainty[k])
        universe = request.universes[k, : len(weights)]
        assert row["regime"] == regime_label(request.panel[:, universe], forwards[k])
        assert [row[f"regime_{name}"] for name in REGIMES] == heads.regime[k].tolist()
        for target, name in enumerate(TARGETS):
            assert row[f"confidence_{name}"] == heads.target_confidence[k, target]
            only = np.eye(3)[[target, target]]
            matrix = assemble(request, heads._replace(target_weights=only), answer.status)[k]
            alone = gmv_weights(matrix[: len(weights), : len(weights)])
            expected = 0.5 * math.log(((forwards[k] @ alone) ** 2).mean() / realised)
            assert row[f"alone_{name}"] == pytest.approx(expected, rel=1e-9)
