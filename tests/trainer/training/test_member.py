# SPDX-License-Identifier: Apache-2.0
"""The training loop: what an epoch sees, where it starts, and that it finds an optimum known beforehand."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from sigmahat_kernels.parameters import N_PARAMETERS, intensity_of, split_parameters
from sigmahat_trainer.config import NetworkConfig, TrainConfig
from sigmahat_trainer.data.dataset import Dataset, Sample, estimate_inputs
from sigmahat_trainer.model.estimate import EstimateInputs
from sigmahat_trainer.model.loss import Losses
from sigmahat_trainer.model.network import HEAD_COLUMNS, MemberNetwork, activate, constant_logits
from sigmahat_trainer.model.preprocessing import robust_scaling
from sigmahat_trainer.training import constants as constants_module
from sigmahat_trainer.training import member as module
from sigmahat_trainer.training.batches import batches, bootstrap_months, features_of, samples_in
from sigmahat_trainer.training.constants import STARTING_CONSTANTS, fit_constants
from sigmahat_trainer.training.member import learning_rate_schedule, train_member
from sigmahat_trainer.training.shared_losses import batch_losses, evaluate_losses

SMALL = NetworkConfig(
    extraction_units=(64, 64), tokens=2, attention_dimension=16, residual_units=32, head_units=(16, 16)
)
CONFIG = TrainConfig(network=SMALL, batch_size=32, epochs=1)
N_FEATURES = 4


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in training: threads inside small matrices cost more than the matrices."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stack(samples):
    return Sample(*map(np.stack, zip(*samples, strict=True)))


def sample_of(past, forward, features, *, period=0):
    measured = dict(zip(EstimateInputs._fields, estimate_inputs(past), strict=True))
    read = measured | {"features": features, "forward": forward}
    floats = {name: np.asarray(values, np.float32) for name, values in read.items()}
    return Sample(**floats, regime=np.array(period % 4), period=np.array(period))


def independent_returns(rng, n_rows, n_assets):
    return 0.01 * rng.standard_normal((n_rows, n_assets))


def structured_returns(rng, n_rows, n_assets):
    """Three strong factors of both signs and little own risk."""
    loadings = rng.standard_normal((3, n_assets))
    return 0.01 * (rng.standard_normal((n_rows, 3)) @ loadings + 0.1 * rng.standard_normal((n_rows, n_assets)))


def toy_dataset(designs, *, n_samples=320, n_assets=8, n_obs=60, horizon=30, seed=0):
    """Samples of each design in turn; the first feature tells which."""
    rng = np.random.default_rng(seed)
    samples = []
    for k in range(n_samples):
        returns = designs[k % len(designs)](rng, n_obs + horizon, n_assets)
        features = np.concatenate([[k % len(designs) - 0.5], rng.standard_normal(N_FEATURES - 1)])
        samples.append(sample_of(returns[:n_obs], returns[n_obs:], features, period=k // 4))
    return Dataset({n_assets: stack(samples)})


def month_of(k):
    """Months with gaps, of which the first is simulated and so below zero."""
    return 5 * k - 3


def numbered_dataset(sizes, *, months=7):
    """Samples whose only feature is their number; nothing else in them is used."""
    by_size, start = {}, 0
    for size, n in sizes.items():
        numbers = np.arange(start, start + n)
        start += n
        tiny = np.zeros((n, 1), np.float32)
        features, period = numbers[:, None].astype(np.float32), month_of(numbers % months)
        by_size[size] = Sample(features, *[tiny] * 6, np.zeros(n, np.int64), period.astype(np.int64))
    return Dataset(by_size)


def numbers_in(dataset):
    return Counter(int(number) for number in dataset.features()[:, 0])


# ----------------------------------------------------------------------------------------------------------- batches


def test_an_epoch_covers_every_sample_once_in_batches_of_mixed_sizes():
    dataset = numbered_dataset({5: 64, 10: 50, 20: 18, 35: 7})
    drawn = list(batches(dataset, 16, np.random.default_rng(0)))
    numbers = Counter(int(n) for batch in drawn for n in features_of(batch)[:, 0])
    assert numbers == Counter(range(64 + 50 + 18 + 7))
    owner = {int(n): size for size, each in dataset.by_size.items() for n in each.features[:, 0]}
    for batch in drawn:
        sizes = [{owner[int(n)] for n in part.features[:, 0]} for part in batch]
        assert all(len(size) == 1 for size in sizes)
        assert len(set.union(*sizes)) == len(batch)  # one part a size
    assert [samples_in(batch) for batch in drawn] == [16] * 8 + [11]


def test_batch_normalisation_sees_in_training_what_it_will_be_served():
    """A feature that only the size of the universe moves must vary inside a batch as it does over the windows."""
    dataset = numbered_dataset({5: 400, 10: 400, 100: 400})
    for size, each in dataset.by_size.items():
        each.features[:, 0] = np.log(size)
    within = [features_of(batch)[:, 0].var().item() for batch in batches(dataset, 64, np.random.default_rng(0))]
    assert np.mean(within) == pytest.approx(dataset.features()[:, 0].var(), rel=0.05)


def test_fields_of_a_batch_belong_together():
    dataset = toy_dataset([independent_returns], n_samples=40)
    (each,) = dataset.by_size.values()
    row = {features.tobytes(): k for k, features in enumerate(each.features)}
    for (part,) in batches(dataset, 16, np.random.default_rng(0)):
        rows = [row[features.numpy().tobytes()] for features in part.features]
        read = {**part.inputs._asdict(), **part.after._asdict()}
        assert set(read) == {*Sample._fields} - {"features"}
        for name, values in read.items():
            np.testing.assert_array_equal(values.numpy(), getattr(each, name)[rows])
        assert part.after.regime.dtype == torch.int64
        assert part.inputs.slow.dtype == torch.float32


def test_a_single_sample_is_no_batch():
    dataset = numbered_dataset({5: 32, 10: 1})
    drawn = list(batches(dataset, 16, np.random.default_rng(0)))
    assert [samples_in(batch) for batch in drawn] == [16, 16]


def test_batches_are_others_each_epoch():
    dataset = numbered_dataset({5: 160, 10: 160})
    rng = np.random.default_rng(0)
    first, second = ([features_of(batch)[:, 0].tolist() for batch in batches(dataset, 16, rng)] for _ in range(2))
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))  # other batches, not only another order
    again = [features_of(batch)[:, 0].tolist() for batch in batches(dataset, 16, np.random.default_rng(0))]
    assert again == first


def test_losses_of_a_batch_are_averages_over_its_windows():
    """Whatever sizes they have: equal to the losses of each part, by the number of its windows."""
    parts = [toy_dataset([independent_returns], n_samples=n, n_assets=size) for size, n in ((8, 40), (5, 20))]
    (batch,) = batches(Dataset({**parts[0].by_size, **parts[1].by_size}), 60, np.random.default_rng(0))
    constants = constant_logits(STARTING_CONSTANTS)
    logits = constants + 0.3 * torch.randn(60, len(constants), generator=torch.Generator().manual_seed(0))
    together = batch_losses(logits, constants, batch, CONFIG, np.random.default_rng(1))
    cuts = logits.split([len(part.features) for part in batch])
    each = [
        batch_losses(rows, constants, [part], CONFIG, np.random.default_rng(1))
        for part, rows in zip(batch, cuts, strict=True)
    ]
    assert [len(rows) for rows in cuts] == [20, 40]
    for name, value in together._asdict().items():
        expected = (20 * getattr(each[0], name) + 40 * getattr(each[1], name)) / 60
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- bootstrap


def taken(dataset, rows):
    return Dataset({size: Sample(*(field[rows[size]] for field in dataset.by_size[size])) for size in rows})


def test_bootstrap_keeps_each_sample_as_often_as_its_month_was_drawn():
    dataset = numbered_dataset({5: 70, 10: 33}, months=21)
    drawn = taken(dataset, bootstrap_months(dataset, np.random.default_rng(1)))
    counts = numbers_in(drawn)
    by_month = {}
    for number in range(103):
        by_month.setdefault(number % 21, set()).add(counts[number])
    assert all(len(times) == 1 for times in by_month.values())  # a month is drawn as a whole, over all sizes
    times = [values.pop() for values in by_month.values()]
    assert sum(times) == 21  # as many months as there are
    assert 0 in times
    assert max(times) > 1
    for size, each in drawn.by_size.items():
        numbers = each.features[:, 0].astype(int)
        assert set(numbers) <= (set(range(70)) if size == 5 else set(range(70, 103)))
        np.testing.assert_array_equal(each.period, month_of(numbers % 21))


def test_bootstrap_draws_all_months_equally():
    dataset = numbered_dataset({5: 60}, months=6)
    rng = np.random.default_rng(2)
    counts = Counter()
    for _ in range(500):
        counts.update(int(p) for p in taken(dataset, bootstrap_months(dataset, rng)).by_size[5].period)
    share = np.array([counts[month_of(k)] for k in range(6)]) / sum(counts.values())
    np.testing.assert_allclose(share, 1 / 6, atol=0.02)


def test_bootstrap_leaves_out_a_size_whose_months_were_not_drawn():
    dataset = numbered_dataset({5: 60, 10: 1}, months=61)
    drawn = [bootstrap_months(dataset, np.random.default_rng(seed)) for seed in range(20)]
    assert {tuple(each) for each in drawn} == {(5,), (5, 10)}
    assert all(len(rows) for each in drawn for rows in each.values())


# ----------------------------------------------------------------------------------------------------------- scaling


def test_scaling_is_median_and_interquartile_range():
    rng = np.random.default_rng(3)
    features = (rng.standard_normal((1001, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, -2.0]).astype(np.float32)
    median, spread = robust_scaling(features)
    for k in range(3):
        ordered = sorted(features[:, k])
        assert median[k] == pytest.approx(ordered[500])
        assert spread[k] == pytest.approx(ordered[750] - ordered[250])


def test_scaling_of_a_feature_that_is_mostly_one_value_is_its_deviation():
    values = np.zeros((1000, 4), np.float32)
    values[:100, 0] = 1.0  # an indicator: its quartiles are equal
    values[:100, 1] = np.linspace(-300, 300, 100)
    values[:, 2] = 7.0  # constant
    values[:, 3] = np.where(np.arange(1000) < 260, 1e-6, 0.0)  # quartiles that differ, by nothing against its tail
    values[:10, 3] = 50.0
    median, spread = robust_scaling(values)
    np.testing.assert_allclose(median, [0, 0, 7, 0])
    assert spread[0] == pytest.approx(0.3)  # sqrt(0.1 * 0.9)
    assert spread[1] == pytest.approx(values[:, 1].std())
    assert spread[2] == 0.0
    assert spread[3] == pytest.approx(0.1 * values[:, 3].std())


# ---------------------------------------------------------------------------------------------------------- schedule


def rates_of(schedule, *, epochs=4, steps=25, peak=5e-4):
    """The rate at which each step is taken."""
    config = TrainConfig(schedule=schedule, epochs=epochs, learning_rate=peak)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    course = learning_rate_schedule(optimiser, config, steps)
    rates = []
    for _ in range(epochs * steps):
        rates.append(optimiser.param_groups[0]["lr"] / peak)
        optimiser.step()
        course.step()
    return np.array(rates), optimiser.param_groups[0]["lr"] / peak


def test_cosine_falls_from_the_peak_to_zero_by_way_of_one_half():
    rates, last = rates_of("cosine")
    np.testing.assert_allclose(rates, [0.5 * (1 + np.cos(np.pi * k / 100)) for k in range(100)], atol=1e-12)
    assert rates[0] == 1.0
    assert rates[50] == pytest.approx(0.5)
    assert last == pytest.approx(0.0, abs=1e-12)


def test_steps_drop_tenfold_at_60_and_85_percent():
    rates, last = rates_of("step")
    np.testing.assert_allclose(rates, np.repeat([1.0, 0.1, 0.01], [60, 25, 15]), rtol=1e-9)
    assert last == pytest.approx(0.01)


def test_exponential_falls_by_a_hundred_in_all():
    rates, last = rates_of("exponential")
    assert rates[0] == 1.0
    np.testing.assert_allclose(rates[1:] / rates[:-1], 0.01**0.01, rtol=1e-9)
    assert last == pytest.approx(0.01)


# --------------------------------------------------------------------------------------------------------- constants


def decision_at(dataset, weights):
    """Mean ln realised variance at constant weights on identity, constant correlation and factor, by explicit solves.

    For universes whose slow and fast correlations are the same and whose volatilities are equal.
    """
    (each,) = dataset.by_size.values()
    R, forward = each.slow.astype(float), each.forward.astype(float)
    n_assets = R.shape[1]
    identity = np.eye(n_assets)
    average = R[:, ~np.eye(n_assets, dtype=bool)].mean(axis=1)
    constant = np.where(identity, 1.0, average[:, None, None])
    loading = R.sum(axis=1) / np.sqrt(R.sum(axis=(1, 2)))[:, None]
    factor = np.where(identity, 1.0, loading[:, :, None] * loading[:, None, :])
    mixed = (1 - sum(weights)) * R + weights[0] * identity + weights[1] * constant + weights[2] * factor
    solution = np.linalg.solve(mixed, np.ones((len(R), n_assets, 1)))
    portfolio = (forward @ solution)[..., 0] / solution.sum(axis=(1, 2))[:, None]
    return np.log((portfolio**2).mean(axis=1)).mean()


def weak_factor_returns(rng, n_rows, n_assets):
    """Between noise and structure, so that neither no nor full shrinkage is right."""
    loadings = rng.uniform(-0.5, 1.0, n_assets)
    return 0.01 * (rng.standard_normal((n_rows, 1)) * loadings + rng.standard_normal((n_rows, n_assets)))


def test_constants_are_the_best_point_of_a_grid():
    (each,) = toy_dataset([weak_factor_returns], n_samples=1_600, n_obs=25, seed=4).by_size.values()
    equal = np.full_like(each.log_volatility, np.log(0.01))
    dataset = Dataset({8: each._replace(fast=each.slow, log_volatility=equal)})
    config = TrainConfig(batch_size=16, auxiliary_weight=0.0, residual_weight=0.0)
    constants = fit_constants(dataset, config, fixed=("intensity_tilt", "volatility_tilt"))
    heads = split_parameters(activate(constants).double().numpy())
    assert not heads.intensity_tilt.any()
    assert not heads.volatility_tilt.any()
    fitted = decision_at(dataset, heads.target_weights * heads.target_intensity)
    steps = np.arange(0.0, 1.01, 0.1)
    grid = {w: decision_at(dataset, w) for w in itertools.product(steps, repeat=3) if sum(w) <= 1.0 + 1e-9}
    best = min(grid.values())
    start = constant_logits(STARTING_CONSTANTS)
    assert best < grid[0.0, 0.0, 0.0] - 0.1  # shrinking matters, and so does how much
    assert best < grid[1.0, 0.0, 0.0] - 0.01
    assert best < evaluate_losses(start, dataset, config)["decision"] - 0.03
    assert fitted < best + 0.01  # around the optimum two targets do about the same
    without_factors = constants.clone()
    without_factors[split_parameters(torch.arange(N_PARAMETERS)).factor_memory] = -20.0  # as the grid has it
    measured = evaluate_losses(without_factors, dataset, config)["decision"]
    assert measured == pytest.approx(fitted, abs=1e-4)  # the ridge of the solver


def test_constants_shrink_what_is_noise_and_leave_what_is_structure():
    config = TrainConfig(batch_size=16, residual_weight=0.0)
    intensity = {}
    for design in (independent_returns, structured_returns):
        constants = fit_constants(toy_dataset([design], n_samples=1_600), config)
        heads = split_parameters(activate(constants))
        intensity[design] = intensity_of(heads).item()
    start = intensity_of(split_parameters(activate(constant_logits(STARTING_CONSTANTS)))).item()
    assert intensity[independent_returns] > 0.7 > start
    assert intensity[structured_returns] < 0.2 < start


def test_constants_start_at_the_published_ones_and_report_each_epoch(monkeypatch):
    dataset = toy_dataset([independent_returns], n_samples=64)
    seen, reports = [], []
    real = batch_losses

    def spy(logits, constants, batch, config, rng):
        seen.append(logits.detach()[0].clone())
        losses = real(logits, constants, batch, config, rng)
        assert losses.residual.item() == 0.0  # nothing to be pulled to yet
        return losses

    monkeypatch.setattr(constants_module, "batch_losses", spy)
    fit_constants(dataset, CONFIG, epochs=3, progress=lambda *report: reports.append(report))
    torch.testing.assert_close(seen[0], constant_logits(STARTING_CONSTANTS))
    assert len(seen) == 3 * 2
    moves = [(after - before).abs().max().item() for before, after in itertools.pairwise(seen)]
    # One of Adam's moves is about the learning rate: 0.03, then 0.3 of it in each further epoch.
    np.testing.assert_allclose(moves, [0.03, 0.03, 0.009, 0.009, 0.0027], rtol=0.25)
    assert [report[:3] for report in reports] == [("constants", k, 3) for k in (1, 2, 3)]
    assert set(reports[0][3]) == set(Losses._fields)


# ------------------------------------------------------------------------------------------------------------ member


@pytest.fixture(scope="module")
def mixed():
    """Half noise and half structure: one answer for both is poor, and a feature tells them apart."""
    return toy_dataset([independent_returns, structured_returns], n_samples=320)


@pytest.fixture(scope="module")
def constants(mixed):
    return fit_constants(mixed, CONFIG)


def test_member_learns_what_constants_cannot(mixed, constants):
    config = TrainConfig(network=SMALL, batch_size=32, epochs=12, learning_rate=5e-3)
    trained = train_member(mixed, mixed, constants, config, member=0)
    assert not trained.network.training
    before = evaluate_losses(constants, mixed, config)["decision"]
    after = evaluate_losses(trained.network, mixed, config)["decision"]
    assert after < before - 0.03
    unseen = toy_dataset([independent_returns, structured_returns], n_samples=200, seed=50)
    assert (
        evaluate_losses(trained.network, unseen, config)["decision"]
        < evaluate_losses(constants, unseen, config)["decision"] - 0.02
    )
    # It shrinks the noise and leaves the structure.
    (each,) = unseen.by_size.values()
    with torch.no_grad():
        intensity = intensity_of(split_parameters(trained.network(torch.from_numpy(each.features)))).numpy()
    assert intensity[0::2].mean() > intensity[1::2].mean() + 0.2


def test_history_has_an_entry_an_epoch_and_ends_at_the_network(mixed, constants):
    config = TrainConfig(network=SMALL, batch_size=32, epochs=3)
    validation = toy_dataset([independent_returns], n_samples=64, seed=9)
    reports = []
    trained = train_member(
        mixed, validation, constants, config, member=1, progress=lambda *report: reports.append(report)
    )
    assert [entry["epoch"] for entry in trained.history] == [1, 2, 3]
    assert [report[:3] for report in reports] == [("member 2", k, 3) for k in (1, 2, 3)]
    names = {f"train_{name}" for name in Losses._fields}
    names |= {f"validation_{name}" for name in Losses._fields if name not in ("total", "residual")}
    assert set(trained.history[-1]) == names | {"epoch"}
    measured = evaluate_losses(trained.network, validation, config)
    assert {name: trained.history[-1][f"validation_{name}"] for name in measured} == measured
    assert trained.history[0]["validation_decision"] != trained.history[1]["validation_decision"]


def weights_of(trained):
    return torch.cat([tensor.flatten().double() for tensor in trained.network.state_dict().values()])


def test_training_is_reproducible_to_the_bit_and_members_differ(mixed, constants):
    def run(**changes):
        config = TrainConfig(**{"network": SMALL, "batch_size": 32, "epochs": 2, "seed": 5} | changes)
        return lambda member: train_member(mixed, mixed, constants, config, member=member)

    first, again = run()(0), run()(0)
    assert torch.equal(weights_of(first), weights_of(again))
    assert first.history == again.history
    other = run()(1)
    assert not torch.equal(weights_of(first), weights_of(other))
    assert torch.equal(weights_of(other), weights_of(run(seed=6)(0)))  # member k adds k to the seed
    assert not torch.equal(weights_of(first), weights_of(run(learning_rate=1e-3)(0)))


def standstill(optimiser, config, steps_per_epoch):
    """In the place of `learning_rate_schedule`: no weight moves."""
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.0)


def test_member_starts_at_the_constants(mixed, constants, monkeypatch):
    """At a learning rate of zero only the running means of BatchNorm move, and the answers stay near the constants."""
    monkeypatch.setattr(module, "learning_rate_schedule", standstill)
    trained = train_member(mixed, mixed, constants, CONFIG, member=0)
    biases = torch.zeros_like(constants)
    for name, layer in trained.network.output_layers().items():
        biases[list(HEAD_COLUMNS[name])] = layer.bias.detach()
    torch.testing.assert_close(activate(biases), activate(constants), atol=2e-4, rtol=1e-3)
    with torch.no_grad():
        logits = trained.network.forward_logits(torch.from_numpy(mixed.features()))
    near = (logits - constants).abs()
    decides = [0, 1, 2, *HEAD_COLUMNS["selection"], *HEAD_COLUMNS["memory"]]
    assert near[:, decides].mean() < 0.1
    assert logits[:, decides].std(dim=0).min() > 1e-4  # near, but with weights that tell one universe from another
    here = evaluate_losses(trained.network, mixed, CONFIG)["decision"]
    assert here == pytest.approx(evaluate_losses(constants, mixed, CONFIG)["decision"], abs=0.02)


def test_member_sees_scaled_features_and_a_bootstrap_of_the_months(mixed, constants, monkeypatch):
    seen = []
    real = module.bootstrap_months
    monkeypatch.setattr(module, "bootstrap_months", lambda *args: seen.append(real(*args)) or seen[-1])
    trained = [train_member(mixed, mixed, constants, CONFIG, member=member) for member in (0, 1)]
    counts = [np.bincount(taken(mixed, each).by_size[8].period, minlength=80) for each in seen]
    assert (counts[0] == 0).any()
    assert (counts[0] != counts[1]).any()  # each member its own months
    median, spread = robust_scaling(mixed.features())
    for each in trained:
        np.testing.assert_allclose(each.network.median, median, rtol=1e-6)
        np.testing.assert_allclose(each.network.scale, 1 / spread, rtol=1e-6)


def test_learning_rate_follows_its_schedule_to_the_end(mixed, constants, monkeypatch):
    seen = []
    real = module.learning_rate_schedule

    def spy(optimiser, config, steps_per_epoch):
        seen.append(optimiser)
        assert optimiser.param_groups[0]["weight_decay"] == 2e-4
        return real(optimiser, config, steps_per_epoch)

    monkeypatch.setattr(module, "learning_rate_schedule", spy)
    for schedule, last in (("cosine", 0.0), ("exponential", 1e-5)):
        config = TrainConfig(
            network=SMALL, batch_size=32, epochs=2, schedule=schedule, learning_rate=1e-3, weight_decay=2e-4
        )
        train_member(mixed, mixed, constants, config, member=0)
        assert seen[-1].param_groups[0]["lr"] == pytest.approx(last, rel=1e-6, abs=1e-12)


def test_gradients_are_cut(mixed, constants, monkeypatch):
    norms = []
    real = torch.nn.utils.clip_grad_norm_

    def spy(parameters, limit, **options):
        parameters = list(parameters)
        norm = real(parameters, limit, **options)
        norms.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm().item())
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    config = TrainConfig(network=SMALL, batch_size=32, epochs=1, auxiliary_weight=100.0)
    train_member(mixed, mixed, constants, config, member=0)
    assert len(norms) >= 8
    assert max(norms) == pytest.approx(module.GRADIENT_LIMIT, rel=1e-4)


def test_a_gradient_that_is_no_number_reaches_no_weight(mixed, constants, monkeypatch):
    """After one step by it nothing would be left of the network, and all that is said is said of the next batch."""

    def no_number(*arguments):
        losses = batch_losses(*arguments)
        return losses._replace(total=losses.total * float("nan"))

    monkeypatch.setattr(module, "batch_losses", no_number)
    with pytest.raises(RuntimeError, match=r"total norm .* is non-finite"):
        train_member(mixed, mixed, constants, CONFIG, member=0)


def test_gradients_of_a_batch_do_not_reach_the_next(mixed, constants, monkeypatch):
    norms = []

    def leave_huge_gradients(parameters, limit, **options):
        parameters = [p for p in parameters if p.grad is not None]
        norms.append(torch.cat([p.grad.flatten() for p in parameters]).norm().item())
        for p in parameters:
            p.grad.fill_(1e9)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", leave_huge_gradients)
    monkeypatch.setattr(module, "learning_rate_schedule", standstill)
    train_member(mixed, mixed, constants, CONFIG, member=0)
    assert len(norms) >= 8
    assert max(norms) < 1e3


def test_batch_normalisation_learns_from_every_batch(mixed, constants):
    """The network is in training mode while it trains, also after an epoch's validation."""
    config = TrainConfig(network=SMALL, batch_size=32, epochs=3)
    trained = train_member(mixed, mixed, constants, config, member=0)
    seen = bootstrap_months(mixed, np.random.default_rng([0, 1]))
    steps = sum(1 for _ in batches(mixed, 32, np.random.default_rng(0), seen))
    assert trained.network.input_norm.num_batches_tracked == 3 * steps


def test_evaluation_changes_nothing_and_averages_over_batches(mixed, constants):
    torch.manual_seed(0)
    network = MemberNetwork(N_FEATURES, SMALL)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first, again = (evaluate_losses(network, mixed, CONFIG) for _ in range(2))
    assert first == again
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    rng = np.random.default_rng(0)
    expected = []
    for batch in batches(mixed, CONFIG.batch_size, rng):
        n = samples_in(batch)
        expected += n * [batch_losses(constants.expand(n, -1), constants, batch, CONFIG, rng).decision.item()]
    assert evaluate_losses(constants, mixed, CONFIG)["decision"] == pytest.approx(np.mean(expected), abs=1e-5)
