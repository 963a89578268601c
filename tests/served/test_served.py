# SPDX-License-Identifier: Apache-2.0
"""The real Triton answers what the same pipeline answers in process, and survives whatever it is sent."""

from __future__ import annotations

import runpy
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from sigmahat_client import DeadlineExceeded, ShrinkageClient
from sigmahat_deploy.server import local_server
from sigmahat_kernels.combine import published_tensors
from sigmahat_kernels.manifest import write_manifest
from sigmahat_kernels.members import MEMBER_FILES
from sigmahat_kernels.oddities import published_warnings
from sigmahat_kernels.pipeline import Pipeline
from sigmahat_kernels.request import MAX_ASSETS, MAX_COVARIANCE_CELLS, MAX_PANEL_CELLS, MAX_UNIVERSES, read_request
from sigmahat_kernels.status import Status

pytestmark = pytest.mark.server

REPOSITORY = Path(__file__).parents[2] / "model_repository"

OUTPUTS = [
    *(
        "INTENSITY",
        "TARGET_WEIGHTS",
        "TARGET_INTENSITY",
        "TARGET_CONFIDENCE",
        "BLOCK_INTENSITY",
        "MEMORY",
        "FACTOR_MEMORY",
        "VOLATILITY",
    ),
    *("INTENSITY_TILT", "VOLATILITY_TILT", "LEVEL"),
    *("CONDITION", "EXPECTED_ERROR", "REGIME", "UNCERTAINTY", "STATUS", "STATUS_ASSET"),
    *("WARNINGS", "ASSET_WARNINGS", "COVARIANCE"),
]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(REPOSITORY)


def infer(
    url: str, model: str, tensors: dict[str, np.ndarray], outputs: list[str] | None = None, **parameters: Any
) -> dict[str, np.ndarray]:
    """One plain call, with nothing of this project's client."""
    inputs = []
    for name, array in tensors.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    wanted = None if outputs is None else [triton.InferRequestedOutput(name) for name in outputs]
    with triton.InferenceServerClient(url) as client:
        result = client.infer(model, inputs, outputs=wanted, parameters=parameters or None, client_timeout=60)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def in_process(pipeline: Pipeline, tensors: dict[str, np.ndarray], classic: bool = False) -> dict[str, np.ndarray]:
    request = read_request(**{k.lower(): v for k, v in tensors.items()})
    outputs = pipeline.estimate(request, classic=classic)
    assert outputs.covariance is not None
    return {
        **published_tensors(outputs.combined),
        "STATUS": outputs.status,
        "STATUS_ASSET": outputs.status_asset,
        **published_warnings(outputs.warnings, request.universes),
        "COVARIANCE": outputs.covariance,
    }


def draw(n_universes: int, sizes: tuple[int, int], n_columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    universes = np.full((n_universes, sizes[1]), -1, np.int32)
    for row in universes:
        size = rng.integers(sizes[0], sizes[1] + 1)
        row[:size] = rng.choice(n_columns, size, replace=False)
    return universes


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float = 1e-5) -> None:
    assert set(actual) == set(expected) == set(OUTPUTS)
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        scale = np.nanmax(np.abs(value)) if value.size and not np.isnan(value).all() else 1.0
        np.testing.assert_allclose(actual[name], value, rtol=rtol, atol=rtol * scale, err_msg=name)


@pytest.mark.parametrize(("n_universes", "sizes"), [(1, (30, 30)), (7, (50, 50)), (333, (20, 20)), (60, (2, 80))])
def test_served_equals_in_process(
    served: str, pipeline: Pipeline, panel: np.ndarray, n_universes: int, sizes: tuple[int, int]
) -> None:
    tensors = {"PANEL": panel, "UNIVERSES": draw(n_universes, sizes, panel.shape[1])}
    answer = infer(served, "covariance", tensors)
    assert (answer["STATUS"] == Status.GOOD).all()
    assert_same(answer, in_process(pipeline, tensors))
    parameters_only = infer(served, "shrinkage", tensors)
    assert set(parameters_only) == set(OUTPUTS) - {"COVARIANCE"}
    np.testing.assert_array_equal(parameters_only["INTENSITY"], answer["INTENSITY"])


def test_another_number_of_members_is_served(tmp_path: Path, panel: np.ndarray) -> None:
    repository = tmp_path / "models"
    shutil.copytree(REPOSITORY, repository)
    runpy.run_path(str(REPOSITORY / "make_configurations.py"))["write"](repository, 4)
    for file in MEMBER_FILES.values():
        shutil.copy(repository / "member_1" / "1" / file, repository / "member_4" / "1" / file)
    write_manifest(repository, repository.glob("member_*/1/*.onnx"))
    tensors = {"PANEL": panel, "UNIVERSES": draw(7, (5, 50), panel.shape[1])}
    expected = in_process(Pipeline(repository), tensors)
    with local_server(repository, grpc_port=0, http_port=0, metrics_port=0) as server:
        answer = infer(server.grpc_url, "covariance", tensors)
    assert_same(answer, expected)
    three = in_process(Pipeline(REPOSITORY), tensors)
    assert (answer["INTENSITY"] != three["INTENSITY"]).all()  # the first member counts twice


def test_optional_inputs_reach_the_steps(served: str, pipeline: Pipeline, panel: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    n_rows, n_columns = panel.shape
    universes = draw(12, (10, 40), n_columns)
    tensors = {
        "PANEL": panel,
        "UNIVERSES": universes,
        "WINDOWS": np.array([[k * 5, 200 + k * 5] for k in range(12)], np.int32),
        "MARKET": np.column_stack(
            [
                rng.uniform(10, 40, n_rows),
                rng.lognormal(size=n_rows),
                rng.lognormal(size=n_rows),
                np.arange(n_rows) % 21,
            ]
        ).astype(np.float32),
        "DATES": np.arange(17000, 17000 + n_rows, dtype=np.int32),
        "BLOCKS": np.where(universes >= 0, universes % 3, -1).astype(np.int32),
    }
    answer = infer(served, "covariance", tensors)
    assert_same(answer, in_process(pipeline, tensors))
    assert answer["BLOCK_INTENSITY"].shape == (12, 3)
    for name in ("WINDOWS", "MARKET", "DATES"):
        without = infer(served, "covariance", {k: v for k, v in tensors.items() if k != name})
        assert not np.array_equal(without["COVARIANCE"], answer["COVARIANCE"], equal_nan=True), name


def test_classic_is_a_request_parameter(served: str, pipeline: Pipeline, panel: np.ndarray) -> None:
    tensors = {"PANEL": panel, "UNIVERSES": draw(5, (10, 20), panel.shape[1])}
    classic = infer(served, "covariance", tensors, classic=True)
    assert_same(classic, in_process(pipeline, tensors, classic=True))
    assert not np.allclose(classic["COVARIANCE"], infer(served, "covariance", tensors)["COVARIANCE"], equal_nan=True)


def test_some_outputs_only(served: str, panel: np.ndarray) -> None:
    tensors = {"PANEL": panel, "UNIVERSES": draw(3, (10, 10), panel.shape[1])}
    assert set(infer(served, "covariance", tensors, ["COVARIANCE", "STATUS"])) == {"COVARIANCE", "STATUS"}
    assert set(infer(served, "shrinkage", tensors, ["INTENSITY"])) == {"INTENSITY"}


def test_requests_that_triton_joins_keep_their_own_answers(served: str, pipeline: Pipeline, panel: np.ndarray) -> None:
    requests = [{"PANEL": panel, "UNIVERSES": draw(3, (5, 40), panel.shape[1], seed)} for seed in range(24)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda tensors: infer(served, "covariance", tensors), requests))
    for tensors, answer in zip(requests, answers, strict=True):
        expected = in_process(pipeline, tensors)
        # A batch of another size rounds a float differently, which may move one activation by one int8 step.
        np.testing.assert_allclose(answer["INTENSITY"], expected["INTENSITY"], atol=0.01)
        np.testing.assert_array_equal(answer["STATUS"], expected["STATUS"])


def test_a_classic_that_is_no_boolean_is_refused(served: str, panel: np.ndarray) -> None:
    tensors = {"PANEL": panel, "UNIVERSES": draw(2, (10, 10), panel.shape[1])}
    with pytest.raises(InferenceServerException, match="classic must be a bool, got 'false'"):
        infer(served, "covariance", tensors, classic="false")


def test_covariances_above_the_limit_are_refused_and_parameters_are_not(served: str, panel: np.ndarray) -> None:
    universes = np.full((MAX_COVARIANCE_CELLS // 900**2 + 1, 900), -1, np.int32)
    universes[:, :3] = [1, 2, 3]
    tensors = {"PANEL": panel, "UNIVERSES": universes}
    with pytest.raises(InferenceServerException, match="more than the limit of 250,000,000"):
        infer(served, "covariance", tensors, ["COVARIANCE"])
    assert (infer(served, "shrinkage", tensors, ["STATUS"])["STATUS"] == Status.GOOD).all()


def test_the_server_survives_clients_that_stop_waiting(served: str, panel: np.ndarray) -> None:
    universes = draw(200, (60, 80), panel.shape[1])
    rng = np.random.default_rng(0)
    n_missed = 0
    for deadline_s in rng.uniform(0.002, 0.08, 40):
        with ShrinkageClient(served) as client:
            try:
                client.estimate(panel, universes, covariance=True, deadline_s=deadline_s)
            except DeadlineExceeded:
                n_missed += 1
    assert n_missed > 20
    with ShrinkageClient(served) as client:
        assert not client.estimate(panel, universes).failures


def bad_universe(kind: str, panel: np.ndarray) -> tuple[np.ndarray, list[int], tuple[int, int], Status, int]:
    """(panel, assets, window, status, offending asset) of each kind of universe that cannot be estimated."""
    panel, whole = panel.copy(), (0, len(panel))
    if kind == "one asset":
        return panel, [3], whole, Status.TOO_FEW_ASSETS, -1
    if kind == "no asset":
        return panel, [], whole, Status.TOO_FEW_ASSETS, -1
    if kind == "beyond the panel":
        return panel, [1, 80, 2], whole, Status.UNKNOWN_ASSET, 80
    if kind == "negative":
        return panel, [1, -7, 2], whole, Status.UNKNOWN_ASSET, -7
    if kind == "twice":
        return panel, [4, 9, 4], whole, Status.DUPLICATE_ASSET, 4
    if kind == "window after the panel":
        return panel, [1, 2, 3], (250, 301), Status.WINDOW_OUT_OF_RANGE, -1
    if kind == "window backwards":
        return panel, [1, 2, 3], (100, 50), Status.WINDOW_OUT_OF_RANGE, -1
    if kind == "19 rows":
        return panel, [1, 2, 3], (100, 119), Status.TOO_FEW_OBSERVATIONS, -1
    values = {
        "infinite": (np.inf, Status.NON_FINITE),
        "all missing": (np.nan, Status.SHORT_HISTORY),
        "constant": (0.01, Status.CONSTANT_ASSET),
        "prices": (np.linspace(90.0, 110.0, len(panel)), Status.NOT_RETURNS),
        "prices near one": (np.linspace(0.9, 1.1, len(panel)), Status.NOT_RETURNS),
    }
    value, status = values[kind]
    panel[:, 5] = value
    return panel, [1, 5, 2], whole, status, 5


@pytest.mark.parametrize(
    "kind",
    [
        *("one asset", "no asset", "beyond the panel", "negative", "twice", "window after the panel"),
        *("window backwards", "19 rows", "infinite", "all missing", "constant", "prices", "prices near one"),
    ],
)
def test_a_bad_universe_spoils_no_neighbour(served: str, panel: np.ndarray, kind: str) -> None:
    spoilt, assets, window, status, asset = bad_universe(kind, panel)
    universes = np.full((3, 10), -1, np.int32)
    universes[0] = universes[2] = np.arange(10, 20)
    universes[1, : len(assets)] = assets
    windows = np.array([(0, len(panel)), window, (0, len(panel))], np.int32)
    answer = infer(served, "covariance", {"PANEL": spoilt, "UNIVERSES": universes, "WINDOWS": windows})
    assert answer["STATUS"].tolist() == [Status.GOOD, status, Status.GOOD]
    assert answer["STATUS_ASSET"].tolist() == [-1, asset, -1]
    alone = infer(served, "covariance", {"PANEL": panel, "UNIVERSES": universes[[0, 2]], "WINDOWS": windows[[0, 2]]})
    assert answer["WARNINGS"].tolist() == [0, 0, 0]
    assert answer["ASSET_WARNINGS"].shape == (0, 3)
    for name in set(OUTPUTS) - {"STATUS", "STATUS_ASSET", "WARNINGS", "ASSET_WARNINGS"}:
        assert np.isnan(answer[name][1]).all(), name
        np.testing.assert_allclose(answer[name][[0, 2]], alone[name], rtol=1e-5, err_msg=name)


def unreadable(kind: str, panel: np.ndarray) -> tuple[dict[str, np.ndarray], str]:
    """(tensors, words of the error) of each kind of request that cannot be read as a whole."""
    universes = np.arange(20, dtype=np.int32).reshape(2, 10)
    good = {"PANEL": panel, "UNIVERSES": universes}
    return {
        "no universe": (good | {"UNIVERSES": universes[:0]}, "UNIVERSES is empty"),
        "no returns": (good | {"PANEL": panel[:0]}, "PANEL is empty"),
        "double precision": (good | {"PANEL": panel.astype(np.float64)}, "FP64"),
        "labels for columns": (good | {"UNIVERSES": universes.astype(np.int64)}, "INT64"),
        "one dimension": (good | {"PANEL": panel[0]}, "PANEL"),
        "universes missing": ({"PANEL": panel}, "2"),
        "unknown tensor": (good | {"PRICES": panel}, "PRICES"),
        "windows of another call": (
            good | {"WINDOWS": np.zeros((3, 2), np.int32)},
            r"WINDOWS must have shape \(2, 2\)",
        ),
        "dates of another panel": (good | {"DATES": np.arange(5, dtype=np.int32)}, "DATES must have shape"),
        "dates backwards": (
            good | {"DATES": np.arange(len(panel), 0, -1, dtype=np.int32)},
            "DATES must be strictly increasing",
        ),
        "blocks of another call": (good | {"BLOCKS": universes[:1]}, "BLOCKS must have shape"),
        "five indicators": (good | {"MARKET": np.ones((len(panel), 5), np.float32)}, "MARKET must have shape"),
        "universe too wide": (
            good | {"UNIVERSES": np.zeros((1, MAX_ASSETS + 1), np.int32)},
            f"more than the limit of {MAX_ASSETS}",
        ),
        "too many universes": (
            good | {"UNIVERSES": np.zeros((MAX_UNIVERSES + 1, 2), np.int32)},
            f"more than the limit of {MAX_UNIVERSES}",
        ),
        "panel too large": (
            good | {"PANEL": np.zeros((MAX_PANEL_CELLS // 1000 + 1, 1000), np.float32)},
            "more than the limit of 50,000,000",
        ),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("no universe", "no returns", "double precision", "labels for columns", "one dimension", "universes missing"),
        *("unknown tensor", "windows of another call", "dates of another panel", "dates backwards"),
        *("blocks of another call", "five indicators", "universe too wide", "too many universes", "panel too large"),
    ],
)
def test_an_unreadable_request_gets_its_error_and_the_server_stays_up(
    served: str, panel: np.ndarray, kind: str
) -> None:
    tensors, words = unreadable(kind, panel)
    with pytest.raises(InferenceServerException, match=words) as raised:
        infer(served, "covariance", tensors)
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "Traceback" not in str(raised.value)
    answer = infer(served, "covariance", {"PANEL": panel, "UNIVERSES": np.arange(10, dtype=np.int32)[None]})
    assert answer["STATUS"].tolist() == [Status.GOOD]
