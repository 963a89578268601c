# SPDX-License-Identifier: Apache-2.0
"""`sigmahat engines`: build the members' TensorRT engines on this node, or check those that are linked."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from sigmahat_deploy.engines.build import build_engines, check_engines
from sigmahat_deploy.engines.builders import Builder, find_builder
from sigmahat_deploy.engines.device import find_device
from sigmahat_deploy.engines.errors import EngineError
from sigmahat_kernels.members import MEMBER_FILES

_REPOSITORY = click.option(
    "--model-repository",
    default=Path("model_repository"),
    show_default=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the models.",
)
_CACHE = click.option(
    "--cache",
    default=Path("/var/cache/sigmahat/engines"),
    show_default=True,
    envvar="SIGMAHAT_ENGINE_CACHE",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the engines of all versions, GPUs and files; Triton must see it under the same name.",
)
_PRECISION = click.option(
    "--precision", default="int8", show_default=True, type=click.Choice(list(MEMBER_FILES)), help="Which ONNX files."
)
_FUSED = click.option("--fused", is_flag=True, help="One engine of all members and their weighting, model `fused`.")
_TRTEXEC = click.option(
    "--trtexec", type=click.Path(path_type=Path), help="The trtexec to use; default: from PATH, or NVIDIA's image's."
)
_VERSION = click.option(
    "--tensorrt-version",
    envvar="TRT_VERSION",
    help="All four parts, as the serving Triton has it (TRT_VERSION in its image): another builder is refused.",
)


@click.group()
def engines() -> None:
    """Build and check the TensorRT engines of a GPU node."""


@engines.command()
@_REPOSITORY
@_CACHE
@_PRECISION
@_FUSED
@_TRTEXEC
@_VERSION
@click.option("--rebuild", is_flag=True, help="Build also what is in the cache.")
def build(
    model_repository: Path,
    cache: Path,
    precision: str,
    fused: bool,
    trtexec: Path | None,
    tensorrt_version: str | None,
    rebuild: bool,
) -> None:
    """Build what is missing, prove it against ONNX Runtime, and link it into the model repository.

    Nothing is linked unless everything was built and proven; what was linked before then stays.
    """
    console = Console(stderr=True)
    try:
        device = find_device()
        builder = _builder(trtexec, tensorrt_version)
        with console.status("engines") as status:
            built = build_engines(
                model_repository,
                cache,
                builder,
                device,
                precision=precision,
                fused=fused,
                rebuild=rebuild,
                progress=status.update if console.is_terminal else lambda message: click.echo(message, err=True),
            )
    except EngineError as error:
        raise click.ClickException(str(error)) from error
    table = Table("model", "engine", "")
    for engine in built:
        table.add_row(engine.model, engine.plan.parent.name, "built" if engine.built else "found")
    console.print(table)


@engines.command()
@_REPOSITORY
@_CACHE
@_PRECISION
@_FUSED
@_TRTEXEC
@_VERSION
def check(
    model_repository: Path,
    cache: Path,
    precision: str,
    fused: bool,
    trtexec: Path | None,
    tensorrt_version: str | None,
) -> None:
    """Say whether the linked engines belong to this node's GPU, its TensorRT and the present ONNX files."""
    try:
        check_engines(
            model_repository, cache, _builder(trtexec, tensorrt_version).version, find_device(), precision, fused=fused
        )
    except EngineError as error:
        raise click.ClickException(str(error)) from error


def _builder(trtexec: Path | None, wanted: str | None) -> Builder:
    builder = find_builder(trtexec)
    # The image's variable may carry a build tag: "10.9.0.34+cuda12.8".
    if wanted and builder.version != wanted.partition("+")[0]:
        raise EngineError(
            f"this builds with TensorRT {builder.version}, but Triton serves with {wanted}, which would not load "
            "the engine: build inside the image that serves"
        )
    return builder
