# SPDX-License-Identifier: Apache-2.0
"""The model repository parses as Triton would, fits the kernels, and is one contract on both kinds of hardware."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sigmahat_kernels.features import FEATURE_NAMES, N_FEATURES
from sigmahat_kernels.manifest import ManifestError, write_manifest
from sigmahat_kernels.members import Member
from sigmahat_kernels.parameters import N_PARAMETERS
from sigmahat_kernels.request import MAX_UNIVERSES

REPOSITORY = Path(__file__).parents[1] / "model_repository"
MODELS = ("features", "member_1", "member_2", "member_3", "combine", "assemble", "shrinkage", "covariance")
INPUTS = ["PANEL", "UNIVERSES", "WINDOWS", "MARKET", "DATES", "BLOCKS"]


def read(model: str, form: str = "config.pbtxt") -> model_config_pb2.ModelConfig:
    return text_format.Parse((REPOSITORY / model / form).read_text(), model_config_pb2.ModelConfig())


def signature(tensors: object) -> list[tuple[object, ...]]:
    return [(t.name, t.data_type, tuple(t.dims), getattr(t, "optional", False)) for t in tensors]  # type: ignore[attr-defined]


def test_all_models_are_there() -> None:
    assert {path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")} == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_both_kinds_of_hardware_have_one_signature(model: str) -> None:
    cpu, gpu = read(model), read(model, "configs/gpu.pbtxt")
    assert cpu.name == gpu.name == model
    assert cpu.max_batch_size == gpu.max_batch_size
    assert signature(cpu.input) == signature(gpu.input)
    assert signature(cpu.output) == signature(gpu.output)
    assert cpu.ensemble_scheduling == gpu.ensemble_scheduling


@pytest.mark.parametrize("ensemble", ["shrinkage", "covariance"])
def test_ensemble_maps_every_tensor_of_its_steps(ensemble: str) -> None:
    config = read(ensemble)
    assert [tensor.name for tensor in config.input] == INPUTS
    assert [t.name for t in config.input if not t.optional] == ["PANEL", "UNIVERSES"]
    types = {t.name: (t.data_type, tuple(t.dims)) for t in config.input}
    for step in config.ensemble_scheduling.step:
        model = read(step.model_name)
        batch = () if model.max_batch_size == 0 else (-1,)
        assert set(step.input_map) == {t.name for t in model.input}
        for tensor in model.input:
            assert types[step.input_map[tensor.name]] == (tensor.data_type, batch + tuple(tensor.dims))
        produced = {t.name: (t.data_type, batch + tuple(t.dims)) for t in model.output}
        for name, mapped in step.output_map.items():
            types[mapped] = produced[name]
    for tensor in config.output:
        assert types[tensor.name] == (tensor.data_type, tuple(tensor.dims))
    # An output of the ensemble that a later step reads makes requests for some outputs deadlock.
    read_later = {mapped for step in config.ensemble_scheduling.step for mapped in step.input_map.values()}
    assert not read_later & {t.name for t in config.output}


def test_shapes_follow_the_kernels() -> None:
    for k in (1, 2, 3):
        member = read(f"member_{k}")
        assert list(member.input[0].dims) == [N_FEATURES]
        assert list(member.output[0].dims) == [N_PARAMETERS]
        assert member.max_batch_size == MAX_UNIVERSES


def test_committed_members_read_the_published_features() -> None:
    digests = set()
    for k in (1, 2, 3):
        path = REPOSITORY / f"member_{k}" / "1" / "model.onnx"
        assert Member(path).metadata["features"] == ",".join(FEATURE_NAMES)
        digests.add(path.read_bytes())
    assert len(digests) == 3


def test_a_member_that_was_changed_or_comes_from_another_export_is_refused(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(REPOSITORY, repository)
    members = [repository / f"member_{k}" / "1" / "model.onnx" for k in (1, 2, 3)]
    first, second = members[0].read_bytes(), members[1].read_bytes()
    members[0].write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    with pytest.raises(ManifestError, match=r"member_1/1/model.onnx is not the file that .*manifest.json names"):
        Member(members[0])
    members[0].write_bytes(second)
    with pytest.raises(ManifestError, match="is not the file"):
        Member(members[0])
    Member(members[2])
    write_manifest(repository, members[:2])
    Member(members[0])
    with pytest.raises(ManifestError, match=r"does not name member_3/1/model.onnx"):
        Member(members[2])
    (repository / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"there is no .*manifest.json"):
        Member(members[1])
