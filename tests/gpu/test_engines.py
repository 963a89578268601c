# SPDX-License-Identifier: Apache-2.0
"""Real engines, where there is a GPU and a TensorRT to build them with: built, proven against ONNX Runtime, linked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sigmahat_deploy.engines.device import Device, find_device
from sigmahat_deploy.engines.errors import EngineError
from sigmahat_kernels.members import MEMBER_FILES

if TYPE_CHECKING:
    from sigmahat_deploy.engines.builders import Builder

build = pytest.importorskip("sigmahat_deploy.engines.build", reason="needs sigmahat[engines]")
builders = pytest.importorskip("sigmahat_deploy.engines.builders", reason="needs sigmahat[engines]")
pytestmark = pytest.mark.gpu

REPOSITORY = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="module")
def node() -> tuple[Builder, Device]:
    try:
        return builders.find_builder(), find_device()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", MEMBER_FILES)
def test_engines_of_every_precision(node: tuple[Builder, Device], tmp_path: Path, precision: str, fused: bool) -> None:
    builder, device = node
    repository, cache = tmp_path / "model_repository", tmp_path / "cache"
    shutil.copytree(REPOSITORY, repository)
    built = build.build_engines(repository, cache, builder, device, precision=precision, fused=fused)
    assert len(built) == (1 if fused else 3)
    build.check_engines(repository, cache, builder.version, device, precision, fused=fused)
    again = build.build_engines(repository, cache, builder, device, precision=precision, fused=fused)
    assert not any(engine.built for engine in again)
