# SPDX-License-Identifier: Apache-2.0
"""The requests of a load test are the same for the same seed, and what they should be."""

from __future__ import annotations

import base64
import json

import numpy as np
import pandas as pd
import pytest

from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.loadtest.mix import Sizes, draw_mix, perf_analyzer_data
from sigmahat_deploy.loadtest.open_loop import questions

SIZES = Sizes(n_requests=40, n_obs=100, assets=(5, 30), universes=(1, 16))


@pytest.fixture(scope="module")
def returns(panel) -> pd.DataFrame:
    return pd.DataFrame(panel, index=pd.bdate_range("2020-01-01", periods=len(panel))).rename(columns=str)


def test_the_seed_decides_everything(returns) -> None:
    first = perf_analyzer_data(draw_mix(returns, SIZES, 3))
    assert first == perf_analyzer_data(draw_mix(returns, SIZES, 3))
    assert first != perf_analyzer_data(draw_mix(returns, SIZES, 4))


def test_requests_are_windows_of_the_panel(returns) -> None:
    days = returns.index.to_numpy().astype("datetime64[D]").astype(int).tolist()
    for request in draw_mix(returns, SIZES, 0):
        start = days.index(request["DATES"][0])
        np.testing.assert_array_equal(request["PANEL"], returns.to_numpy(np.float32)[start : start + 100])
        assert request["DATES"].tolist() == days[start : start + 100]
        for universe in request["UNIVERSES"]:
            assert len(set(universe.tolist())) == len(universe)
            assert np.isfinite(request["PANEL"][:, universe]).mean(axis=0).min() >= 0.9


def test_sizes_cover_their_ranges(returns) -> None:
    shapes = np.array([r["UNIVERSES"].shape for r in draw_mix(returns, SIZES._replace(n_requests=400), 0)])
    assert (shapes.min(axis=0).tolist(), shapes.max(axis=0).tolist()) == ([1, 5], [16, 30])
    assert np.median(shapes[:, 0]) < 6  # small is common


def test_any_stretch_of_requests_is_like_all(returns) -> None:
    drawn = draw_mix(returns, SIZES._replace(n_requests=128), 0)
    for measure, apart in (
        (len, 0.15),
        (np.size, 0.35),
    ):  # universes, and their assets; of independent draws 0.34, 0.44
        values = np.array([measure(request["UNIVERSES"]) for request in drawn])
        stretches = np.convolve(values, np.full(24, 1 / 24), "valid")
        np.testing.assert_allclose(stretches, values.mean(), rtol=apart)


def test_perf_analyzer_reads_the_same_bytes(returns) -> None:
    requests = draw_mix(returns, SIZES, 0)
    for step, request in zip(json.loads(perf_analyzer_data(requests))["data"], requests, strict=True):
        assert step.keys() == request.keys()
        for name, tensor in request.items():
            read = np.frombuffer(base64.b64decode(step[name]["content"]["b64"]), tensor.dtype)
            np.testing.assert_array_equal(read.reshape(step[name]["shape"]), tensor)


def test_every_model_gets_every_request(returns) -> None:
    requests = draw_mix(returns, SIZES, 0)
    asked = questions(requests, ("shrinkage", "covariance"))
    assert [question.model for question in asked[:3]] == ["shrinkage", "covariance", "shrinkage"]
    assert sum(question.n_universes for question in asked) == 2 * sum(len(r["UNIVERSES"]) for r in requests)


def test_a_panel_that_is_too_small_is_refused(returns) -> None:
    with pytest.raises(LoadTestError, match="needs 301 rows of returns, got 300"):
        draw_mix(returns, SIZES._replace(n_obs=301), 0)
    with pytest.raises(LoadTestError, match=r"needs 90 assets with returns in the 100 rows before row \d+, got \d+"):
        draw_mix(returns, SIZES._replace(assets=(90, 100)), 0)
