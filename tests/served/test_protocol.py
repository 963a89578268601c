# SPDX-License-Identifier: Apache-2.0
"""The protocol page says what the server does: its tables, its call with plain stubs, its golden files."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.json_format import ParseDict

from sigmahat_kernels import cost, request, status

service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")
model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
GOLDEN = ROOT / "docs" / "golden"
CASES = sorted(path.name.removesuffix(".request.json") for path in GOLDEN.glob("*.request.json"))


def make() -> Any:
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configured(model: str, kind: str) -> dict[str, tuple[str, int, bool]]:
    """Name to (type, rank, optional) of a model's inputs or outputs."""
    text = (ROOT / "model_repository" / model / "config.pbtxt").read_text()
    tensors = getattr(text_format.Parse(text, model_config_pb2.ModelConfig()), kind)
    types = {
        model_config_pb2.TYPE_FP32: "FP32",
        model_config_pb2.TYPE_FP64: "FP64",
        model_config_pb2.TYPE_INT32: "INT32",
    }
    return {t.name: (types[t.data_type], len(t.dims), getattr(t, "optional", False)) for t in tensors}


def documented(kind: str) -> dict[str, tuple[str, int, bool]]:
    table = PAGE.split(f"| {kind} | type | shape | meaning |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| ([A-Z_]+) \| (\w+) \| \[(.*?)\] \| (.*) \|$", table, flags=re.MULTILINE)
    return {
        name: (datatype, shape.count(",") + 1, meaning.startswith("optional"))
        for name, datatype, shape, meaning in rows
    }


def test_tensors_are_those_of_the_models() -> None:
    assert documented("input") == configured("covariance", "input") == configured("shrinkage", "input")
    assert documented("output") == configured("covariance", "output")
    without = {name: tensor for name, tensor in documented("output").items() if name != "COVARIANCE"}
    assert configured("shrinkage", "output") == without
    assert configured("risk", "input") == documented("input") | documented("input of risk")
    assert configured("risk", "output") == without | documented("output of risk")


def test_limits_and_statuses_are_those_of_the_kernels() -> None:
    limits = re.findall(r"^\| .* \| (?:at least )?([\d,]+) \| ([A-Z_]+) \|$", PAGE, flags=re.MULTILINE)
    assert len(limits) == 8
    for value, name in limits:
        constant = next(getattr(module, name) for module in (request, status, cost) if hasattr(module, name))
        assert int(value.replace(",", "")) == constant, name
    for heading, published in (
        ("Status of a universe", status.Status),
        ("Status of a portfolio", status.PortfolioStatus),
        ("Warnings", status.WarningFlag),
    ):
        section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.*) \|$", section, flags=re.MULTILINE)
        assert rows == [(str(int(code)), code.name, code.explanation) for code in published]


@pytest.mark.server
def test_the_call_with_plain_stubs_runs(served: str) -> None:
    block, _ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block.replace("127.0.0.1:8001", served), "protocol.md", "exec"), names)
    assert names["outputs"]["STATUS"].tolist() == [0, 0]
    assert names["outputs"].keys() == documented("output").keys()
    assert names["outputs"]["COVARIANCE"].shape == (2, 4, 4)


@pytest.mark.server
def test_the_call_through_binary_http_runs(running_server: Any) -> None:
    _, block = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block.replace("127.0.0.1:8000", running_server.http_url), "protocol.md", "exec"), names)
    assert names["response"].status == 200
    assert names["outputs"].keys() == documented("output").keys()
    assert names["outputs"]["STATUS"].tolist() == [0, 0]
    assert np.isfinite(names["outputs"]["COVARIANCE"][0]).all()
    assert np.isnan(names["outputs"]["COVARIANCE"][1, 3]).all()


def post(running_server: Any, model: str = "covariance", method: str = "POST", **changes: Any) -> tuple[int, str]:
    """Send a small request as JSON, with some of its members replaced."""
    panel = 0.01 * np.random.default_rng(0).standard_normal((30, 3))
    universes = np.array([[0, 1, 2], [0, 1, -1]])
    body: Any = {
        "inputs": [
            {"name": "PANEL", "datatype": "FP32", "shape": [30, 3], "data": panel.ravel().tolist()},
            {"name": "UNIVERSES", "datatype": "INT32", "shape": [2, 3], "data": universes.ravel().tolist()},
        ],
        "outputs": [{"name": "STATUS"}],
    }
    first = {**body["inputs"][0], **changes.pop("first", {})}
    body["inputs"][0] = first
    text = changes.pop("text", None) or json.dumps({**body, **changes})
    with closing(http.client.HTTPConnection(running_server.http_url)) as connection:
        connection.request(method, f"/v2/models/{model}/infer", text)
        response = connection.getresponse()
        return response.status, response.read().decode()


@pytest.mark.server
@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({}, 200, '"data":[0,0]'),
        (
            {"parameters": {"classic": True, "timeout": 10_000_000, "priority": 1, "sequence_id": 3}},
            200,
            '"data":[0,0]',
        ),
        ({"outputs": [{"name": "COVARIANCE"}]}, 200, "NaN"),
        (
            {"parameters": {"clasic": True}},
            400,
            "the parameters ['clasic'], which are none; there is caller, classic, minimum_variance",
        ),
        ({"model": "shrinkage", "parameters": {"clasic": True}}, 400, "['clasic']"),
        ({"parameters": {"classic": 1}}, 400, "classic must be a bool, got 1"),
        ({"outputs": [{"name": "X"}]}, 400, "unexpected inference output 'X'"),
        ({"first": {"name": "X"}}, 400, "unexpected inference input 'X'"),
        ({"first": {"datatype": "FP64"}}, 400, "data-type is 'FP64'"),
        ({"first": {"shape": [90]}}, 400, "unexpected shape"),
        ({"first": {"shape": [0, 3], "data": []}}, 400, "PANEL is empty"),
        ({"model": "nonesuch"}, 404, "unknown model"),
        ({"method": "GET"}, 405, "Method Not Allowed"),
        ({"text": "{"}, 500, "failed to parse"),
        ({"first": {"data": [None] * 90}}, 500, "non-number"),
        ({"first": {"shape": [31, 3]}}, 500, "does not match"),
        ({"parameters": {"timeout": 1}}, 503, "Request timeout expired"),
    ],
)
def test_http_codes_are_those_of_the_page(running_server: Any, changes: dict[str, Any], code: int, words: str) -> None:
    assert f"| {code} |" in PAGE.split("HTTP code")[1]
    status, text = post(running_server, **changes)
    assert (status, words in text) == (code, True), text


def tensors(answer: dict[str, Any]) -> dict[str, np.ndarray]:
    """Decode the JSON form by hand, as a client of another language would."""
    found = {}
    for output, raw in zip(answer["outputs"], answer.get("rawOutputContents", []), strict=True):
        dtype = {"FP32": "<f4", "FP64": "<f8", "INT32": "<i4"}[output["datatype"]]
        found[output["name"]] = np.frombuffer(base64.b64decode(raw), dtype).reshape(list(map(int, output["shape"])))
    return found


def test_there_are_golden_files_of_every_kind() -> None:
    assert sorted(make().requests()) == CASES
    statuses = tensors(json.loads((GOLDEN / "some_bad.response.json").read_text()))["STATUS"]
    assert statuses.tolist() == [0, 2, 3, 9, 1]


@pytest.mark.parametrize("case", CASES)
def test_golden_requests_are_what_the_script_writes(case: str) -> None:
    written = ParseDict(json.loads((GOLDEN / f"{case}.request.json").read_text()), service_pb2.ModelInferRequest())
    assert written == make().requests()[case]


@pytest.mark.server
@pytest.mark.parametrize("case", CASES)
def test_the_server_answers_as_the_golden_files_say(served: str, case: str) -> None:
    sent = ParseDict(json.loads((GOLDEN / f"{case}.request.json").read_text()), service_pb2.ModelInferRequest())
    kind, answer = make().ask(served, sent)
    expected = json.loads((GOLDEN / f"{case}.{kind}.json").read_text())
    if kind == "error":
        assert answer == expected
        return
    actual, golden = tensors(answer), tensors(expected)
    assert actual.keys() == golden.keys()
    for name, value in golden.items():
        assert actual[name].shape == value.shape, name
        if value.dtype.kind == "i":
            np.testing.assert_array_equal(actual[name], value, err_msg=name)
        else:
            scale = np.nanmax(np.abs(value), initial=1e-30)
            np.testing.assert_allclose(
                actual[name], value, rtol=0.02, atol=0.02 * scale, err_msg=f"{name}: new members? docs/golden/make.py"
            )
