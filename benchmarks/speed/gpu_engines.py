# SPDX-License-Identifier: Apache-2.0
"""Engines on a GPU: are they int8, are they right, how long do they take; into ``results/gpu_engines.json``.

``python -m benchmarks.speed.gpu_engines`` needs CUDA, torch, onnx, onnxruntime, click, rich, and the sources on
PYTHONPATH (``client:feature_kernels:trainer:deploy``); it needs no network. Each stage stands alone: one that cannot
run is recorded with its reason, and the others go on. Nothing is written where there is no GPU.

Stages
------
torch       the network in torch, float32 and float16, eager and compiled, as CUDA graphs: what an engine has to beat
products    torch._int_mm (cuBLASLt) against float16 `linear`, for the members' own shapes
tensorrt    the package ``tensorrt`` 10 or 11, if it is installed: every precision and the fused engine
trtexec     the same with trtexec, if it is there (the image of Triton)
rtx         TensorRT for RTX, from ``--rtx FOLDER`` or where installed; it does not list compute capability 9.0
tensorrt8   TensorRT 8.5.3.1 from ``--tensorrt8 FOLDER``, as ``pack_tensorrt8.sh`` packs it, in its own Python 3.10

Where files can only be brought in pieces of 64 MiB, these are too large: libtensorrt_rtx.so.1 is 234 MB, 59.1 MiB as
``xz --x86 --lzma2=preset=9e,dict=256MiB``, which fits only alone; TensorRT 8.5.3.1 is 249 MiB in xz, so at least five
pieces; the wheels of TensorRT 10 and 11 are stubs that download their library, some GB, and cannot be brought at all.
Without them the first two stages run.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from benchmarks.figures import RESULTS, ROOT, four_digits, write_figures
from sigmahat_deploy.engines.accuracy import reference
from sigmahat_deploy.engines.builders import Profile, Trtexec, find_builder, serialized_plan
from sigmahat_deploy.engines.device import find_device
from sigmahat_deploy.engines.errors import EngineError
from sigmahat_deploy.engines.fused import fuse
from sigmahat_deploy.engines.graph import Graph, golden_batch, read_graph
from sigmahat_deploy.engines.layers import check_layers
from sigmahat_kernels.members import MEMBER_FILES, member_folders

RESULT = RESULTS / "gpu_engines.json"
BATCHES = (1, 64, 1024, 16384, 65536)
REPEATS, REPLAYS = 20, 50

console = Console(stderr=True)


@click.command()
@click.option("--model-repository", type=click.Path(path_type=Path), default=ROOT / "model_repository")
@click.option("--rtx", type=click.Path(path_type=Path), help="Folder that holds the packages of TensorRT for RTX.")
@click.option("--tensorrt8", type=click.Path(path_type=Path), help="Folder unpacked from pack_tensorrt8.sh.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(model_repository: Path, rtx: Path | None, tensorrt8: Path | None, out: Path) -> None:
    """Run every stage that this machine can run."""
    import torch

    try:
        device = find_device()
    except EngineError as error:
        raise click.ClickException(str(error)) from error
    if not torch.cuda.is_available():
        raise click.ClickException("torch sees no CUDA device")
    if rtx:
        sys.path.insert(0, str(rtx))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = onnx_files(model_repository, Path(folder))
        stages: dict[str, Callable[[], Any]] = {
            "copy_bytes_per_second": copy_bandwidth,
            "torch": lambda: torch_networks(read_graph(files["fp16"]).n_features),
            "products": lambda: products(files["int8"]),
            "tensorrt": lambda: package_engines("tensorrt", files),
            "trtexec": lambda: trtexec_engines(files, Path(folder)),
            "rtx": lambda: package_engines("tensorrt_rtx", files),
            "tensorrt8": lambda: tensorrt8_engines(tensorrt8, files, Path(folder)),
        }
        for name, stage in stages.items():
            console.print(f"[bold]{name}[/]")
            try:
                figures[name] = stage()
            except Exception as error:  # one that cannot run must not cost the others their results
                figures[name] = {"not_run": f"{type(error).__name__}: {error}"[:2000]}
            console.print(figures[name])
            write(out, device._asdict(), figures)
    console.print(f"wrote {out}")


def write(out: Path, device: dict[str, str], figures: dict[str, Any]) -> None:
    """Write what there is so far: a run that is cut off keeps its finished stages."""
    versions = {}
    for package in ("cupy-cuda13x", "onnxruntime", "tensorrt", "tensorrt_rtx"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    write_figures(out, figures, machine={"gpu": device}, versions=versions)


def onnx_files(model_repository: Path, folder: Path) -> dict[str, Path]:
    """A file of the first member in each precision, and of all members fused."""
    files = {}
    for precision, file in {**MEMBER_FILES, "fp32": MEMBER_FILES["fp16"]}.items():
        members = [onnx.load(version / file) for version in member_folders(model_repository).values()]
        members = [widened(member) for member in members] if precision == "fp32" else members
        for name, model in {precision: members[0], f"{precision}_fused": fuse(members)}.items():
            files[name] = folder / f"{name}.onnx"
            onnx.save(model, files[name])
    return files


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 file in float32, with the same values: for timing, since float networks are not committed."""
    model = copy.deepcopy(model)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float32)))
    del model.graph.value_info[:]
    return model


# ------------------------------------------------------------------------------------------------------------ timing


def microseconds(work: Callable[[], object]) -> float:
    """Median time of one replay of `work`, captured as a CUDA graph."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return replayed(graph.replay)


def replayed(work: Callable[[], object]) -> float:
    """Median over `REPEATS` of the mean time of one call, in microseconds on the device."""
    import torch

    times = []
    for _ in range(REPEATS + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(REPLAYS):
            work()
        end.record()
        torch.cuda.synchronize()
        times.append(1000 * begin.elapsed_time(end) / REPLAYS)
    return four_digits(statistics.median(times[1:]))


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy on the device: the bound that memory sets, measured."""
    import torch

    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return four_digits(2 * source.numel() / (replayed(lambda: target.copy_(source)) * 1e-6))


# ------------------------------------------------------------------------------------------------------------ stages


def torch_networks(n_features: int) -> dict[str, dict[str, float]]:
    """Microseconds a batch of one member's network; its weights are random, which does not change the time."""
    import torch

    from sigmahat_trainer.export.quantize import freeze, half_body
    from sigmahat_trainer.model.network import MemberNetwork

    torch.manual_seed(0)
    found: dict[str, dict[str, float]] = {}
    for name in ("fp32", "fp16"):
        network = freeze(MemberNetwork(n_features).eval())
        network = (half_body(network) if name == "fp16" else network).cuda()
        ways: dict[str, Callable[..., object]] = {"eager": network, "compiled": torch.compile(network, dynamic=False)}
        for way, module in ways.items():
            times = found.setdefault(f"{name}, {way}", {})
            for n in BATCHES:
                rows = torch.randn(n, n_features, device="cuda")
                with torch.no_grad():
                    times[str(n)] = microseconds(partial(module, rows))
    return found


def products(path: Path) -> dict[str, dict[str, float]]:
    """Microseconds of each shape of product that a member quantises: int8 with int32 sums, and float16."""
    import torch

    constants = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    shapes = {tuple(t.dims) for name, t in constants.items() if name.endswith("int8_weight")}
    found: dict[str, dict[str, float]] = {}
    for outputs, inputs in sorted(shapes):
        inputs, outputs = (-(-size // 8) * 8 for size in (inputs, outputs))  # what _int_mm wants; TensorRT pads as well
        for n in BATCHES[2:]:
            x = torch.randint(-127, 128, (n, inputs), device="cuda", dtype=torch.int8)
            w = torch.randint(-127, 128, (outputs, inputs), device="cuda", dtype=torch.int8)
            found[f"{n} x {inputs} x {outputs}"] = {
                "int8": microseconds(partial(torch._int_mm, x, w.t())),
                "fp16": microseconds(partial(torch.nn.functional.linear, x.half(), w.half())),
            }
    return found


def package_engines(module: str, files: dict[str, Path]) -> dict[str, Any]:
    """Build, check and time each file with a package that has TensorRT's Python interface."""
    tensorrt = __import__(module)
    return {name: in_words(package_engine, tensorrt, path) for name, path in files.items()}


def in_words(work: Callable[..., Any], *arguments: Any) -> Any:
    """The figures, or why there are none: a GPU that is not supported is a result too."""
    try:
        return work(*arguments)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


def package_engine(tensorrt: Any, path: Path) -> dict[str, Any]:
    """Int8 products, difference from ONNX Runtime, microseconds of a CUDA graph at each batch size."""
    import torch

    from sigmahat_deploy.engines.builders import logger

    graph = read_graph(path)
    engine = tensorrt.Runtime(logger(tensorrt)).deserialize_cuda_engine(
        serialized_plan(tensorrt, graph, Profile(), current_gpu(tensorrt))
    )
    if engine is None:
        raise EngineError(f"the plan does not load: {logger(tensorrt).errors[-3:]}")
    report = json.loads(engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON))
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]

    def prepared(features: np.ndarray) -> tuple[Callable[[], object], dict[str, Any]]:
        context.set_input_shape(graph.input, features.shape)
        tensors = {name: torch.empty(tuple(context.get_tensor_shape(name)), device="cuda") for name in names}
        tensors[graph.input].copy_(torch.from_numpy(features))
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.data_ptr())

        def work() -> None:
            if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise EngineError(f"TensorRT cannot run {len(features)} rows: {logger(tensorrt).errors[-3:]}")

        return work, tensors

    def run(features: np.ndarray) -> dict[str, np.ndarray]:
        work, tensors = prepared(features)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            work()
        stream.synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items() if name != graph.input}

    times = {}
    for n in BATCHES:
        work, kept = prepared(golden_batch(path, n))
        times[str(n)] = microseconds(work)
        del kept
    return {**facts(graph, report), "difference": difference(graph, run), "microseconds": times}


def current_gpu(tensorrt: Any) -> Callable[[Any], None]:
    """TensorRT for RTX compiles for any GPU and wants to be told; TensorRT itself only for the present one."""

    def target(config: Any) -> None:
        if hasattr(tensorrt, "ComputeCapability"):
            config.num_compute_capabilities = 1
            config.set_compute_capability(tensorrt.ComputeCapability.CURRENT, 0)

    return target


def trtexec_engines(files: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Build, check and time each file with trtexec, transfers left out, as CUDA graphs."""
    builder = find_builder()
    if not isinstance(builder, Trtexec):
        raise EngineError("no trtexec here")
    return {name: in_words(trtexec_engine, builder, path, folder) for name, path in files.items()}


def trtexec_engine(builder: Trtexec, path: Path, folder: Path) -> dict[str, Any]:
    """See `package_engine`."""
    graph, plan, layers = read_graph(path), folder / f"{path.stem}.plan", folder / f"{path.stem}.json"
    builder.build(graph, Profile(), plan, layers, folder / "timings.cache")
    times = {}
    for n in BATCHES:
        exported = folder / "times.json"
        options = ["--useCudaGraph", "--noDataTransfers"] if builder.version.startswith("10.") else []
        subprocess.run(
            [
                builder.path,
                f"--loadEngine={plan}",
                f"--shapes={graph.input}:{n}x{graph.n_features}",
                f"--iterations={REPEATS * REPLAYS}",
                "--duration=0",
                f"--exportTimes={exported}",
                *options,
            ],
            check=True,
            capture_output=True,
        )
        times[str(n)] = four_digits(
            1000 * statistics.median(entry["computeMs"] for entry in json.loads(exported.read_text()))
        )
    return {
        **facts(graph, json.loads(layers.read_text())),
        "difference": difference(graph, lambda rows: builder.run(plan, graph, rows)),
        "microseconds": times,
    }


def facts(graph: Graph, report: Any) -> dict[str, Any]:
    """Layers of the engine, those that read int8, and the graph's products that are int8, or why that is not known."""
    layers = report["Layers"]
    found: dict[str, Any] = {
        "layers": len(layers),
        "layers_that_read_int8": sum("int8" in str(layer.get("Inputs")).lower() for layer in layers),
    }
    try:
        found["int8_products"] = len(check_layers(graph, report))
    except EngineError as error:  # TensorRT 8 does not say which nodes a layer came from
        found["int8_products"] = str(error)
    return found


def difference(graph: Graph, run: Callable[[np.ndarray], dict[str, np.ndarray]]) -> dict[str, float]:
    """Mean, 99 % quantile and largest absolute difference from ONNX Runtime on 4,096 rows."""
    features = golden_batch(graph.path, 4096)
    (expected,), (got,) = reference(graph, features).values(), run(features).values()
    gap = np.abs(got - expected)
    return {"mean": float(gap.mean()), "p99": float(np.quantile(gap, 0.99)), "max": float(gap.max())}


# --------------------------------------------------------------------------------------------------- TensorRT 8.5.3.1


def tensorrt8_engines(folder: Path | None, files: dict[str, Path], scratch: Path) -> dict[str, Any]:
    """Engines of the last TensorRT that can be carried: int8 as in the member's file, float16 and float32."""
    if folder is None:
        raise EngineError("no --tensorrt8 FOLDER")
    found: dict[str, Any] = {}
    for name, flags in {"int8": "INT8", "int8, fp16 allowed": "INT8,FP16", "fp16": "FP16", "fp32": ""}.items():
        source = files["int8" if "INT8" in flags else "fp32"]
        found[name] = in_words(tensorrt8_engine, folder, source, flags, scratch)
    return found


def tensorrt8_engine(folder: Path, source: Path, flags: str, scratch: Path) -> dict[str, Any]:
    """Built and timed by ``tensorrt8_worker.py`` in the folder's own Python 3.10, compared here."""
    graph = read_graph(source)
    old = scratch / "tensorrt8.onnx"
    onnx.save(for_tensorrt8(onnx.load(source)), old)
    features = golden_batch(source, max(BATCHES))
    features.tofile(scratch / "features.bin")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{folder / 'stubs'}:{folder / 'tensorrt'}:{folder / 'python' / 'lib'}",
        "PYTHONPATH": str(folder),
        "PYTHONHOME": str(folder / "python"),
    }
    worker = Path(__file__).with_name("tensorrt8_worker.py")
    command = [folder / "python" / "bin" / "python3.10", worker, old, scratch, flags]
    done = subprocess.run(
        [*map(str, command), *map(str, BATCHES)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise EngineError((done.stdout + done.stderr)[-900:])
    answers = np.fromfile(scratch / "answers.bin", np.float32).reshape(4096, -1)
    report = json.loads((scratch / "layers.json").read_text())
    return {
        **facts(graph, report),
        "difference": difference(graph, lambda rows: {"PARAMETERS": answers}),
        **json.loads((scratch / "figures.json").read_text()),
    }


def for_tensorrt8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Opset 17, IR 8, and weights in float32 behind a Q and a DQ: TensorRT 8 takes no int8 constants."""
    model = copy.deepcopy(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        weight = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is not None and weight.data_type == TensorProto.INT8:
            scale = numpy_helper.to_array(constants[node.input[1]])
            values = numpy_helper.to_array(weight).astype(np.float32) * scale[:, None]
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
            nodes.append(
                helper.make_node(
                    "QuantizeLinear", [name, *node.input[1:]], [f"{name}_q"], name=f"{node.name}_q", axis=0
                )
            )
            node.input[0] = f"{name}_q"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]  # it says that these weights are int8
    # All that the members use means the same in 17 as in 20; the checker refuses what does not.
    model.opset_import[0].version, model.ir_version = 17, 8
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    main()
