# SPDX-License-Identifier: Apache-2.0
"""What the shared model base does with requests, with Triton's Python module replaced by the few names it uses."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from without_gpu.pretended_cupy import Device, pretended_cupy

from sigmahat_kernels.cost import CostTooHigh
from sigmahat_kernels.cuda import device
from sigmahat_kernels.members import Member, member_folders
from sigmahat_kernels.parallel import go_on
from sigmahat_kernels.parameters import N_PARAMETERS
from sigmahat_kernels.pipeline import Pipeline, published_outputs
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import read_request
from sigmahat_kernels.status import InvalidRequest, Status

REPOSITORY = Path(__file__).parents[2] / "model_repository"


class FakeDeviceArray(np.ndarray):
    """Stands for a cupy.ndarray: NumPy's arithmetic, `get` to copy it to the host."""

    def get(self) -> np.ndarray:
        return np.array(self)


class FakeTensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        self.name, self.values = name, values

    def is_cpu(self) -> bool:
        return not isinstance(self.values, FakeDeviceArray)

    def as_numpy(self) -> np.ndarray:
        assert self.is_cpu(), "Triton's Python backend refuses this for a tensor on a GPU"
        return self.values

    def to_dlpack(self) -> np.ndarray:
        assert not self.is_cpu()
        return self.values

    @classmethod
    def from_dlpack(cls, name: str, values: np.ndarray) -> FakeTensor:
        return cls(name, values)


class FakeRequest:
    def __init__(
        self, *, cancelled: bool = False, parameters: str = "", timeout_us: int = 0, **tensors: np.ndarray
    ) -> None:
        self.tensors, self.cancelled, self.text, self.timeout_us = tensors, cancelled, parameters, timeout_us
        self.sent: SimpleQueue[Any] = SimpleQueue()
        self.wanted = ["DOUBLED"]

    def is_cancelled(self) -> bool:
        return self.cancelled

    def parameters(self) -> str:
        return self.text

    def timeout(self) -> int:
        return self.timeout_us

    def get_response_sender(self) -> SimpleNamespace:
        return SimpleNamespace(send=lambda response, flags: self.sent.put(response))

    def requested_output_names(self) -> list[str]:
        return self.wanted


class FakeError(Exception):
    INVALID_ARG, INTERNAL, CANCELLED, UNAVAILABLE = "invalid", "internal", "cancelled", "unavailable"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class FakeFamily:
    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name = name

    def Metric(self, labels: dict[str, str]) -> SimpleNamespace:  # noqa: N802 - Triton's name
        return SimpleNamespace(increment=lambda value: None, set=lambda value: None)


@pytest.fixture
def logged() -> list[str]:
    return []


@pytest.fixture
def triton_module(monkeypatch: pytest.MonkeyPatch, logged: list[str]) -> Iterator[ModuleType]:
    fake = ModuleType("triton_python_backend_utils")
    names: dict[str, Any] = {
        "Tensor": FakeTensor,
        "TritonError": FakeError,
        "TritonModelException": RuntimeError,
        "InferenceResponse": lambda tensors=None, error=None: SimpleNamespace(tensors=tensors, error=error),
        "Logger": SimpleNamespace(log_error=logged.append),
        "MetricFamily": FakeFamily,
        "TRITONSERVER_RESPONSE_COMPLETE_FINAL": 1,
        "get_input_tensor_by_name": lambda request, name: (
            FakeTensor(name, request.tensors[name]) if name in request.tensors else None
        ),
        "triton_string_to_numpy": {"TYPE_FP32": np.float32}.__getitem__,
    }
    for name, value in names.items():
        setattr(fake, name, value)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    names_of_modules = ("sigmahat_kernels.triton", "sigmahat_kernels.sliced")
    for module in names_of_modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield importlib.import_module("sigmahat_kernels.triton")
    for module in names_of_modules:
        sys.modules.pop(module, None)


def model(module: ModuleType, max_batch_size: int, kind: str = "CPU", device_id: int = 0) -> Any:
    class Doubler(module.PythonModel):  # type: ignore[name-defined]
        calls: list[int]

        def load(self, version_directory: Any) -> None:
            self.directory, self.calls = version_directory, []

        def answer(self, tensors: dict[str, np.ndarray], parameters: dict[str, Any]) -> dict[str, np.ndarray]:
            values = tensors["VALUES"]
            self.calls.append(len(values))
            if (values < 0).any():
                raise InvalidRequest("VALUES must not be negative")
            if (values > 100).any():
                raise ZeroDivisionError("a secret path")
            return {"DOUBLED": values * (3 if parameters.get("classic") else 2), "NOT ASKED FOR": values}

    made = Doubler()
    config = {
        "name": "doubler",
        "max_batch_size": max_batch_size,
        "input": [{"name": "VALUES"}, {"name": "EXTRA", "optional": True}],
        "output": [{"name": "DOUBLED", "data_type": "TYPE_FP32"}],
    }
    made.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": "/models/doubler",
            "model_version": "3",
            "model_instance_kind": kind,
            "model_instance_device_id": str(device_id),
        }
    )
    return made


def request(*values: float, **options: Any) -> FakeRequest:
    return FakeRequest(VALUES=np.array(values), **options)


def test_each_request_alone(triton_module: ModuleType) -> None:
    doubler = model(triton_module, 0)
    assert str(doubler.directory) == "/models/doubler/3"
    responses = doubler.execute([request(1, 2), request(3, parameters='{"classic": true}')])
    assert doubler.calls == [2, 1]
    assert [r.tensors[0].values.tolist() for r in responses] == [[2, 4], [9]]
    assert [len(r.tensors) for r in responses] == [1, 1]
    assert responses[0].tensors[0].values.dtype == np.float32


def test_joined_requests_are_cut_apart_again(triton_module: ModuleType) -> None:
    doubler = model(triton_module, 64)
    responses = doubler.execute([request(1, 2), request(3), request(4, 5, 6)])
    assert doubler.calls == [6]
    assert [r.tensors[0].values.tolist() for r in responses] == [[2, 4], [6], [8, 10, 12]]


def test_requests_of_several_callers_are_joined_too(triton_module: ModuleType) -> None:
    doubler = model(triton_module, 64)
    responses = doubler.execute([request(k, parameters=f'{{"caller": "{k}"}}') for k in (1, 2, 3)])
    assert [r.tensors[0].values.tolist() for r in responses] == [[2], [4], [6]]
    assert doubler.calls == [3]


@pytest.mark.parametrize("max_batch_size", [0, 64])
def test_what_one_request_asks_for_stays_with_it(triton_module: ModuleType, max_batch_size: int) -> None:
    doubler = model(triton_module, max_batch_size)
    parameters = ['{"classic": true}', "", '{"clasic": true, "b": 1}', '{"classic": false}', '{"classic": 1}']
    responses = doubler.execute([request(1, parameters=text) for text in parameters])
    assert [r.tensors and r.tensors[0].values.tolist() for r in responses] == [[3], [2], None, [2], None]
    assert [(r.error.code, r.error.message) for r in responses if r.error] == [
        (
            "invalid",
            "the request has the parameters ['b', 'clasic'], which are none; "
            "there is caller, classic, minimum_variance",
        ),
        ("invalid", "the parameter classic must be a bool, got 1"),
    ]


def test_an_error_stays_with_its_request(triton_module: ModuleType, logged: list[str]) -> None:
    doubler = model(triton_module, 0)
    responses = doubler.execute([request(1), request(-1), request(101), request(2, cancelled=True)])
    assert responses[0].tensors[0].values.tolist() == [2]
    errors = [(r.error.code, r.error.message) for r in responses[1:]]
    assert errors == [
        ("invalid", "VALUES must not be negative"),
        ("internal", "internal error in model 'doubler'; the server's log has the details"),
        ("cancelled", "cancelled"),
    ]
    assert len(logged) == 1
    assert "a secret path" in logged[0]
    assert doubler.calls == [1, 1, 1]


def test_a_backend_that_corrupts_tensors_is_refused(triton_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    model(triton_module, 0)  # this pair works
    corrupt = classmethod(lambda cls, name, values: cls(name, np.full_like(values, values.flat[0])))
    monkeypatch.setattr(FakeTensor, "from_dlpack", corrupt)
    with pytest.raises(RuntimeError, match="install numpy<2"):
        model(triton_module, 0)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The few names of CuPy that the model base uses, and how often it waited for the device."""
    waited: list[bool] = []
    stream = SimpleNamespace(synchronize=lambda: waited.append(True))
    fake = SimpleNamespace(
        ndarray=FakeDeviceArray,
        asarray=lambda values: np.asarray(values).view(FakeDeviceArray),
        from_dlpack=lambda values: values,
        ascontiguousarray=lambda values, dtype: np.ascontiguousarray(values, dtype).view(FakeDeviceArray),
        cuda=SimpleNamespace(get_current_stream=lambda: stream),
        waited=waited,
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def test_tensors_on_the_device_stay_there(triton_module: ModuleType, cupy: SimpleNamespace) -> None:
    doubler = model(triton_module, 0)
    (response,) = doubler.execute([FakeRequest(VALUES=np.array([1.0, 2.0]).view(FakeDeviceArray))])
    (tensor,) = response.tensors
    assert isinstance(tensor.values, FakeDeviceArray)
    assert tensor.values.tolist() == [2, 4]
    assert tensor.values.dtype == np.float32
    assert cupy.waited == [True]  # before another process may read it


def test_only_panel_and_features_go_to_the_device(triton_module: ModuleType, cupy: SimpleNamespace) -> None:
    doubler = model(triton_module, 0)
    values = np.arange(3.0)
    assert not isinstance(doubler.to_device("PANEL", values), FakeDeviceArray)  # an instance without a GPU
    doubler.on_gpu = True
    for name, expected in {"PANEL": True, "FEATURES": True, "UNIVERSES": False, "BLOCKS": False}.items():
        for given in (values, values.view(FakeDeviceArray)):
            moved = doubler.to_device(name, given)
            assert isinstance(moved, FakeDeviceArray) == expected, name
            assert moved.tolist() == values.tolist()
    assert not cupy.waited


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """CuPy on a node with two GPUs, pretended."""
    module = pretended_cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    yield module
    Device(0).use()


def test_every_instance_works_on_its_own_device(triton_module: ModuleType, two_devices: Any) -> None:
    first, second = (model(triton_module, 0, "GPU", number) for number in (0, 1))
    assert two_devices.get_default_memory_pool().limits == dict.fromkeys((0, 1), triton_module.MEMORY_SHARE)
    for instance, number in ((first, 0), (second, 1), (first, 0)):
        found: list[Any] = []
        # In a thread that has never seen a device, as Triton's may be.
        thread = Thread(target=lambda: found.extend(instance.execute([request(1)])))  # noqa: B023 - joined at once
        instance.answer = lambda tensors, parameters, to=instance.to_device: {"DOUBLED": to("PANEL", tensors["VALUES"])}
        thread.start()
        thread.join()
        assert found[0].tensors[0].values.device_id == number


def test_a_result_too_large_for_tritons_room_goes_by_the_host(
    triton_module: ModuleType, two_devices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "LARGEST_RESULT", 4 * 3)
    doubler = model(triton_module, 0, "GPU", 1)
    for values, on_host in (([1.0, 2.0, 3.0], False), ([1.0, 2.0, 3.0, 4.0], True)):
        doubler.answer = lambda tensors, parameters: {"DOUBLED": doubler.to_device("PANEL", 2 * tensors["VALUES"])}
        (response,) = doubler.execute([FakeRequest(VALUES=np.array(values, np.float32))])
        found = response.tensors[0].values
        assert isinstance(found, two_devices.ndarray) != on_host
        assert [float(value) for value in found] == [2 * value for value in values]


def test_what_lies_on_another_device_comes_over(triton_module: ModuleType, two_devices: Any) -> None:
    """A caller's CUDA shared memory may be on any."""
    Device(1).use()
    there = two_devices.zeros(3)
    instance = model(triton_module, 0, "GPU", 0)
    assert instance.to_device("PANEL", there).device_id == 0


def test_a_process_ends_with_its_device(
    triton_module: ModuleType, two_devices: Any, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with one request is not: the device still answers."""
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    instance = model(triton_module, 0, "GPU", 1)
    (response,) = instance.execute([request(101)])
    assert (response.error.code, ended) == ("internal", [])
    monkeypatch.setattr(Device, "broken", True)
    instance.execute([request(101)])
    assert ended == [triton_module.LOST_DEVICE]
    assert logged[-1] == "doubler: GPU 1 is lost to this process, which ends"


def test_a_request_without_a_required_tensor_is_the_callers_error(triton_module: ModuleType) -> None:
    (response,) = model(triton_module, 0).execute([FakeRequest(EXTRA=np.ones(2))])
    assert (response.error.code, response.error.message) == ("invalid", "the request has no VALUES")


@pytest.fixture
def sliced(triton_module: ModuleType) -> Iterator[Any]:
    """A model that computes one slice after another, each once `go` is set; it notes the order."""
    module = importlib.import_module("sigmahat_kernels.sliced")

    class Slices(module.SlicedModel):  # type: ignore[name-defined]
        go, begun, order = Event(), Event(), []

        def plan(self, tensors: dict[str, np.ndarray], parameters: dict[str, Any], outputs: list[str]) -> Any:
            cost = float(tensors["VALUES"][0])
            if cost > 1000:
                raise CostTooHigh("too dear")

            def answer(pause: Any) -> dict[str, np.ndarray]:
                self.begun.set()
                for _ in range(3):
                    self.go.wait(60)
                    pause()
                    self.order.append(cost)
                return {"DOUBLED": 2 * tensors["VALUES"]}

            return module.Work(cost, 1000, answer)

    made = Slices()
    made.initialize(
        {
            "model_config": json.dumps(
                {
                    "name": "slices-r2",
                    "max_batch_size": 0,
                    "input": [{"name": "VALUES"}],
                    "output": [{"name": "DOUBLED", "data_type": "TYPE_FP32"}],
                }
            ),
            "model_repository": "/models/slices",
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    yield made
    made.go.set()
    made.finalize()


def test_a_small_request_passes_a_large_one_that_has_begun(sliced: Any) -> None:
    large, small = request(100.0), request(1.0)
    assert sliced.execute([large]) == [None]
    sliced.begun.wait(60)
    assert sliced.execute([small]) == [None]
    sliced.go.set()
    assert small.sent.get(timeout=60).tensors[0].values.tolist() == [2]
    assert large.sent.get(timeout=60).tensors[0].values.tolist() == [200]
    assert sliced.order == [1, 1, 1, 100, 100, 100]
    assert sliced.step == "slices"


def test_a_small_request_that_finds_nobody_is_answered_at_once(sliced: Any) -> None:
    sliced.go.set()
    small = request(1.0)
    (response,) = sliced.execute([small])
    assert response.tensors[0].values.tolist() == [2]
    assert small.sent.empty()
    assert sliced.execute([request(100.0)]) == [None]  # a large one never is


def test_requests_that_have_waited_for_a_small_one_take_turns(sliced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigmahat_kernels.sliced._GAP", 1e9)
    sliced.go.set()
    first, second, third = (request(float(k)) for k in (1, 2, 3))
    answered = sliced.execute([first, second, third])
    assert answered[0].tensors[0].values.tolist() == [2]
    assert answered[1:] == [None, None]
    assert [each.sent.get(timeout=60).tensors[0].values.tolist() for each in (second, third)] == [[4], [6]]


def test_a_request_that_is_computed_later_is_copied(sliced: Any) -> None:
    large = request(100.0)
    assert sliced.execute([large]) == [None]
    large.tensors["VALUES"][:] = -1.0  # Triton takes its memory back
    sliced.go.set()
    assert large.sent.get(timeout=60).tensors[0].values.tolist() == [200]


def test_work_that_is_overdue_stops_between_slices(sliced: Any) -> None:
    late = request(100.0, timeout_us=1)
    assert sliced.execute([late]) == [None]
    sliced.go.set()
    error = late.sent.get(timeout=60).error
    assert (error.code, error.message) == ("unavailable", "Request timeout expired: not answered within 1e-06 s")
    assert sliced.order == []


def test_a_request_above_the_limit_is_refused_at_once(sliced: Any) -> None:
    (response,) = sliced.execute([request(2000.0)])
    assert (response.error.code, response.error.message) == ("invalid", "RESOURCE_EXHAUSTED: too dear")


def test_a_full_queue_refuses_and_says_when_to_try_again(sliced: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigmahat_kernels.sliced.MAX_QUEUED", 1)
    monkeypatch.setattr("sigmahat_kernels.sliced.available_threads", lambda: 2)
    assert sliced.execute([request(900.0)]) == [None]
    (response,) = sliced.execute([request(1.0)])
    assert response.error.code == "unavailable"
    assert response.error.message == "Exceeds maximum queue size: 1 requests are here, try again in about 1 s"


def step(name: str) -> Any:
    """A step of the repository, as Triton would make it."""
    made = runpy.run_path(str(REPOSITORY / name / "1" / "model.py"))["TritonPythonModel"]()
    made.name = made.step = name
    made.on_gpu = False
    made.meters = SimpleNamespace(add=lambda *of, **labels: None, observe=lambda *of, **labels: None)
    return made


@pytest.mark.parametrize("classic", [False, True])
def test_the_one_step_for_a_cpu_answers_what_the_chain_for_a_gpu_does(triton_module: ModuleType, classic: bool) -> None:
    """To the bit, both as they stand in the repository; and what the pipeline answers without Triton.

    What is answered in double precision is the same but for its last bits: the one step has products of a window's
    columns from its features, the chain multiplies out again those of good universes.
    """
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    panel = rng.standard_t(4, (200, 40)).astype(np.float32) / 100
    panel[rng.random(panel.shape) < 0.003] = np.nan
    panel[:, 7] = 0.0
    universes = np.full((6, 20), -1, np.int32)
    for row, size in zip(universes, (20, 5, 12, 20, 1, 9), strict=True):
        row[:size] = rng.choice(40, size, replace=False)
    windows = np.array([[0, 200], [0, 200], [20, 170], [50, 200], [0, 200], [20, 170]], np.int32)
    tensors = {"PANEL": panel, "UNIVERSES": universes, "WINDOWS": windows, "BLOCKS": np.maximum(universes % 3, 0)}

    of_features = step("features").answer(dict(tensors), {})
    members = {name: Member(folder / "model.onnx") for name, folder in member_folders(REPOSITORY).items()}
    parameters = {name.upper(): member(of_features["FEATURES"]) for name, member in members.items()}
    rows = {name: of_features[name] for name in ("ROW_STATUS", "ROW_ASSET")}
    combined = step("combine").answer({**parameters, **rows}, {})
    internal = {name: values for name, values in combined.items() if name.endswith("_INTERNAL")}
    matrices = step("assemble").answer({**tensors, **internal}, {"classic": classic})
    asked = {"classic": classic, "minimum_variance": True}
    books = {"PORTFOLIOS": rng.normal(0, 1, (3, 40)).astype(np.float32)}
    books["PORTFOLIOS"][1] = 0.0
    risk = step("measure").answer({**tensors, **internal, **books}, dict(asked))
    chain = {**{k: v for k, v in of_features.items() if k.endswith("WARNINGS")}, **combined, **matrices, **risk}

    estimate = step("estimate")
    estimate.load(REPOSITORY / "estimate" / "1")
    work = estimate.plan({**tensors, **books}, dict(asked), ["INTENSITY", "COVARIANCE", "VARIANCE"])
    answer = work.answer(go_on)
    assert answer.keys() == {
        name for name in chain if not name.startswith(("ROW_", "FEATURES")) and name not in internal
    }
    request = read_request(**{name.lower(): values for name, values in tensors.items()})
    portfolios = read_portfolios(request, portfolios=books["PORTFOLIOS"])
    alone = published_outputs(Pipeline(REPOSITORY).estimate(request, portfolios=portfolios, **asked), universes)
    assert alone.keys() == answer.keys()
    for name, values in answer.items():
        np.testing.assert_array_equal(values, alone[name], err_msg=name)
        if values.dtype == np.float64:
            scale = np.abs(np.nan_to_num(values)).max()
            np.testing.assert_allclose(values, chain[name], rtol=1e-12, atol=1e-12 * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(values, chain[name], err_msg=name)
    assert Status.GOOD in answer["STATUS"]
    assert len(set(answer["STATUS"].tolist())) > 1
    assert len(set(answer["PORTFOLIO_STATUS"].ravel().tolist())) > 2
    # Of what is dear, no more is computed than was asked for, whatever was sent.
    without = estimate.plan({**tensors, **books}, dict(asked), ["INTENSITY"])
    assert without.answer(go_on).keys() == answer.keys() - {"COVARIANCE", *risk}
    for dear in (["COVARIANCE"], list(risk)):
        part = estimate.plan({**tensors, **books}, dict(asked), dear)
        assert without.cost < part.cost < work.cost
        assert part.answer(go_on).keys() == answer.keys() - {"COVARIANCE", *risk} | set(dear)


def test_a_caller_must_be_a_name(sliced: Any) -> None:
    (response,) = sliced.execute([request(1.0, parameters='{"caller": 5}')])
    assert response.error.message == "the parameter caller must be a str, got 5"


ROWS = {"ROW_STATUS": np.zeros((2, 1), np.int32), "ROW_ASSET": np.zeros((2, 1), np.int32)}
MEMBERS = {f"MEMBER_{k}": np.zeros((2, N_PARAMETERS), np.float32) for k in (1, 2, 3)}
INTERNAL = {
    "UNIVERSES": np.array([[0, 1, 2], [3, 4, 5]], np.int32),
    "PARAMETERS_INTERNAL": np.zeros((2, N_PARAMETERS), np.float32),
    "BLOCK_INTENSITY_INTERNAL": np.zeros((2, 1), np.float32),
    "STATUS_INTERNAL": np.zeros(2, np.int32),
}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("assemble", {"PARAMETERS_INTERNAL": MEMBERS["MEMBER_1"][:1]}, "parameters must have 2 rows, got 1"),
        ("assemble", {"STATUS_INTERNAL": np.zeros(7, np.int32)}, "status must have 2 rows, got 7"),
        ("assemble", {"BLOCK_INTENSITY_INTERNAL": np.zeros((1, 1), np.float32)}, "block_intensity must have 2 rows"),
        ("assemble", {"BLOCKS": np.arange(6, dtype=np.int32).reshape(2, 3)}, "6 columns, one a block, got 1"),
        ("assemble", {"UNIVERSES": np.full((2, 3), 9_999, np.int32)}, "a universe names an unknown asset"),
        ("assemble", {"UNIVERSES": np.full((2, 3), -7, np.int32)}, "a universe names an unknown asset"),
        ("assemble", {"UNIVERSES": np.full((2, 3), -1, np.int32)}, "an unknown asset, or too few"),
        ("measure", {"PARAMETERS_INTERNAL": MEMBERS["MEMBER_1"][:1]}, "parameters must have 2 rows, got 1"),
        ("measure", {"UNIVERSES": np.full((2, 3), 9_999, np.int32)}, "a universe names an unknown asset"),
        ("measure", {"PORTFOLIOS": np.zeros((1, 7), np.float32)}, r"PORTFOLIOS must have shape \(portfolios, 8\)"),
        ("combine", {"MEMBER_2": MEMBERS["MEMBER_2"][:1]}, r"each member must have 2 rows, got \[2, 1, 2\]"),
        ("combine", {"ROW_STATUS": np.zeros((2, 3), np.int32)}, r"must have one shape, .* got \(2, 3\) and \(2, 1\)"),
        ("combine", {"ROW_STATUS": np.zeros((2, 0), np.int32)}, r"must have one shape"),
        ("combine", {"ROW_STATUS": np.full((2, 1), 99, np.int32)}, "ROW_STATUS must be 0 to 11"),
    ],
)
def test_a_later_step_refuses_what_no_step_has_made(
    triton_module: ModuleType, name: str, change: dict[str, np.ndarray], words: str
) -> None:
    """A stranger may ask one directly: Triton has no access by model."""
    panel = np.random.default_rng(0).normal(0, 0.01, (60, 8)).astype(np.float32)
    of_matrices = {"PANEL": panel, **INTERNAL}
    good = {"assemble": of_matrices, "measure": of_matrices, "combine": {**MEMBERS, **ROWS}}[name]
    step(name).answer(dict(good), {})
    with pytest.raises(InvalidRequest, match=words):
        step(name).answer({**good, **change}, {})
