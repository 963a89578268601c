# SPDX-License-Identifier: Apache-2.0
"""From the committed ONNX files to engines that Triton loads: build, prove, keep, link."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sigmahat_deploy.engines.accuracy import check_accuracy
from sigmahat_deploy.engines.builders import Builder, Profile
from sigmahat_deploy.engines.cache import LAYERS, PLAN, Key, link, locked, new_entry, read_entry, seal, timing_cache
from sigmahat_deploy.engines.device import Device
from sigmahat_deploy.engines.errors import EngineError
from sigmahat_deploy.engines.fused import FUSED, WEIGHTED, fuse
from sigmahat_deploy.engines.graph import Graph, golden_batch, read_graph
from sigmahat_deploy.engines.layers import check_layers, read_layers
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.manifest import ManifestError
from sigmahat_kernels.members import MEMBER_FILES, Member, MemberError, member_folders
from sigmahat_kernels.parameters import N_PARAMETERS

GOLDEN_BATCHES = (1, 333)


class Engine(NamedTuple):
    """One model's engine in the cache."""

    model: str
    plan: Path
    built: bool  # False: it was there already


def build_engines(
    model_repository: Path,
    cache: Path,
    builder: Builder,
    device: Device,
    *,
    precision: str = "int8",
    fused: bool = False,
    rebuild: bool = False,
    profile: Profile = Profile(),  # noqa: B008 - immutable
    progress: Callable[[str], object] = lambda message: None,
) -> list[Engine]:
    """Build what is not in the cache yet, then link all of it into the model repository; all of it or nothing.

    Parameters
    ----------
    precision : str
        A key of `MEMBER_FILES`: which of a member's ONNX files.
    fused : bool
        One engine of all members and their weighting, for the model `fused`, instead of one engine a member.
    rebuild : bool
        Build also what is in the cache.

    Raises
    ------
    EngineError
        Whatever went wrong. Then the links, and the engines that they point at, are what they were.
    """
    workshop = _Workshop(cache, builder, device, precision, profile, progress)
    with _plain_errors(cache), locked(cache, lambda: progress("another process is building engines: waiting for it")):
        sources = _sources(model_repository, precision, fused)
        engines = [workshop.ensure(model, members, rebuild) for model, members in sources.items()]
        for engine in engines:
            if engine.model == FUSED:
                add_model(model_repository)
            link(engine.plan, model_repository / engine.model / "1" / PLAN)
    return engines


def check_engines(
    model_repository: Path,
    cache: Path,
    tensorrt: str,
    device: Device,
    precision: str = "int8",
    *,
    fused: bool = False,
    profile: Profile = Profile(),  # noqa: B008 - immutable
) -> None:
    """Compare the linked engines with this TensorRT, this GPU and the present ONNX files; see `build_engines`.

    Raises
    ------
    EngineError
        If a model has no engine, a damaged one, or one that was built for something else.
    """
    for model, members in _sources(model_repository, precision, fused).items():
        key = Key(tensorrt, device, precision, profile, hashlib.sha256(_content(members)).hexdigest())
        name = model_repository / model / "1" / PLAN
        if not name.exists():
            raise EngineError(f"{model} has no engine at {name}: run `sigmahat engines build`")
        linked = name.resolve().parent.name
        if linked != key.folder():
            raise EngineError(f"{model} has the engine {linked}, {key.folder()} wanted: run `sigmahat engines build`")
        if read_entry(cache, key) is None:
            raise EngineError(f"{name} points at {name.resolve()}, which is not in the cache {cache}")


def _sources(model_repository: Path, precision: str, fused: bool) -> dict[str, list[Path]]:
    """Model of the repository -> the ONNX files that its engine is made from."""
    with _members_refused():
        files = {name: folder / MEMBER_FILES[precision] for name, folder in member_folders(model_repository).items()}
    return {FUSED: list(files.values())} if fused else {model: [file] for model, file in files.items()}


def add_model(model_repository: Path) -> None:
    """Write the folder of the model `fused`, with the GPU settings of the first member.

    The committed repository has no such folder: it would have nothing to load where there is no GPU.
    """
    member = text_format.Parse(
        (model_repository / "member_1" / "configs" / "gpu.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    member.name = FUSED
    member.output[0].name, member.output[0].dims[:] = WEIGHTED, [N_PARAMETERS + 1]
    folder = model_repository / FUSED
    (folder / "1").mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.pbtxt", lambda file: file.write(text_format.MessageToString(member).encode()))


class _Workshop(NamedTuple):
    cache: Path
    builder: Builder
    device: Device
    precision: str
    profile: Profile
    progress: Callable[[str], object]

    def ensure(self, model: str, members: list[Path], rebuild: bool) -> Engine:
        """Find the engine of one ONNX file, or of several fused, in the cache, or build and prove it."""
        content = _content(members)
        key = Key(self.builder.version, self.device, self.precision, self.profile, hashlib.sha256(content).hexdigest())
        plan = self.cache / key.folder() / PLAN
        if not rebuild and read_entry(self.cache, key) is not None:
            self.progress(f"{model}: found {key.folder()}")
            return Engine(model, plan, built=False)
        with new_entry(self.cache, key) as folder:
            source = folder / f"{model}.onnx"
            source.write_bytes(content)
            self._build(model, key, read_graph(source), folder)
            if _content(members) != content:
                raise EngineError(f"the ONNX file of {model} changed while its engine was built: build it again")
        return Engine(model, plan, built=True)

    def _build(self, model: str, key: Key, graph: Graph, folder: Path) -> None:
        plan, layers, started = folder / PLAN, folder / LAYERS, time.monotonic()
        self.progress(f"{model}: building {key.folder()}")
        with timing_cache(self.cache, key, folder) as timings:
            self.builder.build(graph, self.profile, plan, layers, timings)
        if not (plan.exists() and plan.stat().st_size):
            raise EngineError(f"TensorRT {self.builder.version} wrote no plan for {graph.path.name}; is the disk full?")
        int8_products = check_layers(graph, read_layers(layers))
        self.progress(f"{model}: comparing with ONNX Runtime")
        features = golden_batch(graph.path, self.profile.optimum)
        accuracy = check_accuracy(
            graph, features, lambda rows: self.builder.run(plan, graph, rows), (*GOLDEN_BATCHES, self.profile.optimum)
        )
        report = {
            "model": model,
            "tensorrt": key.tensorrt,
            "device": key.device._asdict(),
            "precision": key.precision,
            "profile": key.profile._asdict(),
            "onnx_sha256": key.onnx_sha256,
            "seconds": round(time.monotonic() - started, 1),
            "int8_products": int8_products,
            "difference_from_onnxruntime": accuracy,
        }
        seal(folder, report)


def _content(members: list[Path]) -> bytes:
    with _members_refused():
        for path in members:
            Member(path)  # TensorRT would not notice that a file was trained on other features
    if len(members) == 1:
        return members[0].read_bytes()
    return fuse([onnx.load(path) for path in members]).SerializeToString(deterministic=True)


@contextmanager
def _members_refused() -> Iterator[None]:
    try:
        yield
    except (ManifestError, MemberError) as error:
        raise EngineError(str(error)) from error


@contextmanager
def _plain_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"cannot write engines to {cache}: {error.strerror or error} ({error.filename or cache}); "
            "engines that were linked before stay linked"
        ) from error
