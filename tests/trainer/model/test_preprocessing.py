# SPDX-License-Identifier: Apache-2.0
"""The steps before the robust scaling against SciPy and scikit-learn, and what fitting, saving and loading keep."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.stats import kurtosis, rankdata, skew
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import QuantileTransformer

from sigmahat_kernels.features import FEATURE_NAMES, compute_features
from sigmahat_kernels.request import MARKET_COLUMNS, read_request
from sigmahat_trainer.config import NetworkConfig, PreprocessingConfig, TrainConfig
from sigmahat_trainer.model.member_file import load_member, save_member
from sigmahat_trainer.model.network import CLIP, MemberNetwork
from sigmahat_trainer.model.preprocessing import (
    INDICATORS,
    KNOTS,
    LEVELS,
    Preprocessing,
    is_non_gaussian,
    robust_scaling,
)

N_FEATURES = len(FEATURE_NAMES)
EVERYTHING = PreprocessingConfig(
    median_imputation="on", rank_transform="non-gaussian", selected_features=50, principal_components=20
)


def columns(*names):
    return [FEATURE_NAMES.index(name) for name in names]


def published(n=400, seed=0):
    """Features as they are published: correlated, of many scales, of heavy tails, with indicators that miss some."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 12)) @ rng.standard_normal((12, N_FEATURES))
    features += rng.standard_t(4, features.shape)
    features = features * np.logspace(-3, 3, N_FEATURES) + 1
    features[:, 3] = np.round(features[:, 3] / features[:, 3].std())  # ties
    for k, (indicator, dependents) in enumerate(INDICATORS.items()):
        there = rng.random(n) < 0.5 + 0.1 * k
        features[:, columns(indicator)] = there[:, None]
        features[np.ix_(~there, columns(*dependents))] = 0.0
    return features.astype(np.float32)


def fitted(training, *, importance=None, **switches):
    steps = Preprocessing(training.shape[1], PreprocessingConfig(**switches), limit=CLIP)
    steps.fit(training, importance)
    return steps


@torch.no_grad()
def through(steps, features):
    return steps(torch.from_numpy(features)).numpy()


# --------------------------------------------------------------------------------------------------------- imputation


def test_medians_are_scikit_learns():
    training, served = published(), published(30, seed=1)
    with_holes = [each.copy() for each in (training, served)]
    for each in with_holes:
        for indicator, dependents in INDICATORS.items():
            missing = each[:, columns(indicator)[0]] == 0
            each[np.ix_(missing, columns(*dependents))] = np.nan
    assert np.isnan(with_holes[1]).sum() > 50
    expected = SimpleImputer(strategy="median").fit(with_holes[0]).transform(with_holes[1])
    imputed = through(fitted(training, median_imputation="on"), served)
    np.testing.assert_allclose(imputed, expected, rtol=1e-6, atol=0)
    there = ~np.isnan(with_holes[1])
    np.testing.assert_array_equal(imputed[there], served[there])  # to the bit


def test_an_indicator_that_training_never_saw_leaves_zeros():
    training = published()
    training[:, columns("has_event", "event_proximity")] = 0.0
    imputed = through(fitted(training, median_imputation="on"), training)
    assert not imputed[:, columns("event_proximity")].any()


def test_indicators_speak_of_just_what_is_zero_without_their_input():
    """Asked of the features themselves: what a request without an input has at 0, and one with it has not."""
    rng = np.random.default_rng(0)
    returns = 0.01 * rng.standard_normal((300, 6)).astype(np.float32)
    market = np.abs(rng.standard_normal((300, len(MARKET_COLUMNS)))).astype(np.float32) + 0.5
    dates = np.arange(14_610, 14_910, dtype=np.int32)
    universes = np.arange(6, dtype=np.int32)[None]

    def features(market, dates):
        return compute_features(read_request(returns, universes, market=market, dates=dates)).features[0]

    whole = features(market, dates)
    inputs = {"has_dates": features(market, None)}
    for k, name in enumerate(("has_vix", "has_turnover", "has_illiquidity", "has_event")):
        without = market.copy()
        without[:, k] = np.nan
        inputs[name] = features(without, dates)
    assert list(inputs) == list(INDICATORS)
    for indicator, without in inputs.items():
        gone = {FEATURE_NAMES[k] for k in np.flatnonzero((without == 0) & (whole != 0))}
        assert gone == {indicator, *INDICATORS[indicator]}
        np.testing.assert_array_equal(np.delete(without, columns(*gone)), np.delete(whole, columns(*gone)))


# -------------------------------------------------------------------------------------------------------------- ranks


def test_ranks_of_few_values_are_scipys():
    training = published(KNOTS)
    got = through(fitted(training, rank_transform="all"), training)
    np.testing.assert_allclose(got, (rankdata(training, axis=0) - 0.5) / KNOTS, atol=2e-6)
    assert len(np.unique(training[:, 3])) < KNOTS / 3  # ties among them


def test_ranks_of_many_values_are_scipys_within_a_level_and_in_their_order():
    """Also beside a value that half of the samples share, as the zero of a missing indicator."""
    training = published(3000)
    steps = fitted(training, rank_transform="all")
    got, expected = through(steps, training), (rankdata(training, axis=0) - 0.5) / len(training)
    assert np.abs(got - expected).max() < 1 / (LEVELS - 1)
    assert np.abs(got - expected).mean() < 0.1 / (LEVELS - 1)
    tied = [3, *columns(*INDICATORS)]
    np.testing.assert_allclose(got[:, tied], expected[:, tied], atol=2e-6)
    for column in range(0, N_FEATURES, 7):
        order = np.argsort(training[:, column], kind="stable")
        assert (np.diff(got[order, column]) >= -1e-6).all()


def test_ranks_without_ties_are_scikit_learns_quantiles():
    rng = np.random.default_rng(2)
    training = rng.standard_t(3, (4801, 5)).astype(np.float32)
    served = rng.standard_t(3, (500, 5)).astype(np.float32)
    served[:2] = [[-1e9] * 5, [1e9] * 5]
    theirs = QuantileTransformer(n_quantiles=LEVELS, subsample=None).fit(training)
    got = through(fitted(training, rank_transform="all"), served)
    np.testing.assert_allclose(got, theirs.transform(served), atol=1 / len(training))
    np.testing.assert_allclose(got[:2], [[0.5 / 4801] * 5, [1 - 0.5 / 4801] * 5], atol=1e-6)


def test_the_closest_and_the_farthest_values_keep_their_ranks():
    step = np.finfo(np.float32).tiny
    training = np.array([[0.0], [step], [1.0], [3e38], [-3e38]], np.float32)
    got = through(fitted(training, rank_transform="all"), training)
    np.testing.assert_allclose(got[:, 0], [0.3, 0.5, 0.7, 0.9, 0.1], atol=1e-6)


def test_only_features_that_are_not_gaussian_are_ranked():
    training = published(3000)
    training[:, 5] = np.random.default_rng(0).standard_normal(3000)
    training[:, 6] = 0.1
    expected = (np.abs(skew(np.delete(training, 6, axis=1), axis=0)) > 1) | (
        kurtosis(np.delete(training, 6, axis=1), axis=0) > 1
    )
    ranked = is_non_gaussian(training)
    np.testing.assert_array_equal(np.delete(ranked, 6), expected)
    assert 10 < ranked.sum() < 83
    assert not ranked[[5, 6]].any()
    got, every = (through(fitted(training, rank_transform=which), training) for which in ("non-gaussian", "all"))
    np.testing.assert_array_equal(got, np.where(ranked, every, training))
    np.testing.assert_array_equal(every[:, 6], 0.5)


# ---------------------------------------------------------------------------------------------------------- selection


def test_the_most_important_are_kept_in_their_order():
    training = published()
    importance = np.random.default_rng(1).permutation(N_FEATURES).astype(float)
    steps = fitted(training, importance=importance, selected_features=7)
    expected = [k for k in range(N_FEATURES) if importance[k] >= N_FEATURES - 7]
    np.testing.assert_array_equal(through(steps, training), training[:, expected])
    assert steps.names(FEATURE_NAMES) == tuple(FEATURE_NAMES[k] for k in expected)
    assert fitted(training, importance=np.zeros(N_FEATURES), selected_features=3).names("abcdef") == ("a", "b", "c")


# --------------------------------------------------------------------------------------------------------- components


def test_components_are_scikit_learns():
    training, served = published(), published(30, seed=1)
    training[:, 8] = served[:, 8] = 7.0  # has no spread
    median, spread = robust_scaling(training)

    def scaled(features):
        return ((features - median) / np.where(spread > 0, spread, 1)).clip(-CLIP, CLIP)

    theirs = PCA(n_components=10, svd_solver="full").fit(scaled(training))
    steps = fitted(training, principal_components=10)
    for features in (training, served):  # fitted on training, not on what it is given
        got = through(steps, features) - through(steps, training).mean(axis=0)
        expected = theirs.transform(scaled(features))
        signs = np.sign((got * expected).sum(axis=0))
        scale = expected.std(axis=0)
        np.testing.assert_allclose(got * signs / scale, expected / scale, atol=2e-4)
    assert steps.names(FEATURE_NAMES) == tuple(f"component_{k}" for k in range(1, 11))
    components = steps[0].components.numpy()
    assert (np.take_along_axis(components, np.abs(components).argmax(axis=0)[None], 0) > 0).all()


# ----------------------------------------------------------------------------------------------------------- together


def test_steps_follow_one_another_and_each_is_fitted_to_what_reaches_it():
    training, served = published(), published(30, seed=1)
    importance = np.random.default_rng(1).standard_normal(N_FEATURES)
    together = Preprocessing(N_FEATURES, EVERYTHING, limit=CLIP)
    told, told_served = together.fit(training, importance), through(together, served)
    assert together.keys() == ["imputation", "ranks", "selection", "components"]
    for switch in ("median_imputation", "rank_transform", "selected_features", "principal_components"):
        alone = fitted(training, importance=importance, **{switch: getattr(EVERYTHING, switch)})
        training, served = through(alone, training), through(alone, served)
    np.testing.assert_allclose(told, training, atol=1e-6)
    np.testing.assert_allclose(told_served, served, atol=1e-6)
    assert together.n_outputs == told.shape[1] == 20


def test_fitting_in_pieces_is_fitting_at_once(monkeypatch):
    training, importance = published(), np.arange(N_FEATURES)
    whole = Preprocessing(N_FEATURES, EVERYTHING, limit=CLIP).fit(training, importance)
    monkeypatch.setattr("sigmahat_trainer.model.preprocessing._ROWS", 37)
    pieces = Preprocessing(N_FEATURES, EVERYTHING, limit=CLIP).fit(training, importance)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


@pytest.mark.parametrize(
    ("switches", "n_features", "message"),
    [
        ({"median_imputation": "on"}, 60, "known of the 92 published ones, got 60"),
        ({"selected_features": 61}, 60, "selected_features must be at most the 60 features there are, got 61"),
        ({"principal_components": 61}, 60, "principal_components must be at most the 60 features there are, got 61"),
        ({"selected_features": 5, "principal_components": 6}, 60, "at most the 5 features there are, got 6"),
    ],
)
def test_what_cannot_be_is_refused(switches, n_features, message):
    with pytest.raises(ValueError, match=message):
        MemberNetwork(n_features, preprocessing=PreprocessingConfig(**switches))


def test_selection_needs_importance():
    with pytest.raises(ValueError, match="selected_features needs the importance of each feature, got none"):
        fitted(published(), selected_features=5)


# -------------------------------------------------------------------------------------------------------- the network


def test_without_a_switch_the_network_is_what_it_was():
    """The same keys and the same starting weights: members of before are read, and answer the same bits."""
    assert all(field.default in ("off", 0) for field in fields(PreprocessingConfig))
    torch.manual_seed(0)
    network = MemberNetwork(N_FEATURES)
    assert not list(network.preprocessing.children())
    assert not [name for name in network.state_dict() if "preprocessing" in name]
    features = torch.from_numpy(published())
    assert network.preprocessing(features) is features


def test_a_network_scales_what_preprocessing_makes_of_its_features():
    training = published()
    network = MemberNetwork(N_FEATURES, preprocessing=EVERYTHING)
    importance = np.arange(N_FEATURES)
    network.fit_inputs(training, importance)
    told = Preprocessing(N_FEATURES, EVERYTHING, limit=CLIP).fit(training, importance)
    median, spread = robust_scaling(told)
    np.testing.assert_allclose(network.median, median, atol=1e-6)
    with torch.no_grad():
        normalised = network.eval().normalise(torch.from_numpy(training))
    expected = (told - median) / spread / np.sqrt(1 + network.input_norm.eps)
    np.testing.assert_allclose(normalised, expected, atol=1e-4)
    assert network.input_norm.num_features == network.extraction[0].in_features == 20


def test_a_member_keeps_its_preprocessing(tmp_path):
    config = TrainConfig(network=NetworkConfig(dropout=0.2), preprocessing=EVERYTHING)
    network = MemberNetwork(N_FEATURES, config.network, EVERYTHING)
    network.fit_inputs(published(), np.random.default_rng(1).standard_normal(N_FEATURES))
    path = tmp_path / "member.safetensors"
    save_member(network, config, path, feature_names=FEATURE_NAMES)
    saved = safetensors.torch.load_file(path)
    assert {name.split(".")[1] for name in saved if name.startswith("preprocessing.")} == {
        "imputation",
        "ranks",
        "selection",
        "components",
    }
    loaded = load_member(path, feature_names=FEATURE_NAMES)
    assert loaded.config.preprocessing == EVERYTHING
    served = torch.from_numpy(published(30, seed=1))
    assert torch.equal(loaded.network(served), network.eval()(served))
    with pytest.raises(ValueError, match=r"config\.preprocessing must be the network's own"):
        save_member(network, TrainConfig(network=config.network), path, feature_names=FEATURE_NAMES)
