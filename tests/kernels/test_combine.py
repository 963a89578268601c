# SPDX-License-Identifier: Apache-2.0
"""Three members into one answer: weighted averages against loops, variances against the moments of the mixture."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sigmahat_kernels.combine import combine, published_tensors
from sigmahat_kernels.parameters import HEADS, N_PARAMETERS, split_parameters
from sigmahat_kernels.status import Status

GOOD, BAD = Status.GOOD, Status.SHORT_HISTORY


def simulate_members(n_rows, *, n_members=3, seed=1):
    rng = np.random.default_rng(seed)
    members = []
    for _ in range(n_members):
        heads = split_parameters(rng.uniform(size=(n_rows, N_PARAMETERS)))
        heads.target_weights[:] = rng.dirichlet(np.ones(3), n_rows)
        heads.regime[:] = rng.dirichlet(np.ones(4), n_rows)
        heads.volatility[:, :3] = rng.dirichlet(np.ones(3), n_rows)
        heads.log_variance[:] = rng.normal(-4.0, 1.5, (n_rows, 1))
        heads.expected_error[:] = rng.normal(0.1, 0.2, (n_rows, 1))
        members.append(np.concatenate(heads, axis=1).astype(np.float32))
    return members


def column_of(head):
    start = 0
    for name, columns in HEADS.items():
        if name == head:
            return slice(start, start + columns)
        start += columns
    raise KeyError(head)


def looped_average(members, row):
    """Each head's average over the members, weighted by one over the variance that the member claims."""
    precisions = [1 / math.exp(member[row, column_of("log_variance")][0]) for member in members]
    answer = []
    for column in range(N_PARAMETERS):
        total = sum(p * float(member[row, column]) for p, member in zip(precisions, members, strict=True))
        answer.append(total / sum(precisions))
    return answer


def test_heads_are_averages_weighted_by_precision():
    members = simulate_members(5)
    combined = combine(members, np.zeros((5, 1), np.int32))
    assert combined.parameters.dtype == np.float32
    log_variance = column_of("log_variance").start
    for row in range(5):
        expected = looped_average(members, row)
        for column in set(range(N_PARAMETERS)) - {log_variance}:
            assert combined.parameters[row, column] == pytest.approx(expected[column], rel=1e-6)


def test_equal_precision_is_the_plain_mean():
    members = simulate_members(4)
    for member in members:
        member[:, column_of("log_variance")] = -3.0
    combined = combine(members, np.zeros((4, 1), np.int32))
    np.testing.assert_allclose(combined.parameters, np.mean(members, axis=0), rtol=1e-6)
    np.testing.assert_allclose(combined.uncertainty[:, 0], math.exp(-1.5), rtol=1e-6)


def test_probabilities_still_sum_to_one():
    heads = split_parameters(combine(simulate_members(6), np.zeros((6, 1), np.int32)).parameters)
    for probabilities in (heads.target_weights, heads.regime, heads.volatility[:, :3]):
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)


def test_intensity_is_that_of_the_averaged_heads():
    members = simulate_members(5)
    combined = combine(members, np.zeros((5, 1), np.int32))
    for row in range(5):
        average = looped_average(members, row)
        alpha, pi = average[column_of("target_intensity")], average[column_of("target_weights")]
        assert combined.intensity[row] == pytest.approx(sum(a * p for a, p in zip(alpha, pi, strict=True)), rel=1e-6)


def test_uncertainties_add_up_to_the_variance_of_the_mixture():
    """Law of total variance, against moments of samples drawn from the members' mixture of normals."""
    members = simulate_members(3)
    combined = combine(members, np.zeros((3, 1), np.int32))
    rng = np.random.default_rng(4)
    for row in range(3):
        variances = np.exp([float(member[row, column_of("log_variance")][0]) for member in members])
        means = np.array([float(member[row, column_of("expected_error")][0]) for member in members])
        picked = rng.choice(3, 400_000, p=(1 / variances) / (1 / variances).sum())
        drawn = rng.normal(means[picked], np.sqrt(variances[picked]))
        aleatoric, epistemic = combined.uncertainty[row].astype(float)
        # 400,000 draws: the mean is off by 0.2 % of the spread, a variance by about 0.5 %.
        heads = split_parameters(combined.parameters)
        assert heads.expected_error[row, 0] == pytest.approx(drawn.mean(), abs=0.01 * drawn.std())
        assert aleatoric**2 + epistemic**2 == pytest.approx(drawn.var(), rel=0.02)
        assert epistemic == pytest.approx(means[picked].std(), rel=0.01)
        assert aleatoric == pytest.approx(math.sqrt(variances[picked].mean()), rel=0.01)
        assert heads.log_variance[row, 0] == pytest.approx(math.log(aleatoric**2), rel=1e-5)


def test_members_that_agree_leave_no_epistemic_uncertainty():
    (member,) = simulate_members(3, n_members=1)
    combined = combine([member] * 3, np.zeros((3, 1), np.int32))
    np.testing.assert_allclose(combined.parameters, member, rtol=1e-6)
    np.testing.assert_allclose(combined.uncertainty[:, 1], 0.0, atol=1e-8)


def test_order_of_members_is_irrelevant():
    members = simulate_members(4)
    one, other = (combine(list(order), np.zeros((4, 1), np.int32)) for order in (members, members[::-1]))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_block_without_an_answer_takes_its_universes_intensity():
    status = np.array([[GOOD, GOOD, BAD], [GOOD, BAD, GOOD], [BAD, GOOD, GOOD]], np.int32)
    members = simulate_members(9)
    combined = combine(members, status)
    own = combine(members, np.zeros((9, 1), np.int32)).intensity.reshape(3, 3)
    assert combined.block_intensity.shape == (3, 2)
    np.testing.assert_array_equal(combined.intensity, [own[0, 0], own[1, 0], np.nan])
    np.testing.assert_array_equal(
        combined.block_intensity, [[own[0, 1], own[0, 0]], [own[1, 0], own[1, 2]], [np.nan, np.nan]]
    )
    np.testing.assert_array_equal(combined.parameters[1], combine(members, np.zeros((9, 1))).parameters[3])


def test_without_blocks_there_are_no_block_intensities():
    assert combine(simulate_members(4), np.zeros((4, 1), np.int32)).block_intensity.shape == (4, 0)


@pytest.mark.parametrize("garbage", [np.nan, 0.5])
def test_bad_rows_are_nan_and_their_neighbours_are_untouched(garbage):
    """An INT8 member answers a NaN row with numbers: the status decides."""
    members, status = simulate_members(3), np.array([[GOOD], [BAD], [GOOD]], np.int32)
    alone = combine([member[[0, 2]] for member in members], status[[0, 2]])
    for member in members:
        member[1] = garbage
    combined = combine(members, status)
    for beside, without in zip(combined, alone, strict=True):
        assert beside.dtype == np.float32
        assert np.isnan(beside[1]).all()
        np.testing.assert_array_equal(beside[[0, 2]], without)


def test_published_tensors():
    combined = combine(simulate_members(4), np.array([[GOOD, GOOD], [GOOD, BAD]], np.int32))
    tensors = published_tensors(combined)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "INTENSITY": (2,),
        "TARGET_WEIGHTS": (2, 3),
        "TARGET_INTENSITY": (2, 3),
        "TARGET_CONFIDENCE": (2, 3),
        "BLOCK_INTENSITY": (2, 1),
        "MEMORY": (2, 1),
        "FACTOR_MEMORY": (2, 1),
        "VOLATILITY": (2, 4),
        "INTENSITY_TILT": (2, 12),
        "VOLATILITY_TILT": (2, 12),
        "LEVEL": (2, 2),
        "CONDITION": (2,),
        "EXPECTED_ERROR": (2,),
        "REGIME": (2, 4),
        "UNCERTAINTY": (2, 2),
    }
    published = {
        "TARGET_WEIGHTS": "target_weights",
        "TARGET_INTENSITY": "target_intensity",
        "TARGET_CONFIDENCE": "target_confidence",
        "MEMORY": "memory",
        "FACTOR_MEMORY": "factor_memory",
        "VOLATILITY": "volatility",
        "INTENSITY_TILT": "intensity_tilt",
        "VOLATILITY_TILT": "volatility_tilt",
        "LEVEL": "level",
        "CONDITION": "condition",
        "EXPECTED_ERROR": "expected_error",
        "REGIME": "regime",
    }
    for tensor, head in published.items():
        expected = combined.parameters[:, column_of(head)]
        np.testing.assert_array_equal(tensors[tensor].reshape(expected.shape), expected)
    np.testing.assert_array_equal(tensors["INTENSITY"], combined.intensity)
    np.testing.assert_array_equal(tensors["UNCERTAINTY"], combined.uncertainty)
    np.testing.assert_array_equal(tensors["BLOCK_INTENSITY"], combined.block_intensity)
