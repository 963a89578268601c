# SPDX-License-Identifier: Apache-2.0
"""What shuffling a feature costs, against scikit-learn; and how preprocessing enters the training of a member."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.inspection import permutation_importance
from trainer.training.test_member import (  # noqa: F401  # a fixture is used by its name alone
    N_FEATURES,
    SMALL,
    independent_returns,
    one_thread,
    structured_returns,
    toy_dataset,
)

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.parameters import split_parameters
from sigmahat_trainer.config import PreprocessingConfig, TrainConfig
from sigmahat_trainer.data.dataset import Dataset
from sigmahat_trainer.model.estimate import estimate
from sigmahat_trainer.model.loss import minimum_variance
from sigmahat_trainer.model.network import constant_logits
from sigmahat_trainer.model.preprocessing import robust_scaling
from sigmahat_trainer.training import expanding, importance
from sigmahat_trainer.training import member as module
from sigmahat_trainer.training.batches import batch_part
from sigmahat_trainer.training.constants import STARTING_CONSTANTS
from sigmahat_trainer.training.importance import shuffling_costs
from sigmahat_trainer.training.member import train_member
from sigmahat_trainer.training.resume import Checkpoint

CONFIG = TrainConfig(network=SMALL, batch_size=32, epochs=2, learning_rate=5e-3)
CONSTANTS = constant_logits(STARTING_CONSTANTS)
N_SAMPLES = 128


@pytest.fixture(scope="module")
def mixed():
    """The first feature tells which of two designs a sample is of, the others nothing."""
    return toy_dataset([independent_returns, structured_returns], n_samples=320)


def with_switches(**switches):
    return replace(CONFIG, preprocessing=PreprocessingConfig(**switches))


class _Judged:
    """A network as an estimator: its score is minus the decision loss on the samples whose numbers are `y`."""

    def __init__(self, network, stack):
        self.network, self.stack = network, stack

    def fit(self, X, y):
        raise NotImplementedError

    @torch.no_grad()
    def score(self, X, y):
        part = batch_part(self.stack, y)
        parameters = split_parameters(self.network(torch.from_numpy(X)))
        return -float(minimum_variance(estimate(part.inputs, parameters), part.after.forward).log_realised.mean())


def test_costs_are_scikit_learns_permutation_importance(monkeypatch):
    dataset = toy_dataset([independent_returns, structured_returns], n_samples=N_SAMPLES, seed=3)
    network = train_member(dataset, dataset, CONSTANTS, replace(CONFIG, epochs=6), member=0).network
    monkeypatch.setattr(importance, "IMPORTANCE_SAMPLES", N_SAMPLES)
    config = replace(CONFIG, batch_size=N_SAMPLES)
    rng = np.random.default_rng(0)
    ours = np.array([shuffling_costs(network, dataset, config, rng) for _ in range(20)])
    (stack,) = dataset.by_size.values()
    theirs = permutation_importance(
        _Judged(network, stack), stack.features, np.arange(N_SAMPLES), n_repeats=20, random_state=0
    )
    error = np.sqrt(ours.var(axis=0) / 20 + theirs.importances_std**2 / 20)
    assert (np.abs(ours.mean(axis=0) - theirs.importances_mean) < 4 * error + 1e-6).all()
    assert ours.mean(axis=0)[0] > 5 * np.abs(ours.mean(axis=0)[1:]).max()


def test_only_as_many_samples_as_are_needed_are_shuffled(mixed, monkeypatch):
    network = train_member(mixed, mixed, CONSTANTS, replace(CONFIG, epochs=1), member=0).network
    asked = []
    real = importance.batch_losses
    monkeypatch.setattr(importance, "batch_losses", lambda *args: asked.append(len(args[0])) or real(*args))
    monkeypatch.setattr(importance, "IMPORTANCE_SAMPLES", 40)
    shuffling_costs(network, mixed, CONFIG, np.random.default_rng(0))
    assert asked == [32] * 2 * (1 + N_FEATURES)


def test_a_member_keeps_the_feature_that_tells(mixed):
    network = train_member(mixed, mixed, CONSTANTS, with_switches(selected_features=1), member=0).network
    assert network.preprocessing.names("abcd") == ("a",)
    np.testing.assert_allclose(network.median, robust_scaling(mixed.features()[:, :1])[0])


def test_choosing_features_leaves_the_course_of_a_member_alone(mixed):
    """One that keeps all features is the one that did not choose, to the bit."""
    chosen, plain = (
        train_member(mixed, mixed, CONSTANTS, config, member=1)
        for config in (with_switches(selected_features=N_FEATURES), CONFIG)
    )
    assert chosen.history == plain.history
    weights = chosen.network.state_dict()
    assert weights.pop("preprocessing.selection.columns").tolist() == [0, 1, 2, 3]
    expected = plain.network.state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_member_that_goes_on_does_not_choose_again(mixed, tmp_path, monkeypatch):
    config = with_switches(selected_features=2, principal_components=1)
    uninterrupted = train_member(mixed, mixed, CONSTANTS, config, member=0)

    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    checkpoint = Checkpoint(tmp_path / "member.pt", {})
    with pytest.raises(Killed):
        train_member(mixed, mixed, CONSTANTS, config, member=0, progress=kill, checkpoint=checkpoint)
    monkeypatch.setattr(module, "shuffling_costs", None)
    resumed = train_member(mixed, mixed, CONSTANTS, config, member=0, checkpoint=checkpoint)
    assert resumed.history == uninterrupted.history
    expected = uninterrupted.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.network.state_dict().items())


def test_expanding_windows_change_what_training_sees_and_nothing_else(mixed, monkeypatch):
    monkeypatch.setattr(expanding, "LEAST_VALUES", 20)
    ((size, stack),) = mixed.by_size.items()
    drift = 1 + 0.1 * stack.period[:, None]
    features = np.random.default_rng(0).standard_normal((len(drift), len(FEATURE_NAMES))) * drift
    dataset = Dataset({size: stack._replace(features=features.astype(np.float32))})
    judged = []
    real = module.evaluate_losses
    monkeypatch.setattr(module, "evaluate_losses", lambda *args: judged.append(args[1]) or real(*args))
    config = replace(with_switches(expanding_normalisation="on"), epochs=1)
    network = train_member(dataset, dataset, CONSTANTS, config, member=0).network
    restated = expanding.expanding_dataset(dataset).features()
    assert (restated != dataset.features()).mean() > 0.9
    np.testing.assert_allclose(network.median, robust_scaling(restated)[0], rtol=1e-6)
    assert judged == [dataset]  # what is served is in the last window as it comes
    assert not list(network.preprocessing.children())
