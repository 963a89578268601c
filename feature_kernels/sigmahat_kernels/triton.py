# SPDX-License-Identifier: Apache-2.0
"""What every ``model.py`` of the model repository shares: tensors in, tensors out, each request its own errors."""

from __future__ import annotations

import json
import os
import re
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from sigmahat_kernels import heartbeat
from sigmahat_kernels.backend import Array, array_namespace, to_numpy
from sigmahat_kernels.cost import CostTooHigh
from sigmahat_kernels.cuda import device
from sigmahat_kernels.metrics import REFUSED, REQUESTS, SECONDS, Meters, triton_sender
from sigmahat_kernels.scratch import keep_freed_memory
from sigmahat_kernels.status import InvalidRequest

PARAMETERS: dict[str, type] = {"caller": str, "classic": bool, "minimum_variance": bool}
"""What a request may ask for beside its tensors, name to type. Every model of an ensemble gets them all; those that
Triton takes for itself (timeout, priority, sequence_*, binary data of HTTP) arrive at none."""

MEMORY_SHARE = 0.2
"""Share of a GPU's memory that an instance may keep: four instances of Python steps stand there, and the engines."""

LOST_DEVICE = 70
"""Exit status of a process whose GPU answers nothing any more (EX_SOFTWARE)."""


class PythonModel:
    """Base of a ``TritonPythonModel``: a subclass says what to load and how to answer one set of tensors.

    With ``max_batch_size`` above zero, the requests that Triton gathered are answered as one: their tensors are joined
    along the first axis, and the outputs cut apart again.
    """

    def load(self, version_directory: Path) -> None:
        """Read what the model needs; `version_directory` holds its files."""

    def answer(self, tensors: dict[str, Array], parameters: dict[str, Any]) -> dict[str, Array]:
        """Answer one request's tensors, by name; an optional tensor that was not sent is absent.

        Raises
        ------
        InvalidRequest
            Sent to the caller as INVALID_ARGUMENT, with its message.
        """
        raise NotImplementedError

    def log(self, message: str) -> None:
        """Write a line to the server's log."""
        pb_utils.Logger.log_info(f"{self.name}: {message}")

    def progress(self) -> None:
        """Say that the work gets on: between slices. A step that has work and says nothing for 20 s is restarted."""
        heartbeat.beat()

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Count the block as a step of its own, if it ends well."""
        begin = time.monotonic()
        yield
        self._count(begin, step=step)

    def to_device(self, name: str, tensor: Array) -> Array:
        """Move PANEL and FEATURES to the instance's GPU where it has one; index tensors are read on the host."""
        if not self.on_gpu or name not in ("PANEL", "FEATURES"):
            return to_numpy(tensor)
        import cupy

        return cupy.asarray(tensor)

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton once for each instance."""
        _check_numpy()
        keep_freed_memory()
        config = json.loads(args["model_config"])
        self.name = config["name"]
        self.on_gpu = args["model_instance_kind"] == "GPU"
        self._device_number = int(args["model_instance_device_id"])
        self._merges = config["max_batch_size"] > 0
        self._required = {tensor["name"]: not tensor.get("optional", False) for tensor in config["input"]}
        self._outputs = {
            tensor["name"]: pb_utils.triton_string_to_numpy(tensor["data_type"]) for tensor in config["output"]
        }
        self.step = re.sub(r"-r\d+$", "", self.name)  # the same in every release
        self.meters = Meters(triton_sender(pb_utils))
        if self.on_gpu:
            device.use(self._device_number)  # Triton says where the instance is to be, and does not put it there
            device.limit_memory(MEMORY_SHARE)
        self.load(Path(args["model_repository"]) / args["model_version"])
        heartbeat.start(self.name)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called by Triton with the requests that it gathered; answers each, or gives each its own error."""
        if self.on_gpu:
            device.use(self._device_number)  # of this thread, which need not be that of `initialize`
        with heartbeat.working():
            # What one request asks for, or misspells, is no matter of the others'.
            if self._merges and len(set(map(_asked, requests))) == 1:
                return self._respond(requests)
            answers = []
            for request in requests:
                answers += self._respond([request])
                self.progress()
            return answers

    def finalize(self) -> None:
        """Called by Triton before the instance ends."""
        self.meters.close()

    def _respond(self, requests: Sequence[Any]) -> list[Any]:
        if all(request.is_cancelled() for request in requests):
            return [_failure("cancelled", pb_utils.TritonError.CANCELLED)] * len(requests)
        begin = time.monotonic()
        try:
            parameters = read_parameters(requests[0])
            tensors = [self._read(request) for request in requests]
            lengths = [len(next(iter(t.values()))) for t in tensors]
            joined = tensors[0]
            if len(tensors) > 1:
                joined = {name: np.concatenate([t[name] for t in tensors]) for name in tensors[0]}
            outputs = self.answer(joined, parameters)
            self._count(begin, len(requests))
            if len(requests) == 1:
                return [self._write(requests[0].requested_output_names(), outputs)]
            cuts = np.cumsum(lengths)[:-1]
            pieces = {name: np.split(value, cuts) for name, value in outputs.items()}
            return [
                self._write(request.requested_output_names(), {name: pieces[name][i] for name in pieces})
                for i, request in enumerate(requests)
            ]
        except Exception as error:  # each becomes an answer
            return [self._failed(error)] * len(requests)

    def _count(self, begin: float, n_requests: int = 1, step: str = "") -> None:
        self.meters.add(SECONDS, time.monotonic() - begin, step=step or self.step)
        self.meters.add(REQUESTS, n_requests, step=step or self.step)

    def _refuse(self, reason: str, message: str, code: Any) -> Any:
        self.meters.add(REFUSED, step=self.step, reason=reason)
        return _failure(message, code)

    def _failed(self, error: Exception) -> Any:
        """The answer to a request whose computation raised; to be called where the exception is handled."""
        if isinstance(error, InvalidRequest):
            return self._refuse("invalid", str(error), pb_utils.TritonError.INVALID_ARG)
        if isinstance(error, CostTooHigh):
            # The Python backend has no code for it: the word stands in the message, where clients look for it.
            return self._refuse("limit", f"RESOURCE_EXHAUSTED: {error}", pb_utils.TritonError.INVALID_ARG)
        # Whatever it is, the caller gets a short message and the log the rest.
        pb_utils.Logger.log_error(f"{self.name}: {traceback.format_exc()}")
        if self.on_gpu and device.is_lost():
            # Every later request of this process would fail; Triton starts another one.
            pb_utils.Logger.log_error(f"{self.name}: GPU {self._device_number} is lost to this process, which ends")
            os._exit(LOST_DEVICE)
        message = f"internal error in model '{self.name}'; the server's log has the details"
        return _failure(message, pb_utils.TritonError.INTERNAL)

    def _read(self, request: Any) -> dict[str, Array]:
        found = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._required}
        # Triton counts tensors: it takes one that was sent twice for one that was not sent.
        missing = [name for name, required in self._required.items() if required and found[name] is None]
        if missing:
            raise InvalidRequest(f"the request has no {' and no '.join(missing)}")
        return {name: _array(tensor) for name, tensor in found.items() if tensor is not None}

    def _write(self, names: Sequence[str], outputs: dict[str, Array]) -> Any:
        # Triton checks neither names nor types of what a Python model returns.
        return pb_utils.InferenceResponse([_tensor(name, outputs[name], self._outputs[name]) for name in names])


def _asked(request: Any) -> str:
    """What a request asks of this model: who asks is of no concern but to the queue."""
    found = json.loads(request.parameters() or "{}")
    return json.dumps({name: value for name, value in found.items() if name != "caller"}, sort_keys=True)


def read_parameters(request: Any) -> dict[str, Any]:
    """Parameters of a request, by name.

    Raises
    ------
    InvalidRequest
        If one is not in `PARAMETERS`, or of another type than there.
    """
    found: dict[str, Any] = json.loads(request.parameters() or "{}")
    unknown = sorted(found.keys() - PARAMETERS.keys())
    if unknown:
        known = ", ".join(sorted(PARAMETERS))
        raise InvalidRequest(f"the request has the parameters {unknown}, which are none; there is {known}")
    for name, value in found.items():
        if not isinstance(value, PARAMETERS[name]):
            raise InvalidRequest(f"the parameter {name} must be a {PARAMETERS[name].__name__}, got {value!r}")
    return found


def _array(tensor: Any) -> Array:
    """A tensor where it is: on a GPU only if the configuration lets it (FORCE_CPU_ONLY_INPUT_TENSORS)."""
    if tensor.is_cpu():
        return tensor.as_numpy()
    import cupy

    return cupy.from_dlpack(tensor.to_dlpack())


def _tensor(name: str, values: Array, dtype: Any) -> Any:
    xp = array_namespace(values)
    values = xp.ascontiguousarray(values, dtype)
    if xp is np:
        return pb_utils.Tensor(name, values)
    if values.nbytes > device.LARGEST_RESULT:
        return pb_utils.Tensor(name, device.to_host(values))
    xp.cuda.get_current_stream().synchronize()  # Triton reads from another process, which knows nothing of our stream
    return pb_utils.Tensor.from_dlpack(name, values)


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _check_numpy() -> None:
    """Refuse to start where NumPy 2 meets a Python backend older than 24.11, which corrupts every tensor in silence.

    DLPack is the one way that works on both sides of that pair; under NumPy 1 it would crash the old backend.
    """
    if int(np.__version__.split(".")[0]) < 2:
        return
    sent = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    received = pb_utils.Tensor.from_dlpack("selftest", sent).as_numpy()
    if received.shape != sent.shape or not np.array_equal(received, sent):
        raise pb_utils.TritonModelException(
            f"numpy {np.__version__} does not work with this Triton's Python backend: install numpy<2"
        )
