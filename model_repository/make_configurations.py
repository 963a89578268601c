# SPDX-License-Identifier: Apache-2.0
"""Write every ``config.pbtxt`` from the layout in the code: ``python model_repository/make_configurations.py``.

A model has up to three forms: ``config.pbtxt`` for a CPU, ``configs/gpu.pbtxt`` for a GPU, and for a GPU with one
engine of all members ``configs/gpu_fused.pbtxt``. Triton's ``--model-config-name`` picks the form. On a CPU the
ensembles have one step, ``estimate``: to hand tensors from process to process costs more than a small request itself.
On a GPU they are a chain, with an engine for each member.

With ``--members`` the repository gets that many members; new ones wait for ``sigmahat export``.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from sigmahat_kernels.features import N_FEATURES
from sigmahat_kernels.parameters import N_PARAMETERS, PUBLISHED
from sigmahat_kernels.request import MAX_UNIVERSES

REPOSITORY = Path(__file__).parent
CPU, GPU, GPU_FUSED = "config.pbtxt", "configs/gpu.pbtxt", "configs/gpu_fused.pbtxt"
LINE = 120

Tensor = Mapping[str, Any]


def tensor(name: str, *dims: int, kind: str = "FP32", **options: bool) -> Tensor:
    """One input or output of a model; -1 is any length."""
    return {"name": name, "data_type": f"TYPE_{kind}", "dims": dims, **options}


PANEL = tensor("PANEL", -1, -1)
UNIVERSES = tensor("UNIVERSES", -1, -1, kind="INT32")
WINDOWS = tensor("WINDOWS", -1, 2, kind="INT32", optional=True)
MARKET = tensor("MARKET", -1, -1, optional=True)
DATES = tensor("DATES", -1, kind="INT32", optional=True)
BLOCKS = tensor("BLOCKS", -1, -1, kind="INT32", optional=True)
REQUEST = (PANEL, UNIVERSES, WINDOWS, MARKET, DATES, BLOCKS)

# A row a universe, then one for each of its blocks.
ROWS = (tensor("ROW_STATUS", -1, -1, kind="INT32"), tensor("ROW_ASSET", -1, -1, kind="INT32"))
# The averages of N_PARAMETERS, then the variance between the members.
WEIGHTED = tensor("WEIGHTED", -1, N_PARAMETERS + 1)
# Where a call names no outputs, Triton's order of them follows from the order here. These five stand first, so that an
# answer stays the same to the bit; the others follow in that of the layout.
FIRST = ("INTENSITY", "TARGET_WEIGHTS", "TARGET_INTENSITY", "TARGET_CONFIDENCE", "BLOCK_INTENSITY")
ANSWERS = {
    **{name.upper(): tensor(name.upper(), -1, *head.shape) for name, head in PUBLISHED.items()},
    "BLOCK_INTENSITY": tensor("BLOCK_INTENSITY", -1, -1),
}
# What is odd in universes and their assets: no later step reads it, so it goes straight to the caller.
WARNINGS = (tensor("WARNINGS", -1, kind="INT32"), tensor("ASSET_WARNINGS", -1, 3, kind="INT32"))
PUBLIC = (
    *(ANSWERS[name] for name in dict.fromkeys((*FIRST, *ANSWERS))),
    tensor("STATUS", -1, kind="INT32"),
    tensor("STATUS_ASSET", -1, kind="INT32"),
)
# The same values under second names for `assemble` and `measure`: an ensemble's output must not feed a later step, else
# requests for some of the outputs deadlock.
INTERNAL = (
    tensor("PARAMETERS_INTERNAL", -1, N_PARAMETERS),
    tensor("BLOCK_INTENSITY_INTERNAL", -1, -1),
    tensor("STATUS_INTERNAL", -1, kind="INT32"),
)
COVARIANCE = tensor("COVARIANCE", -1, -1, -1)
# Positions: on each universe's assets, or on the panel's columns.
WEIGHTS = tensor("WEIGHTS", -1, -1, -1, optional=True)
PORTFOLIOS = tensor("PORTFOLIOS", -1, -1, optional=True)
RISK = (
    tensor("VARIANCE", -1, -1, kind="FP64"),
    tensor("PORTFOLIO_COVARIANCE", -1, -1, -1, kind="FP64"),
    tensor("MARGINAL", -1, -1, -1, kind="FP64"),
    tensor("BETA", -1, -1, -1, kind="FP64"),
    tensor("DIAGONAL", -1, -1),
    tensor("MINIMUM_VARIANCE_WEIGHTS", -1, -1, -1),
    tensor("MINIMUM_VARIANCE", -1, -1, kind="FP64"),
    tensor("PORTFOLIO_STATUS", -1, -1, kind="INT32"),
    tensor("PORTFOLIO_ASSET", -1, -1, kind="INT32"),
)
# What `assemble` and `measure` read.
OF_MATRICES = (PANEL, UNIVERSES, WINDOWS, BLOCKS, *INTERNAL)

ON_CPU = {"instance_group": [{"kind": "KIND_CPU", "count": 1}]}
ON_GPU = {"instance_group": [{"kind": "KIND_GPU", "count": 1}]}
# Inputs that are on the device already, in CUDA shared memory, stay there.
PYTHON_ON_GPU: dict[str, Any] = {**ON_GPU, "parameters": {"FORCE_CPU_ONLY_INPUT_TENSORS": {"string_value": "no"}}}
# Of `features`, which every call comes to first, there are two: while the GPU computes for one call, the next one's
# universes are looked through and collected on the host, which takes as long.
TWO_ON_GPU = {"instance_group": [{"kind": "KIND_GPU", "count": 2}]}
# On a GPU, the one queue with a limit: what passes here finds room in the cheap steps behind it. A request waits here
# with all of its bytes, up to 200 MB: the length of the queue times that is what callers can make the server hold.
# On a CPU the model takes every request at once and has the queue itself, see `sliced`. Triton's batcher would be in
# the way: it counts a request as in execution until it is answered, and looks again only every 500 ms.
BOUNDED_QUEUE = {
    "default_queue_policy": {
        "timeout_action": "REJECT",
        "default_timeout_microseconds": 60_000_000,
        "allow_timeout_override": True,
        "max_queue_size": 64,
    }
}
# What waits for a later step has passed the first one's queue, which is shorter: only who asks the step itself meets
# this one.
QUEUE = {"default_queue_policy": {"max_queue_size": 256}}
# Launches, not arithmetic, take the time of a small batch. A batch runs in the smallest graph that holds it; what is
# left of the graph's rows holds old ones, which touch no other row. The backend compares a batch with the dimensions of
# a graph and of its lower bound: one that names none is taken by batches of exactly its own size.
CUDA_GRAPH_ROWS = (1, 16, 128, 512, 1024, 2048, MAX_UNIVERSES)
# CuPy compiles its kernels when they first run, so that a warm-up does what requests do: two windows of one length and
# one with fewer rows than assets, returns that are missing, a copy and a return that dominates.
WARMUP_ROWS, WARMUP_ASSETS, WARMUP_UNIVERSES = 64, 32, 4


def python_model(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], **settings: Any) -> dict[str, Any]:
    """A step that is a ``model.py``; it reads whole requests, so it does no batching of its own."""
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "input": inputs,
        "output": outputs,
        "dynamic_batching": QUEUE,
        **settings,
    }


def unqueued(model: Mapping[str, Any]) -> dict[str, Any]:
    """The same without a queue of Triton's."""
    return {name: value for name, value in model.items() if name != "dynamic_batching"}


def zeros(given: Tensor, *dims: int) -> dict[str, Any]:
    """What a warm-up sends for a tensor."""
    return {"data_type": given["data_type"], "dims": dims, "zero_data": True}


def from_file(given: Tensor, *dims: int) -> dict[str, Any]:
    """The same, from a file of the folder ``warmup``."""
    return {"data_type": given["data_type"], "dims": dims, "input_data_file": given["name"].lower()}


def of_every_kind(**others: Any) -> list[dict[str, Any]]:
    """A warm-up by the panel and universes in ``warmup``."""
    inputs = {
        "PANEL": from_file(PANEL, WARMUP_ROWS, WARMUP_ASSETS),
        "UNIVERSES": from_file(UNIVERSES, WARMUP_UNIVERSES, WARMUP_ASSETS),
        "WINDOWS": from_file(WINDOWS, WARMUP_UNIVERSES, 2),
        **others,
    }
    return [{"name": "universes of every kind", "batch_size": 1, "inputs": inputs}]


def estimate() -> dict[str, dict[str, Any]]:
    """Returns and portfolios to everything that is answered; COVARIANCE and the risk only where they are asked for."""
    answers = (*PUBLIC, *WARNINGS, COVARIANCE, *RISK)
    model = python_model("estimate", (*REQUEST, WEIGHTS, PORTFOLIOS), answers, **ON_CPU)
    return {CPU: unqueued(model)}


def features() -> dict[str, dict[str, Any]]:
    """Returns to features, which go to the members as a tensor on the device."""
    model = python_model("features", REQUEST, (tensor("FEATURES", -1, N_FEATURES), *ROWS, *WARNINGS))
    model["dynamic_batching"] = BOUNDED_QUEUE
    warmup = of_every_kind(DATES=from_file(DATES, WARMUP_ROWS))
    on_gpu = {**model, **PYTHON_ON_GPU, **TWO_ON_GPU, "model_warmup": warmup}
    return {GPU: on_gpu, GPU_FUSED: on_gpu}


def member(name: str) -> dict[str, dict[str, Any]]:
    """A network: the TensorRT plan that `sigmahat engines build` links. Triton joins the rows of requests that wait."""
    features = tensor("FEATURES", N_FEATURES)
    model = {
        "name": name,
        "max_batch_size": MAX_UNIVERSES,
        "input": [features],
        "output": [tensor("PARAMETERS", N_PARAMETERS)],
        "dynamic_batching": QUEUE,
    }
    shape = {"input": {features["name"]: {"dim": features["dims"]}}}
    graphs = [
        {"batch_size": rows, **shape, "graph_lower_bound": {"batch_size": smaller + 1, **shape}}
        for smaller, rows in zip((0, *CUDA_GRAPH_ROWS), CUDA_GRAPH_ROWS, strict=False)
    ]
    on_gpu = {
        "backend": "tensorrt",
        "default_model_filename": "model.plan",
        "optimization": {"cuda": {"graphs": True, "graph_spec": graphs}},
        "model_warmup": [
            {"name": name, "batch_size": rows, "inputs": {"FEATURES": zeros(features, N_FEATURES)}}
            for name, rows in (("one row", 1), ("all rows", MAX_UNIVERSES))
        ],
    }
    return {GPU: {**model, **ON_GPU, **on_gpu}}


def combine(n_members: int) -> dict[str, dict[str, Any]]:
    """The members' answers into one; on the CPU: averages of a few numbers a universe."""
    answers = [tensor(f"MEMBER_{k}", -1, N_PARAMETERS) for k in range(1, n_members + 1)]
    of_members = python_model("combine", (*answers, *ROWS), (*PUBLIC, *INTERNAL), **ON_CPU)
    return {GPU: of_members, GPU_FUSED: {**of_members, "input": (WEIGHTED, *ROWS)}}


def of_matrices(
    name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], **others: Any
) -> dict[str, dict[str, Any]]:
    """A step that builds covariance matrices from parameters and returns."""
    model = python_model(name, (*OF_MATRICES, *inputs), outputs)
    parameters, block_intensity, status = INTERNAL
    warmup = of_every_kind(
        BLOCKS=zeros(BLOCKS, WARMUP_UNIVERSES, WARMUP_ASSETS),
        PARAMETERS_INTERNAL=zeros(parameters, WARMUP_UNIVERSES, N_PARAMETERS),
        BLOCK_INTENSITY_INTERNAL=zeros(block_intensity, WARMUP_UNIVERSES, 1),
        STATUS_INTERNAL=zeros(status, WARMUP_UNIVERSES),
        **others,
    )
    on_gpu = {**model, **PYTHON_ON_GPU, "model_warmup": warmup}
    return {GPU: on_gpu, GPU_FUSED: on_gpu}


def assemble() -> dict[str, dict[str, Any]]:
    """Parameters and returns to covariance matrices."""
    return of_matrices("assemble", (), (COVARIANCE,))


def measure() -> dict[str, dict[str, Any]]:
    """Parameters, returns and portfolios to risk."""
    # Portfolios without a position are refused, but their arithmetic is done.
    return of_matrices("measure", (WEIGHTS, PORTFOLIOS), RISK, PORTFOLIOS=zeros(PORTFOLIOS, 1, WARMUP_ASSETS))


def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """A step of an ensemble: the model's tensors to the ensemble's."""
    return {"model_name": model, "model_version": -1, "input_map": inputs, "output_map": outputs}


def same(tensors: Sequence[Tensor], rename: Callable[[str], str] = str) -> dict[str, str]:
    """A map of tensors to tensors of an ensemble by their own names."""
    return {each["name"]: rename(each["name"]) for each in tensors}


def ensemble(
    name: str, n_members: int, last: str | None = None, inputs: Sequence[Tensor] = (), outputs: Sequence[Tensor] = ()
) -> dict[str, dict[str, Any]]:
    """What callers name. The ensemble's own names for what passes between steps are in small letters.

    `last` is the step that builds matrices, if there is one, with what it takes and answers beyond the others.
    """
    first = step("features", same(REQUEST), {"FEATURES": "features", **same(ROWS, str.lower), **same(WARNINGS)})
    names = [f"member_{k}" for k in range(1, n_members + 1)]
    members = [step(name, {"FEATURES": "features"}, {"PARAMETERS": name}) for name in names]
    fused = [step("fused", {"FEATURES": "features"}, {"WEIGHTED": "weighted"})]
    published = {**same(PUBLIC), **(same(INTERNAL, str.lower) if last else {})}
    read = {**same(OF_MATRICES), **same(INTERNAL, str.lower), **same(inputs)}
    end = [step(last, read, same(outputs))] if last else []
    taken, answered = (*REQUEST, *inputs), (*PUBLIC, *WARNINGS, *outputs)

    def form(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "name": name,
            "platform": "ensemble",
            "max_batch_size": 0,
            "input": taken,
            "output": answered,
            "ensemble_scheduling": {"step": steps},
        }

    def chain(middle: list[dict[str, Any]], answers: Mapping[str, str]) -> dict[str, Any]:
        combine = step("combine", {**answers, **same(ROWS, str.lower)}, published)
        return form([first, *middle, combine, *end])

    return {
        CPU: form([step("estimate", same(taken), same(answered))]),
        GPU: chain(members, {name.upper(): name for name in names}),
        GPU_FUSED: chain(fused, {"WEIGHTED": "weighted"}),
    }


def configurations(n_members: int) -> dict[str, str]:
    """Path in the repository -> content, of every configuration."""
    models = [
        estimate(),
        features(),
        *(member(f"member_{k}") for k in range(1, n_members + 1)),
        combine(n_members),
        assemble(),
        measure(),
        ensemble("shrinkage", n_members),
        ensemble("covariance", n_members, "assemble", outputs=(COVARIANCE,)),
        ensemble("risk", n_members, "measure", inputs=(WEIGHTS, PORTFOLIOS), outputs=RISK),
    ]
    return {f"{fields['name']}/{path}": text(fields) for model in models for path, fields in model.items()}


def text(fields: Mapping[str, Any]) -> str:
    """A configuration as Triton reads it. A field that its schema does not know is a ValueError."""
    config = ModelConfig(**fields)
    printed = text_format.MessageToString(config, use_short_repeated_primitives=True)
    return "# Written by make_configurations.py.\n" + folded(printed)


def folded(printed: str) -> str:
    """Put every message that fits on one line on one line."""
    innermost = re.compile(r"^( *)(\w+ \{)\n((?:\1  .*[^{\n]\n)*)\1\}$", re.MULTILINE)

    def one_line(match: re.Match[str]) -> str:
        indent, opening, lines = match.groups()
        line = indent + " ".join([opening, *map(str.strip, lines.splitlines()), "}"])
        return line if len(line) <= LINE else match[0]

    while (shorter := innermost.sub(one_line, printed)) != printed:
        printed = shorter
    return printed


def count_members(repository: Path) -> int:
    """How many members the repository is configured for."""
    return len(list(repository.glob(f"member_*/{GPU}")))


def write(repository: Path, n_members: int) -> None:
    """Write all configurations; a member too many is removed."""
    for folder in repository.glob("member_*"):
        if int(folder.name.removeprefix("member_")) > n_members:
            shutil.rmtree(folder)
    for path, content in configurations(n_members).items():
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        (repository / path).write_text(content)
    for k in range(1, n_members + 1):
        (repository / f"member_{k}" / "1").mkdir(exist_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=count_members(REPOSITORY), help="default: those there are")
    arguments = parser.parse_args()
    if arguments.members < 1:
        parser.error(f"an ensemble has at least 1 member, got {arguments.members}")
    write(REPOSITORY, arguments.members)
