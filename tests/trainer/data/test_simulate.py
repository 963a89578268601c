# SPDX-License-Identifier: Apache-2.0
"""Each simulated design against what its docstring promises of the population."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sigmahat_trainer.data.simulate import (
    DAILY_VOLATILITY,
    TRAINING_DESIGNS,
    drifting_design,
    isotropic_design,
    sector_design,
    spectrum_design,
    structured_design,
    switching_design,
)

UNIT = DAILY_VOLATILITY**2


def draw(design, n_obs, n_assets, seed=0):
    return design(np.random.default_rng(seed), n_obs, n_assets).returns


def eigenvalues(matrix):
    """From the largest down."""
    return np.linalg.eigvalsh(matrix)[::-1]


@pytest.mark.parametrize("design", TRAINING_DESIGNS)
@pytest.mark.parametrize("shape", [(63, 5), (42, 150)])
def test_returns_are_finite_daily_returns_fixed_by_the_seed(design, shape):
    returns = draw(design, *shape, seed=1)
    assert returns.shape == shape
    assert np.isfinite(returns).all()
    assert 0.002 < np.median(returns.std(axis=0)) < 0.05
    np.random.seed(0)  # another generator, whose state must not matter
    np.testing.assert_array_equal(draw(design, *shape, seed=1), returns)
    other = draw(design, *shape, seed=2)
    assert (other != returns).all()


@pytest.mark.parametrize("design", TRAINING_DESIGNS)
def test_each_draw_has_its_own_population(design):
    """Two long draws differ by more than sampling noise, and the generator goes on from the first."""
    rng = np.random.default_rng(3)
    first, second = (np.corrcoef(design(rng, 4000, 10).returns.T)[np.triu_indices(10, 1)] for _ in range(2))
    assert np.abs(first - second).max() > 0.15  # ten standard errors


@pytest.mark.parametrize(("n_assets", "counts"), [(5, (1, 2, 2)), (10, (2, 4, 4)), (35, (7, 14, 14))])
def test_isotropic_population_has_eigenvalues_1_3_10(n_assets, counts):
    sample = np.cov(draw(isotropic_design, 40_000, n_assets).T)
    measured = eigenvalues(sample) / UNIT * 6.0
    expected = np.repeat([10.0, 3.0, 1.0], counts[::-1])
    np.testing.assert_allclose(measured, expected, rtol=0.1)  # equal eigenvalues spread by 2 sqrt(N / T)
    # No asset is an eigenvector: all variances lie between, and correlations are real.
    assert np.abs(np.corrcoef(sample)).min() < 1
    assert (np.diag(sample) * 6.0 / UNIT < 9.9).all()
    assert (np.diag(sample) * 6.0 / UNIT > 1.1).all()


def test_isotropic_returns_are_gaussian():
    returns = draw(isotropic_design, 20_000, 10)
    assert np.abs(stats.kurtosis(returns, axis=0)).max() < 0.2


@pytest.fixture(scope="module")
def sectors():
    return draw(sector_design, 20_000, 300, seed=4)


def test_sector_returns_are_student_t_with_five_degrees_of_freedom_and_unit_variance_mixing(sectors):
    """Of a mixed Gaussian with variance s^2 the marginal is s sqrt(3/5) t(5): both shape and scale are checked."""
    rng = np.random.default_rng(0)
    for column in rng.choice(300, 5, replace=False):
        returns = sectors[::4, column]
        # E[m^2] = 1 relates the standard deviation to that of the quantiles.
        scale = np.subtract(*np.quantile(sectors[:, column], [0.75, 0.25])) / np.subtract(*stats.t(5).ppf([0.75, 0.25]))
        assert sectors[:, column].std() / scale == pytest.approx(np.sqrt(5 / 3), rel=0.06)
        assert stats.kstest(returns / scale, stats.t(5).cdf).pvalue > 0.001
        assert stats.kstest(returns / returns.std(), stats.norm.cdf).pvalue < 1e-6


def test_sector_mixing_is_common_to_all_assets(sectors):
    """The size of a row moves as ln(3 / chi2(5)) / 2, whose deviation is sqrt(trigamma(5/2)) / 2 = 0.35."""
    log_size = np.log(sectors.std(axis=1))
    assert log_size.std() == pytest.approx(0.35, abs=0.04)
    assert abs(np.corrcoef(log_size[1:], log_size[:-1])[0, 1]) < 0.03  # and is new every day


def test_sector_population_has_a_market_and_eight_sectors(sectors):
    correlation = eigenvalues(np.corrcoef(sectors.T))
    assert correlation[0] > 60  # of 300: the market
    assert correlation[8] > 1.25 * correlation[9]  # the market and eight more, then the bulk
    assert correlation[9] < 1.05 * correlation[10]
    covariance = np.cov(sectors.T) / UNIT
    # E[beta^2] + E[loading^2] + E[lognormal^2], and E[beta]^2 plus a shared sector one time in eight.
    loading_square, loading = 0.55**2 + 0.7**2 / 12, 0.55
    assert np.diag(covariance).mean() == pytest.approx(1.09 + loading_square + np.exp(2 * 0.4**2), rel=0.12)
    off_diagonal = (covariance.sum() - np.trace(covariance)) / (300 * 299)
    assert off_diagonal == pytest.approx(1 + loading**2 / 8, rel=0.12)


def test_sector_volatilities_differ_between_assets(sectors):
    """Log-normal with 0.4, seen through the market and sector parts that all share."""
    log_volatility = np.log(sectors.std(axis=0))
    assert 0.15 < log_volatility.std() < 0.4


def early_and_late(design, n_obs=2_520, n_assets=40, block=500):
    """Off-diagonal correlations of the first and last rows, each row in units of its own size."""
    returns = draw(design, n_obs, n_assets, seed=6)
    returns = returns / np.sqrt((returns**2).mean(axis=1, keepdims=True))
    pairs = np.triu_indices(n_assets, 1)
    return np.corrcoef(returns[:block].T)[pairs], np.corrcoef(returns[-block:].T)[pairs]


def test_only_the_drifting_design_drifts():
    assert np.corrcoef(*early_and_late(drifting_design))[0, 1] < 0.75
    assert np.corrcoef(*early_and_late(structured_design))[0, 1] > 0.97
    assert np.corrcoef(*early_and_late(isotropic_design))[0, 1] > 0.5  # small correlations, so noisier


def test_drifting_loadings_walk_half_a_unit_a_year():
    """Products of loadings and so covariances walk away from where they began, with the root of time."""
    rng = np.random.default_rng(7)
    spread = {years: [] for years in (1, 4)}
    for _ in range(20):
        returns = drifting_design(rng, 252 * 5, 60).returns
        size = np.sqrt((returns**2).mean(axis=1, keepdims=True))
        returns = returns / size
        for years, distances in spread.items():
            first = np.corrcoef(returns[:126].T)
            last = np.corrcoef(returns[252 * years : 252 * years + 126].T)
            distances.append(((first - last) ** 2).mean())
    near, far = (np.mean(spread[years]) for years in (1, 4))
    noise = 2 / 126  # of two samples of 126 rows with no correlation
    assert near > 1.5 * noise
    assert far > 1.8 * near


def test_drifting_volatility_is_a_random_walk_that_starts_each_draw_at_its_usual_level():
    rng = np.random.default_rng(8)
    steps, levels = [], []
    for _ in range(30):
        returns = drifting_design(rng, 1_000, 150).returns
        # Eight rows a block: the noise of a block's size is small beside the walk over 25 blocks.
        log_size = 0.5 * np.log((returns**2).reshape(125, -1).mean(axis=1))
        steps.append(log_size[25:] - log_size[:-25])
        levels.append(log_size.mean())
    assert np.std(steps) == pytest.approx(0.04 * np.sqrt(200), rel=0.35)
    assert np.mean(levels) == pytest.approx(np.log(DAILY_VOLATILITY * np.sqrt(3)), abs=0.35)
    assert np.std(levels) < 0.3


def test_drifting_returns_have_three_factors():
    """Over a few weeks the loadings stand still, and with many assets their three directions stand out."""
    returns = draw(drifting_design, 63, 400, seed=9)
    values = eigenvalues(returns @ returns.T)  # the same positive eigenvalues as of the large matrix
    assert values[2] > 1.8 * values[3]
    assert values[3] < 1.3 * values[4]


def test_structured_returns_have_few_factors_of_both_signs():
    counts = set()
    for seed in range(8):
        returns = draw(structured_design, 5_000, 60, seed=seed)
        values = eigenvalues(np.cov(returns.T))
        gaps = values[:-1] / values[1:]
        n_factors = int(np.argmax(gaps[:12])) + 1
        counts.add(n_factors)
        assert 3 <= n_factors <= 8
        assert values[:n_factors].sum() > 0.9 * values.sum()
        correlation = np.corrcoef(returns.T)[np.triu_indices(60, 1)]
        assert (correlation > 0.3).mean() > 0.15
        assert (correlation < -0.3).mean() > 0.15
    assert len(counts) >= 3


def test_spectrum_populations_go_from_equal_eigenvalues_to_very_different_ones():
    spreads = []
    for seed in range(12):
        returns = draw(spectrum_design, 20_000, 30, seed=seed) / DAILY_VOLATILITY
        values = eigenvalues(returns.T @ returns / len(returns))
        assert values.mean() == pytest.approx(1.0, abs=0.05)  # the mean variance is one
        spreads.append(np.log(values).std())
    assert min(spreads) < 0.4
    assert max(spreads) > 1.5


def test_switching_regimes_have_correlations_and_levels_of_their_own():
    returns = draw(switching_design, 30_000, 20, seed=3)
    level = np.log(np.abs(returns).mean(axis=1))
    smooth = np.convolve(level, np.full(9, 1 / 9), mode="same")
    middle = (np.quantile(smooth, 0.05) + np.quantile(smooth, 0.95)) / 2
    calm, stressed = returns[smooth < middle], returns[smooth >= middle]
    assert 0.25 < len(calm) / len(returns) < 0.75  # turns of about the same length
    assert stressed.std() > 1.4 * calm.std()
    means = [np.corrcoef(part.T)[np.triu_indices(20, 1)].mean() for part in (calm, stressed)]
    assert means[1] > means[0] + 0.1
    turns = np.abs(np.diff(np.convolve(level, np.full(25, 1 / 25), mode="same") > middle)).sum()
    assert len(returns) / turns == pytest.approx(60, rel=0.35)


class SamePopulation:
    """A generator of the same population at every seed and of other returns: those are its tall normal arrays."""

    def __init__(self, seed):
        self.population, self.noise = np.random.default_rng(5), np.random.default_rng(seed)

    def __getattr__(self, name):
        return getattr(self.population, name)

    def standard_normal(self, size):
        of_returns = isinstance(size, tuple) and len(size) == 2 and size[0] > 8
        return (self.noise if of_returns else self.population).standard_normal(size)

    def chisquare(self, df, size):
        return self.noise.chisquare(df, size)


@pytest.mark.parametrize("design", TRAINING_DESIGNS)
def test_the_covariance_ahead_is_that_of_the_last_rows(design):
    """Second moments of the last rows of 600 draws from one population against what the design says of them."""
    n_obs, n_ahead, n_assets, n_draws = 200, 120, 4, 600
    draws = [design(SamePopulation(seed), n_obs, n_assets) for seed in range(n_draws)]
    ahead = np.concatenate([each.returns[-n_ahead:] for each in draws])
    truth = draws[0].ahead(n_ahead)
    np.testing.assert_allclose(draws[1].ahead(n_ahead), truth, rtol=1e-12)
    scale = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
    np.testing.assert_allclose(ahead.T @ ahead / len(ahead) / scale, truth / scale, atol=0.03)
    if design in (drifting_design, switching_design):
        assert np.abs(draws[0].ahead(n_obs) / truth - 1).max() > 0.05  # other rows, another covariance


def realised_after_shrinking(design, intensity, *, n_obs, n_assets):
    """Mean ln variance of the minimum-variance portfolio of correlations shrunk to the identity, on 2,000 new rows."""
    rng = np.random.default_rng(11)
    logs = []
    for _ in range(12):
        returns = design(rng, n_obs + 2_000, n_assets).returns
        past, future = returns[:n_obs], returns[n_obs:]
        volatility = past.std(axis=0)
        correlation = (1 - intensity) * np.corrcoef(past.T) + intensity * np.eye(n_assets)
        solution = np.linalg.solve(correlation * np.outer(volatility, volatility), np.ones(n_assets))
        logs.append(np.log((future @ (solution / solution.sum())).var()))
    return np.mean(logs)


def test_little_shrinkage_is_right_where_it_is_said_to_be():
    strong, weak = (
        realised_after_shrinking(structured_design, intensity, n_obs=252, n_assets=50) for intensity in (0.5, 0.02)
    )
    assert strong > weak + 0.3
    strong, weak = (
        realised_after_shrinking(isotropic_design, intensity, n_obs=63, n_assets=50) for intensity in (0.5, 0.02)
    )
    assert weak > strong + 0.3


def test_designs_lists_each_once():
    designs = {isotropic_design, spectrum_design, sector_design, structured_design, drifting_design, switching_design}
    assert set(TRAINING_DESIGNS) == designs
    assert len(TRAINING_DESIGNS) == 6
