# SPDX-License-Identifier: Apache-2.0
"""The protocol page says what the server does: its tables, its call with plain stubs, its golden files."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.json_format import ParseDict

from sigmahat_kernels import request, status

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
    types = {model_config_pb2.TYPE_FP32: "FP32", model_config_pb2.TYPE_INT32: "INT32"}
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


def test_limits_and_statuses_are_those_of_the_kernels() -> None:
    limits = re.findall(r"^\| .* \| (?:at least )?([\d,]+) \| ([A-Z_]+) \|$", PAGE, flags=re.MULTILINE)
    assert len(limits) == 5
    for value, name in limits:
        constant = getattr(request, name, None) or getattr(status, name)
        assert int(value.replace(",", "")) == constant, name
    for heading, published in (("Status of a universe", status.Status), ("Warnings", status.WarningFlag)):
        section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \| (.*) \|$", section, flags=re.MULTILINE)
        assert rows == [(str(int(code)), code.name, code.explanation) for code in published]


@pytest.mark.server
def test_the_call_with_plain_stubs_runs(served: str) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block.replace("127.0.0.1:8001", served), "protocol.md", "exec"), names)
    assert names["outputs"]["STATUS"].tolist() == [0, 0]
    assert names["outputs"].keys() == documented("output").keys()
    assert names["outputs"]["COVARIANCE"].shape == (2, 4, 4)


def tensors(answer: dict[str, Any]) -> dict[str, np.ndarray]:
    """Decode the JSON form by hand, as a client of another language would."""
    found = {}
    for output, raw in zip(answer["outputs"], answer.get("rawOutputContents", []), strict=True):
        dtype = {"FP32": "<f4", "INT32": "<i4"}[output["datatype"]]
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
