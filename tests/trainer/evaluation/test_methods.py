# SPDX-License-Identifier: Apache-2.0
"""Every method by one loop: each that there is material for answers with covariances, the rest are left out."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from trainer.some_constants import CONSTANTS

from sigmahat_kernels.released import released_repository
from sigmahat_kernels.request import read_request
from sigmahat_trainer.baselines.average_oracle import save_oracles
from sigmahat_trainer.baselines.closed_form import BASELINES
from sigmahat_trainer.baselines.ridge import STATISTICS, Ridge
from sigmahat_trainer.baselines.rienet import build_rienet, save_rienet
from sigmahat_trainer.evaluation.methods import (
    CONTESTANTS,
    ESTIMATORS,
    Place,
    Sources,
    installed_contestants,
    load_methods,
)

PLACE = Place("north", 6, 60, 10)
THERE, _ = installed_contestants()
CONTEST = tuple((name, every) for name, every in THERE.items())


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    """As `sigmahat fit-baselines` writes them, fitted to nothing."""
    pytest.importorskip("rienet_torch")
    folder = tmp_path_factory.mktemp("baselines")
    constants = {"learned_constants": CONSTANTS, "tilted_constants": CONSTANTS}
    (folder / "constants.json").write_text(json.dumps({"constants": constants}))
    Ridge(np.zeros(len(STATISTICS)), 1.0).save(folder / "ridge.json")
    save_oracles({PLACE[:3]: np.linspace(0.5, 1.5, 6)}, folder / "average_oracle.npz")
    save_rienet(build_rienet(), folder / "rienet.safetensors")
    return folder


@pytest.fixture(scope="module")
def returns():
    rng = np.random.default_rng(0)
    panel = 0.01 * rng.standard_normal((60, 1)) + 0.01 * rng.standard_normal((60, 8)) * np.linspace(0.5, 2.0, 8)
    panel[3, 5] = np.nan
    return panel.astype(np.float32)


def request_of(returns):
    return read_request(returns, np.array([[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]], np.int32))


@pytest.mark.parametrize("name", [*ESTIMATORS, *THERE])
def test_answers_are_covariances_in_the_units_of_the_returns(name, baselines, returns):
    methods = load_methods(Sources(baselines=baselines, contestants=CONTEST), PLACE)
    estimate = methods.estimators[name]
    answers, scaled = estimate(request_of(returns)), estimate(request_of(2 * returns))
    assert len(answers) == 2
    for covariance, larger, columns in zip(answers, scaled, ([0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]), strict=True):
        assert covariance.shape == (6, 6)
        np.testing.assert_allclose(covariance, covariance.T, rtol=1e-5, atol=1e-5 * covariance.max())
        assert np.linalg.eigvalsh(covariance)[0] > 0
        if name != "rienet":  # whose network knows how large daily returns are
            np.testing.assert_allclose(larger / 4 / covariance.max(), covariance / covariance.max(), atol=0.01)
        # Nobody is far from the sample's level: the mean variance, within what learned volatilities may do.
        level = np.nanvar(returns[:, columns].astype(float), axis=0).mean()
        assert 0.3 * level < covariance.diagonal().mean() < 3 * level


def test_what_there_is_nothing_to_make_of_is_left_out(baselines):
    assert list(load_methods(Sources(), PLACE).estimators) == list(BASELINES)
    everywhere = list(load_methods(Sources(baselines=baselines), None).estimators)
    assert everywhere == [*BASELINES, "ridge_qis", "rienet", "learned_constants", "tilted_constants"]
    elsewhere = load_methods(Sources(baselines=baselines), PLACE._replace(n_obs=61)).estimators
    assert "average_oracle" not in elsewhere
    contest = load_methods(Sources(baselines=baselines, contestants=CONTEST), PLACE)
    assert list(contest.estimators) == [*ESTIMATORS, *THERE]
    assert contest.every == THERE
    assert list(load_methods(Sources(contestants=CONTEST), None).estimators) == list(BASELINES)


def test_contestants_whose_package_is_not_there_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    there, left_out = installed_contestants()
    assert list(there) == ["har_qis", "cm_iewma", "dcc_nl"]
    assert len(left_out) == len(CONTESTANTS) - 3
    assert "squeeze_kernel: squeeze_kernel is not installed: pip install 'sigmahat[tournament]'" in left_out


def test_ensembles_are_named_for_their_folders_whatever_they_hold(tmp_path):
    repository = released_repository()
    folders = [tmp_path / name for name in ("first", "second", "other/first")]
    for folder in folders:
        shutil.copytree(repository, folder, ignore=shutil.ignore_patterns("configs", "model_*.onnx"))
    methods = load_methods(Sources(repository, tuple(folders[:2])), None)
    assert sorted(methods.pipelines) == ["first", "second", "sigmahat"]
    assert "tilted_constants" in methods.estimators
    with pytest.raises(ValueError, match=r"other/first is the second ensemble of the name first: rename the folder"):
        load_methods(Sources(runs=tuple(folders)), None)


def test_the_bound_is_asked_for_and_is_not_of_simulated_returns(baselines):
    assert load_methods(Sources(baselines=baselines), PLACE).hindsight_start == CONSTANTS
    assert load_methods(Sources(baselines=baselines), None).hindsight_start is None
    assert load_methods(Sources(baselines=baselines, hindsight=False), PLACE).hindsight_start is None
