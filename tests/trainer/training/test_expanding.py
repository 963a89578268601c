# SPDX-License-Identifier: Apache-2.0
"""Expanding-window normalisation against a loop over the samples, and what it leaves as it is."""

from __future__ import annotations

import numpy as np
import pytest

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_trainer.data.dataset import Dataset, Sample
from sigmahat_trainer.model.preprocessing import INDICATORS
from sigmahat_trainer.training import expanding as module
from sigmahat_trainer.training.expanding import expanding_dataset, expanding_normalisation

LEAST = 30
DEPENDENTS = {name: indicator for indicator, names in INDICATORS.items() for name in names}


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch):
    monkeypatch.setattr(module, "LEAST_VALUES", LEAST)


@pytest.fixture
def samples():
    """Features that drift over 40 months, some missing at first, and the months; every fifth sample is simulated."""
    rng = np.random.default_rng(0)
    n = 300
    periods = rng.integers(0, 40, n)
    features = (1 + 0.05 * periods[:, None]) * rng.standard_normal((n, len(FEATURE_NAMES))) + 0.2 * periods[:, None]
    features *= np.logspace(-3, 3, len(FEATURE_NAMES))
    features[:, 7] = 5.0  # never varies
    hardly_yet = (periods < 25) | (np.arange(n) % 5 == 0)
    features[:, 8] = np.where(hardly_yet, 2.0 + 1e-7 * rng.standard_normal(n), features[:, 8])
    for indicator, names in INDICATORS.items():
        there = (periods > 10) & (rng.random(n) < 0.7)
        features[:, FEATURE_NAMES.index(indicator)] = there
        for name in names:
            features[~there, FEATURE_NAMES.index(name)] = 0.0
    periods[::5] = -1 - rng.integers(1_000, size=len(periods[::5]))
    return features.astype(np.float32), periods


def by_definition(features, periods):
    """Sample by sample: which samples were known in its month, their mean and deviation, its z-score."""
    x = features.astype(np.float64)
    expected = x.copy()
    months = sorted({int(period) for period in periods if period >= 0})
    for column, name in enumerate(FEATURE_NAMES):
        if name in INDICATORS:
            continue
        indicator = DEPENDENTS.get(name)
        known = [k for k in range(len(x)) if indicator is None or x[k, FEATURE_NAMES.index(indicator)] != 0]

        def window(until, known=known):
            return [k for k in known if periods[k] <= until]  # simulated months are below zero: known from the start

        last = x[window(months[-1]), column]
        for k in known:
            until = months[-1] if periods[k] < 0 else periods[k]
            while len(window(until)) < LEAST:
                until += 1
            then = x[window(until), column]
            if last.std() > 1e-9:
                z = (x[k, column] - then.mean()) / max(then.std(), 0.1 * last.std())
                expected[k, column] = last.mean() + last.std() * z
    return expected


def test_features_are_those_of_a_loop(samples):
    features, periods = samples
    scale = np.logspace(-3, 3, len(FEATURE_NAMES))
    got = expanding_normalisation(features, periods)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got / scale, by_definition(features, periods) / scale, atol=1e-4)
    assert np.abs(got - features)[periods == 5][:, 20].min() > 0.1 * scale[20]


def test_what_has_no_time_or_is_missing_or_says_so_stays(samples):
    features, periods = samples
    got = expanding_normalisation(features, periods)
    spread = features.std(axis=0)
    for stays in (periods < 0, periods == periods.max()):
        assert (np.abs(got[stays] - features[stays]) <= 1e-5 * spread + 1e-6 * np.abs(features[stays])).all()
    for indicator, names in INDICATORS.items():
        columns = [FEATURE_NAMES.index(name) for name in (indicator, *names)]
        missing = features[:, columns[0]] == 0
        np.testing.assert_array_equal(got[np.ix_(missing, columns)], 0.0)
        np.testing.assert_array_equal(got[:, columns[0]], features[:, columns[0]])
    np.testing.assert_array_equal(got[:, 7], 5.0)


def test_no_feature_depends_on_later_months_but_by_the_units_of_the_last(samples):
    """The future changes mean and deviation of the last window, so an affine map of every feature, and nothing else."""
    features, periods = samples
    early = periods < 30
    short, long = expanding_normalisation(features[early], periods[early]), expanding_normalisation(features, periods)
    dated = periods[early] >= 0
    for column in (0, 20, 60):
        fit = np.polynomial.Polynomial.fit(short[dated, column], long[early][dated, column], 1)
        error = fit(short[dated, column]) - long[early][dated, column]
        assert np.abs(error).max() < 1e-4 * np.abs(long[:, column]).max()


def test_too_few_known_values_stay(samples, monkeypatch):
    features, periods = samples
    monkeypatch.setattr(module, "LEAST_VALUES", len(features) + 1)
    np.testing.assert_array_equal(expanding_normalisation(features, periods), features)


def test_all_sizes_share_their_windows_and_other_fields_stay(samples):
    features, periods = samples
    numbers = np.arange(len(features))
    stacks = {
        size: Sample(features[rows], *[numbers[rows]] * (len(Sample._fields) - 2), periods[rows])
        for size, rows in ((5, slice(0, 100)), (10, slice(100, None)))
    }
    got = expanding_dataset(Dataset(stacks))
    assert list(got.by_size) == [5, 10]
    np.testing.assert_array_equal(got.features(), expanding_normalisation(features, periods))
    for size, stack in got.by_size.items():
        for name in Sample._fields[1:]:
            assert getattr(stack, name) is getattr(stacks[size], name)


def test_other_features_than_the_published_are_refused():
    with pytest.raises(ValueError, match="known of the 92 published ones, got 4"):
        expanding_normalisation(np.zeros((9, 4), np.float32), np.arange(9))
