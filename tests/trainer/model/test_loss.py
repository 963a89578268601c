# SPDX-License-Identifier: Apache-2.0
"""The losses against the kernels they imitate, the textbook portfolio, finite differences and their own minima."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from reference import covariance as reference

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.parameters import HEADS, N_PARAMETERS, Parameters, split_parameters
from sigmahat_kernels.request import read_request
from sigmahat_trainer.data.dataset import estimate_inputs
from sigmahat_trainer.model import loss
from sigmahat_trainer.model.estimate import Estimate, EstimateInputs, estimate, shrink_correlation
from sigmahat_trainer.model.loss import (
    DECISION_HEADS,
    PORTFOLIOS,
    HoldingPeriod,
    log10_condition,
    member_losses,
    minimum_variance,
    qlike,
    random_portfolios,
)
from sigmahat_trainer.model.network import activate

N_OBS, HORIZON = 90, 21
SHAPES = [(6, 5), (3, 12)]  # (universes, assets)


def make_returns(n_obs, n_assets, *, seed):
    """Daily returns with one common factor, volatilities from 0.5 % to 5 %, fat tails and a few missing cells."""
    rng = np.random.default_rng(seed)
    factor = 0.01 * rng.standard_t(5, (n_obs, 1)) * rng.uniform(0.3, 1.5, n_assets)
    returns = factor + np.geomspace(0.005, 0.05, n_assets) * rng.standard_t(5, (n_obs, n_assets))
    returns[rng.random(returns.shape) < 0.02] = np.nan
    return returns.astype(np.float32)


class Batch(NamedTuple):
    inputs: EstimateInputs
    after: HoldingPeriod


def in_double(batch):
    return Batch(
        EstimateInputs(*(field.double() for field in batch.inputs)),
        batch.after._replace(forward=batch.after.forward.double()),
    )


def row_of(batch, k):
    return Batch(*(type(part)(*(field[k : k + 1] for field in part)) for part in batch))


def make_batch(n_universes, n_assets, *, seed=0, dtype=torch.float64, scale=1.0):
    """A batch, and the windows that it was measured on."""
    pasts, inputs, forwards = [], [], []
    for k in range(n_universes):
        returns = scale * make_returns(N_OBS + HORIZON, n_assets, seed=1000 * seed + k)
        pasts.append(returns[:N_OBS])
        inputs.append(estimate_inputs(pasts[-1]))
        forwards.append(np.nan_to_num(returns[N_OBS:]))

    def stack(arrays):
        return torch.from_numpy(np.stack(arrays)).to(dtype)

    regime = torch.from_numpy(np.random.default_rng(seed).integers(4, size=n_universes))
    read = EstimateInputs(*map(stack, zip(*inputs, strict=True)))
    return Batch(read, HoldingPeriod(stack(forwards), regime, torch.arange(n_universes))), pasts


def random_logits(n, *, seed=0, dtype=torch.float32):
    return torch.randn(n, N_PARAMETERS, generator=torch.Generator().manual_seed(seed)).to(dtype)


def numpy_heads(parameters):
    return split_parameters(parameters.detach().double().numpy())


def plain(correlation, log_volatility):
    """An estimate with nothing but these."""
    zero = log_volatility.new_zeros(len(log_volatility))
    return Estimate(correlation, log_volatility, zero, zero)


def covariance_of(estimate):
    volatility = estimate.log_volatility.exp()
    matrix = estimate.correlation * volatility[:, :, None] * volatility[:, None, :]
    matrix = matrix + estimate.common_variance[:, None, None]
    return (matrix * torch.exp(2.0 * estimate.log_factor)[:, None, None]).detach().numpy()


def losses_of(logits, batch, *, target=0, qlike_weight=0.1, auxiliary_weight=0.1, residual_weight=0.01, constants=None):
    constants = torch.zeros(N_PARAMETERS) if constants is None else constants
    return member_losses(
        activate(logits),
        logits,
        constants,
        *batch,
        target=target,
        qlike_weight=qlike_weight,
        auxiliary_weight=auxiliary_weight,
        residual_weight=residual_weight,
    )


# ------------------------------------------------------------------------------------- the estimate that is learned


@pytest.mark.parametrize("shape", SHAPES)
def test_estimate_is_the_matrix_that_is_served(shape):
    """In float32, as it is trained, against `assemble` on the returns themselves."""
    n_universes, n_assets = shape
    batch, pasts = make_batch(*shape, dtype=torch.float32)
    parameters = activate(random_logits(n_universes))
    covariance = covariance_of(estimate(batch.inputs, split_parameters(parameters)))
    for k, past in enumerate(pasts):
        request = read_request(past, np.arange(n_assets, dtype=np.int32)[None])
        served = assemble(request, numpy_heads(parameters[k : k + 1]), np.zeros(1, int))[0]
        np.testing.assert_allclose(covariance[k] / np.abs(served).max(), served / np.abs(served).max(), atol=3e-6)


def test_estimate_equals_loops():
    batch, pasts = make_batch(3, 5)
    heads = split_parameters(activate(random_logits(3, seed=2, dtype=torch.float64)))
    covariance = covariance_of(estimate(batch.inputs, heads))
    for k, past in enumerate(pasts):
        expected = reference.estimate(
            past,
            target_weights=heads.target_weights[k].tolist(),
            target_intensity=heads.target_intensity[k].tolist(),
            memory=heads.memory[k].item(),
            factor_memory=heads.factor_memory[k].item(),
            volatility=heads.volatility[k].tolist(),
            intensity_tilt=heads.intensity_tilt[k].tolist(),
            volatility_tilt=heads.volatility_tilt[k].tolist(),
            level=heads.level[k].tolist(),
        )
        np.testing.assert_allclose(covariance[k] / np.abs(expected).max(), expected / np.abs(expected).max(), atol=1e-7)


def test_corners_of_the_parameters():
    """Nothing shrunk is the slow or the fast correlation; everything shrunk is the target alone."""
    batch, _ = make_batch(4, 6)
    heads = Parameters(*(torch.zeros_like(head) for head in split_parameters(torch.zeros(4, N_PARAMETERS).double())))
    fast = heads._replace(memory=torch.ones(4, 1).double())
    near = {"rtol": 0.0, "atol": 2e-5}  # the loss keeps intensities 1e-5 away from 0 and 1
    torch.testing.assert_close(shrink_correlation(batch.inputs, heads), batch.inputs.slow, **near)
    torch.testing.assert_close(shrink_correlation(batch.inputs, fast), batch.inputs.fast, **near)

    def toward(target):
        weights = torch.eye(3).double()[target].expand(4, 3)
        return shrink_correlation(batch.inputs, fast._replace(target_weights=weights, target_intensity=weights))

    torch.testing.assert_close(toward(0), torch.eye(6).double().expand(4, 6, 6), **near)
    off_diagonal = toward(1)[:, ~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, off_diagonal[:, :1].expand(-1, 30), **near)


# ------------------------------------------------------------------------------------- the portfolio and its gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_minimum_variance_equals_an_explicit_inverse_and_loops(shape, monkeypatch):
    monkeypatch.setattr(loss, "_RIDGE", 0.0)
    batch, _ = make_batch(*shape)
    whole = estimate(batch.inputs, split_parameters(activate(random_logits(shape[0]).double())))
    portfolio = minimum_variance(whole, batch.after.forward)
    covariances = covariance_of(whole)
    for k, covariance in enumerate(covariances):
        n_assets = len(covariance)
        inverse = np.linalg.inv(covariance)
        total = sum(inverse[i, j] for i in range(n_assets) for j in range(n_assets))
        weights = [sum(inverse[i, j] for j in range(n_assets)) / total for i in range(n_assets)]
        squares = 0.0
        for day in batch.after.forward[k].numpy():
            squares += sum(weights[i] * day[i] for i in range(n_assets)) ** 2
        forecast = sum(weights[i] * covariance[i, j] * weights[j] for i in range(n_assets) for j in range(n_assets))
        assert portfolio.log_realised[k].item() == pytest.approx(math.log(squares / HORIZON), abs=1e-9)
        assert portfolio.log_forecast[k].item() == pytest.approx(math.log(forecast), abs=1e-9)


def test_forecast_is_that_of_the_served_matrix():
    """In float32 and with the ridge, which is too small to matter for an estimate that was shrunk."""
    batch, pasts = make_batch(3, 12, dtype=torch.float32)
    parameters = activate(random_logits(3))
    portfolio = minimum_variance(estimate(batch.inputs, split_parameters(parameters)), batch.after.forward)
    for k, past in enumerate(pasts):
        request = read_request(past, np.arange(12, dtype=np.int32)[None])
        served = assemble(request, numpy_heads(parameters[k : k + 1]), np.zeros(1, int))[0].astype(float)
        solution = np.linalg.solve(served, np.ones(12))
        weights = solution / solution.sum()
        assert portfolio.log_forecast[k].item() == pytest.approx(math.log(weights @ served @ weights), abs=2e-4)
        realised = ((batch.after.forward[k].double().numpy() @ weights) ** 2).mean()
        assert portfolio.log_realised[k].item() == pytest.approx(math.log(realised), abs=2e-4)


def test_a_singular_estimate_costs_and_does_not_stop_the_run():
    rng = np.random.default_rng(4)
    returns = 0.01 * rng.standard_normal((80, 20))  # twenty rows for twenty assets, then the holding period
    correlation = torch.from_numpy(np.corrcoef(returns[:20].T))[None]
    assert np.linalg.matrix_rank(correlation[0].numpy()) == 19
    log_volatility = torch.full((1, 20), math.log(0.01)).double()
    forward = torch.from_numpy(returns[20:])[None]
    singular = minimum_variance(plain(correlation.float(), log_volatility.float()), forward.float())
    shrunk = minimum_variance(plain(0.5 * correlation + 0.5 * torch.eye(20), log_volatility), forward)
    assert torch.isfinite(singular.log_realised).all()
    assert singular.log_realised > shrunk.log_realised + 1.0
    assert singular.log_forecast < shrunk.log_forecast - 3.0  # it thinks that there is no risk


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_intensities_that_are_one_in_float32_teach_as_in_float64(size):
    """Of one value that is not a number no weight of the network would be left."""
    gradients = []
    for dtype in (torch.float64, torch.float32):
        batch, _ = make_batch(3, 6, dtype=dtype)
        heads = split_parameters(activate(random_logits(3)).to(dtype))
        tilt = torch.full_like(heads.intensity_tilt, size).requires_grad_()
        found = minimum_variance(estimate(batch.inputs, heads._replace(intensity_tilt=tilt)), batch.after.forward)
        gradients.append(*torch.autograd.grad(found.log_realised.sum(), tilt))
    exact, rounded = gradients
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-3, atol=1e-3 * exact.abs().max().item())


def test_solve_passes_gradcheck():
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    right = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)

    def solve(root, right):  # symmetric by construction, also when one entry of the root is moved
        return loss._SolveSpd.apply(root @ root.transpose(1, 2) + 0.5 * torch.eye(4, dtype=torch.float64), right)

    matrix = (root @ root.transpose(1, 2)).detach() + (0.5 + loss._RIDGE) * torch.eye(4, dtype=torch.float64)
    expected = np.linalg.solve(matrix.numpy(), right.detach().numpy()[..., None])[..., 0]
    np.testing.assert_allclose(solve(root, right).detach().numpy(), expected, rtol=1e-10)
    assert torch.autograd.gradcheck(solve, (root, right))


def test_decision_gradient_equals_finite_differences():
    """Through activations, shrinkage, blend and portfolio, in every logit that decides the estimate."""
    batch, _ = make_batch(2, 5)
    logits = random_logits(2, seed=5, dtype=torch.float64).requires_grad_()

    def decision(logits):
        portfolio = minimum_variance(estimate(batch.inputs, split_parameters(activate(logits))), batch.after.forward)
        return portfolio.log_realised.mean()

    assert torch.autograd.gradcheck(decision, (logits,))


# ------------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_scale_of_returns_shifts_the_decision_loss_alone(factor):
    logits = random_logits(6, seed=3)
    here = losses_of(logits, make_batch(6, 5, dtype=torch.float32)[0], target=1)
    there = losses_of(logits, make_batch(6, 5, dtype=torch.float32, scale=factor)[0], target=1)
    for name in ("decision", "alone"):
        shift = getattr(there, name) - getattr(here, name)
        assert shift.item() == pytest.approx(math.log(factor**2), abs=1e-4)
    for name in ("confidence", "condition", "expected_error", "regime", "residual"):
        assert getattr(there, name).item() == pytest.approx(getattr(here, name).item(), abs=1e-4)


def test_order_of_assets_is_irrelevant():
    batch, _ = make_batch(4, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    inputs = batch.inputs
    turned = Batch(
        EstimateInputs(
            slow=inputs.slow[:, order][:, :, order],
            fast=inputs.fast[:, order][:, :, order],
            loadings=inputs.loadings[:, order],
            log_volatility=inputs.log_volatility[:, :, order],
            asset_statistics=inputs.asset_statistics[:, order],
        ),
        batch.after._replace(forward=batch.after.forward[:, :, order]),
    )
    heads = split_parameters(activate(random_logits(4).double()))
    for here, there in zip(
        minimum_variance(estimate(batch.inputs, heads), batch.after.forward)._replace(weights=torch.zeros(0)),
        minimum_variance(estimate(turned.inputs, heads), turned.after.forward)._replace(weights=torch.zeros(0)),
        strict=True,
    ):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


def test_total_is_the_weighted_sum_of_its_parts():
    losses = losses_of(
        random_logits(6),
        make_batch(6, 5, dtype=torch.float32)[0],
        qlike_weight=0.2,
        auxiliary_weight=0.3,
        residual_weight=0.7,
    )
    auxiliary = losses.alone + losses.confidence + losses.condition + losses.expected_error + losses.regime
    expected = losses.decision + 0.2 * losses.qlike + 0.3 * auxiliary + 0.7 * losses.residual
    assert losses.total.item() == pytest.approx(expected.item())
    assert losses.residual > 0


# ---------------------------------------------------------------------------------------------------- auxiliary heads


def gradient_of(name, logits, batch, **settings):
    logits = logits.clone().requires_grad_()
    getattr(losses_of(logits, batch, **settings), name).backward()
    return split_parameters(logits.grad)


@pytest.mark.parametrize("target", range(3))
def test_alone_teaches_the_intensity_of_its_own_head_and_nothing_else(target):
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    gradient = gradient_of("alone", random_logits(6), batch, target=target)
    for name, values in gradient._asdict().items():
        if name == "target_intensity":
            assert (values[:, target] != 0).all()
            values = values[:, [k for k in range(3) if k != target]]
        assert (values == 0).all(), name


@pytest.mark.parametrize("target", range(3))
def test_alone_is_the_loss_of_an_estimate_with_that_target_only(target):
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    logits = random_logits(6, seed=7)
    parameters = activate(logits)
    heads = split_parameters(parameters.double())
    wide = in_double(batch)
    alone = estimate(wide.inputs, heads._replace(target_weights=torch.eye(3).double()[target].expand(6, 3)))
    expected = minimum_variance(alone, wide.after.forward).log_realised.mean()
    assert losses_of(logits, batch, target=target).alone.item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("confidence", "target_confidence"),
        ("condition", "condition"),
        ("expected_error", "expected_error"),
        ("regime", "regime"),
    ],
)
def test_auxiliary_losses_do_not_move_the_estimate(name, head):
    batch, _ = make_batch(loss.CONDITION_ROWS, 5, dtype=torch.float32)
    gradient = gradient_of(name, random_logits(loss.CONDITION_ROWS), batch)
    moved = {field for field, values in gradient._asdict().items() if (values != 0).any()}
    assert moved == ({head, "log_variance"} if name == "expected_error" else {head})


def test_decision_moves_the_estimate_and_no_auxiliary_head():
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    gradient = gradient_of("decision", random_logits(6), batch)
    moved = {field for field, values in gradient._asdict().items() if (values != 0).any()}
    assert moved == {*DECISION_HEADS} - {"level"}


def test_random_portfolios_move_the_level_and_nothing_else():
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    gradient = gradient_of("qlike", random_logits(6), batch)
    moved = {field for field, values in gradient._asdict().items() if (values != 0).any()}
    assert moved == {"level"}
    assert (gradient.level != 0).all()


def test_qlike_equals_loops():
    batch, _ = make_batch(3, 5)
    whole = estimate(batch.inputs, split_parameters(activate(random_logits(3, seed=4).double())))
    weights = random_portfolios(3, 5).double()
    scores = qlike(whole, batch.after.forward, weights)
    assert scores.shape == (3, 2 * PORTFOLIOS)
    for k, covariance in enumerate(covariance_of(whole)):
        for p, held in enumerate(weights[k].numpy()):
            forecast = sum(held[i] * covariance[i, j] * held[j] for i in range(5) for j in range(5))
            daily = [sum(held[i] * day[i] for i in range(5)) for day in batch.after.forward[k].numpy()]
            realised = sum(value**2 for value in daily) / HORIZON
            assert realised / forecast < loss.LARGEST_RATIO
            assert scores[k, p].item() == pytest.approx(math.log(forecast) + realised / forecast, rel=1e-9)


def test_a_crash_counts_up_to_a_limit():
    batch, _ = make_batch(2, 5)
    whole = estimate(batch.inputs, split_parameters(activate(random_logits(2, seed=4).double())))
    weights = random_portfolios(2, 5).double()
    crash, worse = (qlike(whole, batch.after.forward * factor, weights) for factor in (1e3, 1e6))
    torch.testing.assert_close(crash, worse)
    forecast = np.einsum("bpi,bij,bpj->bp", weights.numpy(), covariance_of(whole), weights.numpy())
    np.testing.assert_allclose(crash.detach().numpy(), np.log(forecast) + loss.LARGEST_RATIO, rtol=1e-9)


def test_qlike_is_least_at_the_realised_level():
    """The best factor makes realised over forecast variance one on average: the bias statistic."""
    batch, _ = make_batch(8, 5)
    whole = estimate(batch.inputs, split_parameters(activate(random_logits(8, seed=4).double())))
    weights = random_portfolios(8, 5).double()
    log_factor = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_factor], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        score = qlike(whole._replace(log_factor=log_factor.expand(8)), batch.after.forward, weights).mean()
        score.backward()
        return score

    optimiser.step(closure)
    covariances = np.exp(2 * log_factor.item()) * covariance_of(whole._replace(log_factor=torch.zeros(8)))
    forecast = np.einsum("bpi,bij,bpj->bp", weights.numpy(), covariances, weights.numpy())
    realised = (np.einsum("bhi,bpi->bph", batch.after.forward.numpy(), weights.numpy()) ** 2).mean(axis=2)
    assert (realised / forecast).max() < loss.LARGEST_RATIO
    assert (realised / forecast).mean() == pytest.approx(1.0, abs=1e-4)


def test_random_portfolios_are_long_only_then_long_short():
    torch.manual_seed(0)
    weights = random_portfolios(50, 40)
    long_only, long_short = weights.split(PORTFOLIOS, dim=1)
    assert (long_only >= 0).all()
    torch.testing.assert_close(long_only.sum(dim=2), torch.ones(50, PORTFOLIOS))
    assert abs((long_short > 0).float().mean().item() - 0.5) < 0.02
    assert (long_short**2).sum(dim=2).mean().item() == pytest.approx(1.0, abs=0.05)


def with_head(logits, name, values):
    """Logits with one head replaced, by what it shall be before its activation."""
    start = 0
    for head, width in HEADS.items():
        if head == name:
            logits = logits.clone()
            logits[:, start : start + width] = values
            return logits
        start += width
    raise KeyError(name)


def error_of(logits, batch):
    """ln(realised / forecast volatility) of each universe's portfolio, in float64."""
    wide = in_double(batch)
    portfolio = minimum_variance(estimate(wide.inputs, split_parameters(activate(logits.double()))), wide.after.forward)
    realised, forecast = portfolio.log_realised.exp().sqrt(), portfolio.log_forecast.exp().sqrt()
    return (realised / forecast).log()


def test_expected_error_is_a_gaussian_likelihood_of_realised_over_forecast_volatility():
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    logits = random_logits(6, seed=9)
    heads = split_parameters(activate(logits).double())
    normal = torch.distributions.Normal(heads.expected_error[:, 0], (0.5 * heads.log_variance[:, 0]).exp())
    expected = -normal.log_prob(error_of(logits, batch)).mean() - 0.5 * math.log(2 * math.pi)
    assert losses_of(logits, batch).expected_error.item() == pytest.approx(expected.item(), abs=1e-4)


def test_expected_error_leaves_simulated_windows_out():
    """They count as zero in a mean over all rows, and teach neither the mean nor the variance of the error."""
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    simulated = torch.tensor([False, True, False, True, True, False])
    logits = random_logits(6, seed=9).requires_grad_()
    mixed = batch._replace(after=batch.after._replace(period=torch.where(simulated, -1, 500)))
    value = losses_of(logits, mixed).expected_error
    heads = split_parameters(activate(logits).double())
    normal = torch.distributions.Normal(heads.expected_error[:, 0], (0.5 * heads.log_variance[:, 0]).exp())
    each = -normal.log_prob(error_of(logits, batch)) - 0.5 * math.log(2 * math.pi)
    assert value.item() == pytest.approx(each[~simulated].sum().item() / 6, abs=1e-4)
    value.backward()
    taught = logits.grad.abs().sum(dim=1) > 0
    assert taught.tolist() == (~simulated).tolist()


def test_expected_error_is_least_at_the_true_mean_and_variance():
    one, _ = make_batch(40, 5, dtype=torch.float32)
    logits = random_logits(1, seed=9).expand(40, -1)
    error = error_of(logits, one)
    limit = 8.0  # log_variance = limit tanh(logit / limit)

    def nll(mean, variance):
        at = with_head(logits, "expected_error", mean)
        at = with_head(at, "log_variance", limit * math.atanh(math.log(variance) / limit))
        return losses_of(at, one).expected_error.item()

    mean, variance = error.mean().item(), error.var(correction=0).item()
    best = nll(mean, variance)
    assert best == pytest.approx(0.5 * math.log(variance) + 0.5, abs=1e-3)
    for other in (nll(mean + 0.1, variance), nll(mean - 0.1, variance), nll(mean, variance * 1.5)):
        assert other > best + 1e-3
    assert nll(mean, variance / 1.5) > best + 1e-3


def test_condition_is_least_at_the_measured_condition_number():
    n = loss.CONDITION_ROWS
    batch, _ = make_batch(n + 3, 5, dtype=torch.float32)
    logits = random_logits(n + 3)
    wide = in_double(batch)
    covariance = covariance_of(estimate(wide.inputs, split_parameters(activate(logits.double()))))
    measured = torch.tensor([np.log10(np.linalg.cond(matrix)) for matrix in covariance]).float()
    inverse_softplus = measured + torch.log(-torch.expm1(-measured))
    right = with_head(logits, "condition", inverse_softplus[:, None])
    assert losses_of(right, batch).condition.item() == pytest.approx(0.0, abs=1e-6)
    off = right.clone()
    off[n:] += 5.0  # rows beyond those that are measured
    assert losses_of(off, batch).condition.item() == pytest.approx(0.0, abs=1e-6)
    answered = split_parameters(activate(logits)).condition[:n, 0]
    expected = ((answered - measured[:n]) ** 2).mean().item()
    assert losses_of(logits, batch).condition.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log10_condition_equals_numpy(dtype):
    batch, _ = make_batch(5, 8)
    whole = plain(batch.inputs.slow, batch.inputs.log_volatility[:, 0])._replace(
        common_variance=torch.full((5,), 1e-4).double()
    )
    expected = [np.log10(np.linalg.cond(matrix)) for matrix in covariance_of(whole)]
    assert min(expected) > 1.5  # volatilities differ tenfold
    measured = log10_condition(Estimate(*(values.to(dtype) for values in whole)))
    np.testing.assert_allclose(measured.numpy(), expected, atol=1e-5 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("target", range(3))
def test_confidence_is_the_cross_entropy_of_the_target_doing_as_well_alone(target):
    batch, _ = make_batch(12, 5, dtype=torch.float32)
    logits = random_logits(12, seed=11)
    wide = in_double(batch)
    heads = split_parameters(activate(logits.double()))
    together = minimum_variance(estimate(wide.inputs, heads), wide.after.forward).log_realised
    only = heads._replace(target_weights=torch.eye(3).double()[target].expand(12, 3))
    alone = minimum_variance(estimate(wide.inputs, only), wide.after.forward).log_realised
    as_good = alone <= together
    assert 0 < as_good.sum() < 12
    confidence = heads.target_confidence[:, target]
    expected = -torch.where(as_good, confidence, 1 - confidence).log().mean().item()
    assert losses_of(logits, batch, target=target).confidence.item() == pytest.approx(expected, abs=1e-5)
    true_answer = torch.full((12, 3), -8.0)
    true_answer[:, target] = torch.where(as_good, 8.0, -8.0)
    right = with_head(logits, "target_confidence", true_answer)
    assert losses_of(right, batch, target=target).confidence.item() < 1e-3


def test_regime_is_the_cross_entropy_of_its_label():
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    logits = random_logits(6, seed=13)
    probability = split_parameters(activate(logits)).regime
    expected = -sum(math.log(probability[k, label].item()) for k, label in enumerate(batch.after.regime)) / 6
    assert losses_of(logits, batch).regime.item() == pytest.approx(expected, abs=1e-5)
    right = with_head(logits, "regime", 20.0 * torch.nn.functional.one_hot(batch.after.regime, 4))
    assert losses_of(right, batch).regime.item() == pytest.approx(0.0, abs=1e-5)


def test_residual_is_zero_at_the_constants_and_pulls_only_heads_that_decide():
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    constants = random_logits(1, seed=15)[0]
    logits = constants.expand(6, -1)
    assert losses_of(logits, batch, constants=constants).residual.item() == 0.0
    for name, own in split_parameters(constants)._asdict().items():
        moved = with_head(logits, name, own + 2.0)
        residual = losses_of(moved, batch, constants=constants).residual.item()
        n_decide = sum(HEADS[head] for head in DECISION_HEADS)
        expected = 4 * HEADS[name] / n_decide if name in DECISION_HEADS else 0.0
        assert residual == pytest.approx(expected, abs=1e-5), name


def test_one_good_universe_does_not_hide_what_another_costs():
    """The loss of a batch is the mean of its universes' losses."""
    batch, _ = make_batch(6, 5, dtype=torch.float32)
    logits = random_logits(6)
    together = losses_of(logits, batch, target=2)
    single = [losses_of(logits[k : k + 1], row_of(batch, k), target=2) for k in range(6)]
    for name in ("decision", "alone", "confidence", "expected_error", "regime", "residual"):
        mean = np.mean([getattr(each, name).item() for each in single])
        assert getattr(together, name).item() == pytest.approx(mean, abs=1e-5), name
