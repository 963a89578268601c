# SPDX-License-Identifier: Apache-2.0
"""Baselines that learn: the oracle against its definition, RIEnet on data of known answer, constants in hindsight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console

from sigmahat_kernels.parameters import HEADS
from sigmahat_kernels.request import PADDING, read_request
from sigmahat_trainer.baselines.adapters import learned_constants
from sigmahat_trainer.baselines.average_oracle import average_oracle, fit_oracle, oracle_eigenvalues
from sigmahat_trainer.baselines.closed_form import sample
from sigmahat_trainer.baselines.hindsight import Outcome, hindsight_constants
from sigmahat_trainer.baselines.learned import BEYOND_LINEAR, fit_baselines, load_learned
from sigmahat_trainer.baselines.ridge import STATISTICS
from sigmahat_trainer.baselines.rienet import build_rienet, rienet, train_rienet
from sigmahat_trainer.data.episodes import Episode, draw_episode, draw_episodes, sizes_of
from sigmahat_trainer.data.panels import ReturnPanel, fill_missing
from sigmahat_trainer.evaluation.portfolios import gmv_weights


def make_panel(*, n_rows=500, n_assets=16, seed=0, name="north"):
    rng = np.random.default_rng(seed)
    returns = 0.01 * rng.standard_normal((n_rows, 1)) * rng.uniform(0.3, 1.5, n_assets)
    returns += rng.uniform(0.005, 0.02, n_assets) * rng.standard_normal((n_rows, n_assets))
    returns[rng.random(returns.shape) < 0.005] = np.nan
    dates = np.busday_offset(np.datetime64("2008-01-01"), np.arange(n_rows), roll="forward")
    return ReturnPanel(name, returns.astype(np.float32), dates, np.full((n_rows, 4), np.nan, np.float32))


def request_of(returns):
    """All assets of all rows, one universe."""
    return read_request(returns.astype(np.float32), np.arange(returns.shape[1], dtype=np.int32)[None])


def test_an_episode_is_the_past_and_what_came_after():
    panel = make_panel()
    episode = Episode(panel, 200, 60, np.array([1, 4]))
    past, forward = panel.returns[140:200][:, [1, 4]], panel.returns[200:210][:, [1, 4]]
    np.testing.assert_allclose(episode.past()[~np.isnan(past)].mean(), np.nanmean(past), atol=1e-3)
    assert episode.past().shape == (60, 2)
    np.testing.assert_array_equal(episode.forward(10), np.nan_to_num(forward))
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = draw_episode(rng, panel, n_assets=8, n_obs=60, horizon=10)
        assert 60 <= drawn.stop <= 490
        assert len(set(drawn.universe)) == 8
    assert draw_episode(rng, panel, n_assets=17, n_obs=60, horizon=10) is None


def test_sizes_that_a_panel_cannot_fill_are_left_out():
    panel = make_panel(n_assets=100)
    assert sizes_of(panel, [200, 50, 80, 50]) == [50, 80]
    assert sizes_of(panel, [81, 200]) == [80]


# ----------------------------------------------------------------------------------------------------- average oracle


def test_oracle_eigenvalues_equal_their_definition():
    panel = make_panel(n_assets=6)
    episode = Episode(panel, 200, 60, np.arange(6))
    vectors = np.linalg.eigh(np.corrcoef(episode.past().T))[1]
    after = np.corrcoef(episode.forward(30).T)
    expected = [vectors[:, i] @ after @ vectors[:, i] for i in range(6)]
    np.testing.assert_allclose(oracle_eigenvalues(episode, 30), expected, rtol=1e-9)


def test_null_eigenvectors_share_their_mean_and_the_trace_stays():
    episode = Episode(make_panel(), 200, 9, np.arange(16))
    values = oracle_eigenvalues(episode, 30)
    assert len(np.unique(values[:8])) == 1  # 16 assets less 8 degrees of freedom
    assert len(np.unique(values)) == 9
    assert values.sum() == pytest.approx(16)


def test_oracle_of_a_stable_market_nears_what_the_population_says():
    """With as many days as one likes, the eigenvalues are those of the population."""
    panel = make_panel(n_rows=6_000, n_assets=5)
    found = fit_oracle(panel, n_assets=5, n_obs=2_000, horizon=500, n_episodes=40, seed=0)
    population = np.linalg.eigvalsh(np.corrcoef(np.nan_to_num(panel.returns).T))
    np.testing.assert_allclose(found, population, rtol=0.1)


def test_average_oracle_keeps_eigenvectors_and_volatilities():
    returns = make_panel(n_assets=6).returns[:100].astype(float)
    returns = np.nan_to_num(returns)
    own = np.linalg.eigvalsh(np.corrcoef(returns.T))
    np.testing.assert_allclose(average_oracle(own)(returns), sample(returns), rtol=1e-8, atol=1e-12)
    flat = average_oracle(np.ones(6))(returns)
    np.testing.assert_allclose(flat, np.diag(returns.var(axis=0, ddof=1)), atol=1e-12)


# ------------------------------------------------------------------------------------------------------------- RIEnet


def test_rienet_is_the_published_size_and_its_covariance_has_its_weights():
    pytest.importorskip("rienet_torch")
    network = build_rienet(["covariance", "weights"])
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_175
    returns = np.nan_to_num(make_panel(n_assets=8).returns[:90].astype(float))
    with torch.no_grad():
        answer = network(torch.from_numpy(returns.T)[None].float())
    (covariance,) = rienet(lambda x: network(x)["covariance"])(request_of(returns))
    weights = np.linalg.solve(covariance, np.ones(8))
    np.testing.assert_allclose(weights / weights.sum(), answer["weights"][0, :, 0], atol=1e-4)
    assert np.trace(covariance) == pytest.approx(returns.var(axis=0, ddof=1).sum())


def test_rienet_answers_universes_together_as_it_does_alone():
    """Two shapes and two windows, with missing returns."""
    pytest.importorskip("rienet_torch")
    estimate = rienet(build_rienet().eval())
    panel = make_panel(n_assets=8).returns[:90]
    universes = np.array([[0, 1, 2, 3], [4, 5, 6, PADDING], [2, 3, 5, 7], [0, 1, 2, 3]], np.int32)
    windows = np.array([[0, 90], [0, 90], [0, 90], [30, 90]], np.int32)
    together = estimate(read_request(panel, universes, windows=windows))
    assert [len(covariance) for covariance in together] == [4, 3, 4, 4]
    for covariance, universe, window in zip(together, universes, windows, strict=True):
        own = universe[universe != PADDING]
        (alone,) = estimate(read_request(panel, own[None], windows=window[None]))
        np.testing.assert_allclose(covariance, alone, rtol=1e-4, atol=1e-9)
        filled = fill_missing(panel[slice(*window)][:, own].astype(float))
        assert np.trace(covariance) == pytest.approx(filled.var(axis=0, ddof=1).sum())


def test_rienet_learns():
    pytest.importorskip("rienet_torch")
    panel = make_panel(n_assets=12, n_rows=400)
    episodes = draw_episodes([panel], n_episodes=64, horizon=10, seed=0)
    assert {len(episode.universe) for episode in episodes} <= {5, 10}
    steps = []
    settings = {"horizon": 10, "seed": 0}
    trained = train_rienet(episodes, **settings, epochs=15, progress=lambda *report: steps.append(report))
    assert [step for step, _, _ in steps] == list(range(1, steps[-1][1] + 1))

    def loss(network):
        logs = []
        for episode in episodes:
            weights = network(torch.from_numpy(episode.past().T)[None].float())[0, :, 0].detach().numpy()
            logs.append(np.log(((episode.forward(10) @ weights) ** 2).mean()))
        return np.mean(logs)

    torch.manual_seed(0)
    assert loss(trained) < loss(build_rienet("weights").eval()) - 0.02


def test_no_episode_is_an_error():
    with pytest.raises(ValueError, match="no episode with a holding period of 10 rows in"):
        draw_episodes([make_panel(n_rows=30)], n_episodes=5, horizon=10, seed=0)


# ------------------------------------------------------------------------------------------------ constants, and all


def test_hindsight_finds_the_constants_that_a_search_finds():
    """Two assets of one pair: only shrinkage and volatility matter, and a grid over the intensity does no better."""
    rng = np.random.default_rng(5)
    start = {
        "target_intensity": [0.5, 0.5, 0.5],
        "target_weights": [0.98, 0.01, 0.01],
        "memory": [0.01],
        "factor_memory": [0.01],
        "volatility": [0.97, 0.01, 0.02, 0.01],
    }
    others = {"condition": [1.0], "expected_error": [0.0], "log_variance": [0.0], "regime": [0.25] * 4}
    start |= {"target_confidence": [0.5] * 3, **others}
    outcomes = []
    for _ in range(30):
        returns = rng.multivariate_normal(np.zeros(8), np.eye(8) + 0.5, 60) * 0.01
        outcomes.append(Outcome(returns[:40], returns[40:]))

    def loss(constants):
        total = 0.0
        for outcome in outcomes:
            request = read_request(outcome.past.astype(np.float32), np.arange(8, dtype=np.int32)[None])
            weights = gmv_weights(learned_constants(constants)(request)[0])
            total += np.log(((outcome.forward @ weights) ** 2).mean()) / len(outcomes)
        return total

    best = hindsight_constants(outcomes, start)
    grid = [loss({**start, "target_intensity": [alpha, 0.5, 0.5]}) for alpha in np.linspace(0.05, 0.95, 10)]
    assert loss(best) <= min(grid) + 1e-3
    assert loss(best) < loss(start) - 1e-3


def test_everything_fitted_is_written_and_read(tmp_path):
    pytest.importorskip("rienet_torch")
    panels = [make_panel(name="north"), make_panel(n_assets=9, seed=1, name="south")]
    settings = {"sizes": (10,), "lengths": (60, 2_000), "horizon": 10, "windows": 24, "oracle_windows": 5}
    fit_baselines(panels, tmp_path, **settings, epochs=1, seed=0, console=Console(stderr=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "average_oracle.npz",
        "constants.json",
        "ridge.json",
        "rienet.safetensors",
    ]
    fitted = load_learned(tmp_path)
    assert set(fitted.oracles) == {("north", 10, 60), ("south", 7, 60)}  # no panel has 2,000 rows
    expected = fit_oracle(panels[1], n_assets=7, n_obs=60, horizon=10, n_episodes=5, seed=0)
    np.testing.assert_array_equal(fitted.oracles["south", 7, 60], expected)
    assert set(fitted.constants["tilted_constants"]) == set(HEADS)
    assert set(HEADS) - set(fitted.constants["learned_constants"]) == set(BEYOND_LINEAR)
    assert len(fitted.ridge.coefficients) == len(STATISTICS)
    returns = np.nan_to_num(panels[0].returns[:90].astype(float))
    assert np.linalg.eigvalsh(rienet(fitted.rienet)(request_of(returns))[0])[0] > 0
    with pytest.raises(FileNotFoundError, match="has no constants"):
        load_learned(tmp_path / "elsewhere")
