# SPDX-License-Identifier: Apache-2.0
"""What TensorRT's compiler makes of the members, without a GPU: kernels, int8 products and memory traffic a row.

TensorRT for RTX compiles for compute capability 8.9; bytes are counted between the kernels of its plan, so they are
computed, not timed. The result goes to ``results/engine_plans.json``.
"""

from __future__ import annotations

import math
import re
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import tensorrt_rtx
from rich.console import Console
from rich.table import Table

from benchmarks.figures import RESULTS, ROOT, write_figures
from benchmarks.speed.gpu_engines import widened
from sigmahat_deploy.engines.builders import Profile, logger, serialized_plan
from sigmahat_deploy.engines.fused import fuse
from sigmahat_deploy.engines.graph import read_graph
from sigmahat_kernels.members import MEMBER_FILES, member_folders

RESULT = RESULTS / "engine_plans.json"
BYTES = {"Float": 4, "Half": 2, "Int8": 1, "Int32": 4, "Int64": 8, "Bool": 1}
ROWS = 1024
NO_KERNEL = ("shape_call", "signal", "wait")


def main() -> None:
    """Compile, count, write."""
    figures = {}
    with TemporaryDirectory() as scratch:
        for precision, file in {**MEMBER_FILES, "fp32": MEMBER_FILES["fp16"]}.items():
            folders = member_folders(ROOT / "model_repository").values()
            members = [onnx.load(folder / file) for folder in folders]
            members = [widened(member) for member in members] if precision == "fp32" else members
            for name, model in {precision: members[0], f"{precision}, fused": fuse(members)}.items():
                path = Path(scratch) / "model.onnx"
                onnx.save(model, path)
                figures[name] = compiled(path)
    write_figures(RESULT, figures, versions={"tensorrt_rtx": version("tensorrt-rtx-cu13")})
    table = Table("engine", *next(iter(figures.values())))
    for name, row in figures.items():
        table.add_row(name, *map(str, row.values()))
    Console().print(table)


def compiled(path: Path) -> dict[str, Any]:
    """Figures of one plan; traffic is what its kernels read and write besides weights, in bytes a row."""
    started = time.perf_counter()
    plan, kernels = build(path, Profile())
    seconds = time.perf_counter() - started
    _, of_fixed_batch = build(path, Profile(ROWS, ROWS, ROWS))  # so that no dimension is left open
    return {
        "kernels": len(kernels),
        "int8_products": len(read_graph(path).int8_products),
        "bytes_per_row": round(sum(map(traffic, of_fixed_batch)) / ROWS),
        "plan_bytes": len(plan),
        "build_seconds": round(seconds, 2),
    }


def build(path: Path, profile: Profile) -> tuple[bytes, list[str]]:
    """The plan, and the compiler's line on each of its kernels."""

    def target(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(tensorrt_rtx.ComputeCapability.SM89, 0)

    plan = serialized_plan(tensorrt_rtx, read_graph(path), profile, target)
    layers = [re.match(r"Name: .*?, LayerType: (\w+), ", line) for line in logger(tensorrt_rtx).lines]
    return plan, [layer.string for layer in layers if layer and layer[1] not in NO_KERNEL]


def traffic(kernel: str) -> int:
    """Bytes of a kernel's inputs and outputs."""
    tensors = re.sub(r"Constants: \[.*?\], Outputs", "Outputs", kernel)
    found = re.findall(r"Dimensions: \[([\d,]*)\].*?Datatype: (\w+)", tensors)
    return sum(math.prod(map(int, dimensions.split(","))) * BYTES[datatype] for dimensions, datatype in found)


if __name__ == "__main__":
    main()
