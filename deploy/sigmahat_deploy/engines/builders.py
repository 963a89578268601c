# SPDX-License-Identifier: Apache-2.0
"""The two ways to TensorRT: ``trtexec``, which Triton's image has, and the Python package ``tensorrt``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sigmahat_deploy.engines.errors import EngineError
from sigmahat_deploy.engines.graph import Graph

SUPPORTED = (10, 11)
IMAGE_TRTEXEC = Path("/usr/src/tensorrt/bin/trtexec")

_TIMEOUT_S = 1800
_LOG_LINES = 12


class Profile(NamedTuple):
    """Rows of the dynamic batch: kernels are tuned at `optimum`, memory is sized for `largest`."""

    smallest: int = 1
    optimum: int = 4096
    largest: int = 65536


class Builder(Protocol):
    """Something that builds plans and runs them."""

    version: str  # all four parts: a plan loads only where they are equal

    def build(self, graph: Graph, profile: Profile, plan: Path, layers: Path, timing_cache: Path) -> None:
        """Write the plan and the report of its layers; read and renew the timing cache."""

    def run(self, plan: Path, graph: Graph, features: np.ndarray) -> dict[str, np.ndarray]:
        """Answer features of shape (n, n_features) float32 with the plan, outputs by name."""


def find_builder(trtexec: Path | None = None) -> Builder:
    """`trtexec` where it was named, else from PATH or its place in NVIDIA's images, else the package ``tensorrt``.

    Raises
    ------
    EngineError
        If there is none, or only one of a TensorRT that is not supported.
    """
    on_path = shutil.which("trtexec")
    candidates = [trtexec] if trtexec else [Path(on_path)] if on_path else [IMAGE_TRTEXEC]
    if candidates[0].exists():
        builder: Builder = Trtexec(candidates[0])
    elif trtexec:
        raise EngineError(f"no trtexec at {trtexec}")
    else:
        try:
            import tensorrt
        except ImportError:
            raise EngineError(
                f"no TensorRT here: neither trtexec on PATH or at {IMAGE_TRTEXEC}, nor the Python package tensorrt; "
                "build inside the image of Triton that serves the engines"
            ) from None
        builder = TensorRTPackage(tensorrt)
    if int(builder.version.split(".")[0]) not in SUPPORTED:
        raise EngineError(f"TensorRT {builder.version} builds no engines for sigmahat: 10 or 11 wanted")
    return builder


class Trtexec:
    """The command line tool that every ``tritonserver:*-py3`` image carries."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = _banner_version(self._call("--help"), path)

    def build(self, graph: Graph, profile: Profile, plan: Path, layers: Path, timing_cache: Path) -> None:
        """See `Builder.build`."""
        shapes = zip(("min", "opt", "max"), profile, strict=True)
        options = [f"--{name}Shapes={graph.input}:{rows}x{graph.n_features}" for name, rows in shapes]
        if self.version.startswith("10."):
            options.append("--stronglyTyped")  # always on in 11; either way the graph alone decides the types
        self._call(
            f"--onnx={graph.path}",
            f"--saveEngine={plan}",
            *options,
            "--profilingVerbosity=detailed",
            f"--exportLayerInfo={layers}",
            f"--timingCacheFile={timing_cache}",
            "--skipInference",
        )

    def run(self, plan: Path, graph: Graph, features: np.ndarray) -> dict[str, np.ndarray]:
        """See `Builder.run`."""
        with tempfile.TemporaryDirectory(dir=plan.parent) as scratch:
            rows, answers = Path(scratch) / "features.bin", Path(scratch) / "answers.json"
            features.astype(np.float32).tofile(rows)
            # 11 leaves the transfers away unless it is asked for them, 10 the other way round.
            transfers = [] if self.version.startswith("10.") else ["--includeDataTransfers"]
            self._call(
                f"--loadEngine={plan}",
                f"--shapes={graph.input}:{len(features)}x{graph.n_features}",
                f"--loadInputs={graph.input}:{rows}",
                f"--exportOutput={answers}",
                "--iterations=1",
                "--duration=0",
                "--warmUp=0",
                *transfers,
            )
            tensors = json.loads(_text(answers, self.path))
        return {
            tensor["name"]: np.array(tensor["values"], np.float32).reshape(
                [int(length) for length in tensor["dimensions"].split("x")]
            )
            for tensor in tensors
        }

    def _call(self, *options: str) -> str:
        try:
            done = subprocess.run(
                [self.path, *options],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"cannot run {self.path}: {error}") from error
        if done.returncode != 0:
            lines = done.stdout.splitlines()
            telling = [line for line in lines if re.search(r"\[E\]|rror", line)] or lines
            raise EngineError(
                f"{self.path} {options[0]} failed with code {done.returncode}:\n" + "\n".join(telling[-_LOG_LINES:])
            )
        return done.stdout


class TensorRTPackage:
    """The Python package, where it is installed with its library."""

    def __init__(self, tensorrt: Any) -> None:
        self.tensorrt = tensorrt
        self.version: str = tensorrt.__version__

    def build(self, graph: Graph, profile: Profile, plan: Path, layers: Path, timing_cache: Path) -> None:
        """See `Builder.build`."""
        caches: list[Any] = []

        def use_timing_cache(config: Any) -> None:
            stored = timing_cache.read_bytes() if timing_cache.exists() else b""
            caches.append(config.create_timing_cache(stored))
            config.set_timing_cache(caches[0], ignore_mismatch=False)

        plan.write_bytes(serialized_plan(self.tensorrt, graph, profile, use_timing_cache))
        timing_cache.write_bytes(caches[0].serialize())
        engine = self._load(plan)
        information = engine.create_engine_inspector().get_engine_information
        layers.write_text(information(self.tensorrt.LayerInformationFormat.JSON))

    def run(self, plan: Path, graph: Graph, features: np.ndarray) -> dict[str, np.ndarray]:
        """See `Builder.run`; CuPy, which the features on a GPU need anyway, holds the tensors."""
        import cupy

        engine = self._load(plan)
        context = engine.create_execution_context()
        context.set_input_shape(graph.input, features.shape)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        tensors = {name: cupy.empty(tuple(context.get_tensor_shape(name)), cupy.float32) for name in names}
        tensors[graph.input] = cupy.asarray(features, cupy.float32)
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.data.ptr)
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.Device().synchronize()
        if not context.execute_async_v3(stream.ptr):
            raise EngineError(f"TensorRT could not run {plan}")
        stream.synchronize()
        return {name: tensor.get() for name, tensor in tensors.items() if name != graph.input}

    def _load(self, plan: Path) -> Any:
        engine = self.tensorrt.Runtime(logger(self.tensorrt)).deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise EngineError(f"TensorRT {self.version} cannot load {plan}")
        return engine


def serialized_plan(
    tensorrt: Any, graph: Graph, profile: Profile, configure: Callable[[Any], None] = lambda config: None
) -> bytes:
    """Build with any module that has TensorRT's Python interface; `configure` may change the builder's settings.

    Raises
    ------
    EngineError
        With TensorRT's own words, if it does not accept the graph.
    """
    log = logger(tensorrt)
    log.lines.clear()
    log.errors.clear()
    builder = tensorrt.Builder(log)
    strongly_typed = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    flags = 0 if strongly_typed is None else 1 << int(strongly_typed)
    network = builder.create_network(flags)
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse(graph.path.read_bytes()):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)] + log.errors[-3:]
        raise EngineError(f"TensorRT does not accept {graph.path}: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    shapes = builder.create_optimization_profile()
    shapes.set_shape(graph.input, *((rows, graph.n_features) for rows in profile))
    config.add_optimization_profile(shapes)
    configure(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT cannot build {graph.path}: {'; '.join(log.errors[-3:]) or 'no reason given'}")
    return bytes(plan)


_LOGGERS: dict[str, Any] = {}


def logger(tensorrt: Any) -> Any:
    """One logger a process and library: TensorRT ignores any later one."""
    if tensorrt.__name__ not in _LOGGERS:

        class Logger(tensorrt.ILogger):
            def __init__(self) -> None:
                tensorrt.ILogger.__init__(self)
                self.lines: list[str] = []
                self.errors: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                self.lines += message.splitlines()
                if severity in (tensorrt.ILogger.Severity.ERROR, tensorrt.ILogger.Severity.INTERNAL_ERROR):
                    self.errors.append(message)

        _LOGGERS[tensorrt.__name__] = Logger()
    return _LOGGERS[tensorrt.__name__]


def _banner_version(output: str, path: Path) -> str:
    """From ``[TensorRT v110100] [b106]`` to 11.1.0.106; before TensorRT 10 the parts had fewer digits.

    >>> _banner_version("&&&& RUNNING TensorRT.trtexec [TensorRT v101602] [b10] # trtexec --help", Path("trtexec"))
    '10.16.2.10'
    >>> _banner_version("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --help", Path("trtexec"))
    '8.6.1'
    """
    match = re.search(r"\[TensorRT v(\d+)\](?: \[b(\d+)\])?", output)
    if match is None:
        raise EngineError(f"{path} --help does not say which TensorRT it belongs to")
    number = int(match[1])
    major, rest = divmod(number, 10_000 if number >= 100_000 else 1_000)
    return ".".join(map(str, (major, *divmod(rest, 100)))) + (f".{match[2]}" if match[2] else "")


def _text(path: Path, writer: Path) -> str:
    if not path.exists():
        raise EngineError(f"{writer} said that it wrote {path.name}, but did not")
    return path.read_text()
