# SPDX-License-Identifier: Apache-2.0
"""Builds and times one engine with TensorRT 8.5 or 8.6, through the CUDA driver alone: no NumPy, no CUDA toolkit.

Arguments: ONNX file, scratch folder, builder flags joined by commas, batch sizes. The folder holds ``features.bin``,
float32 rows; it receives ``layers.json``, ``answers.bin`` (the first 4,096 rows') and ``figures.json``.
"""

import ctypes
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import tensorrt as trt

REPEATS, RUNS = 20, 50
GOLDEN = 4096

cuda = ctypes.CDLL("libcuda.so.1")


def check(code: int) -> None:
    if code:
        raise SystemExit(f"CUDA driver error {code}")


def allocate(n_bytes: int) -> ctypes.c_uint64:
    pointer = ctypes.c_uint64()
    check(cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(n_bytes)))
    return pointer


def build(path: str, flags: str) -> tuple[Any, str, int]:
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(path).read_bytes()):
        raise SystemExit(str([parser.get_error(i).desc() for i in range(parser.num_errors)]))
    config = builder.create_builder_config()
    for flag in filter(None, flags.split(",")):
        config.set_flag(getattr(trt.BuilderFlag, flag))
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    # Without cuBLAS and cuDNN, of which there are only stubs here.
    own = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
    config.set_tactic_sources(sum(1 << int(getattr(trt.TacticSource, name)) for name in own))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    source = network.get_input(0)
    width = source.shape[1]
    profile = builder.create_optimization_profile()
    profile.set_shape(source.name, (1, width), (4096, width), (65536, width))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise SystemExit("TensorRT built nothing")
    return trt.Runtime(logger).deserialize_cuda_engine(plan), source.name, width


def main(path: str, scratch: Path, flags: str, batches: list[int]) -> None:
    device, primary, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda.cuInit(0))
    check(cuda.cuDeviceGet(ctypes.byref(device), 0))
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(primary), device))
    check(cuda.cuCtxSetCurrent(primary))
    check(cuda.cuStreamCreate(ctypes.byref(stream), 0))
    started = time.perf_counter()
    engine, source, width = build(path, flags)
    seconds = time.perf_counter() - started
    inspector = engine.create_engine_inspector()
    (scratch / "layers.json").write_text(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    (target,) = [name for name in names if name != source]
    columns = engine.get_tensor_shape(target)[1]
    largest = max(batches)
    rows = (scratch / "features.bin").read_bytes()
    features, answers = allocate(4 * largest * width), allocate(4 * largest * columns)
    check(cuda.cuMemcpyHtoD_v2(features, rows, ctypes.c_size_t(4 * largest * width)))
    context.set_tensor_address(source, features.value)
    context.set_tensor_address(target, answers.value)

    def run(n: int) -> None:
        context.set_input_shape(source, (n, width))
        if not context.execute_async_v3(stream.value):
            raise SystemExit(f"TensorRT cannot run {n} rows")

    run(GOLDEN)
    check(cuda.cuStreamSynchronize(stream))
    host = ctypes.create_string_buffer(4 * GOLDEN * columns)
    check(cuda.cuMemcpyDtoH_v2(host, answers, ctypes.c_size_t(len(host))))
    (scratch / "answers.bin").write_bytes(host.raw)
    figures = {}
    for n in batches:
        times = []
        for _ in range(REPEATS + 1):
            begin = time.perf_counter()
            for _ in range(RUNS):
                run(n)
            check(cuda.cuStreamSynchronize(stream))
            times.append(1e6 * (time.perf_counter() - begin) / RUNS)
        figures[str(n)] = round(statistics.median(times[1:]), 2)
    content = {"build_seconds": round(seconds, 1), "tensorrt": trt.__version__, "microseconds_without_graph": figures}
    (scratch / "figures.json").write_text(json.dumps(content))


if __name__ == "__main__":
    source, folder, wanted, *sizes = sys.argv[1:]
    main(source, Path(folder), wanted, [int(n) for n in sizes])
