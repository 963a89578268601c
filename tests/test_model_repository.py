# SPDX-License-Identifier: Apache-2.0
"""The model repository parses as Triton would, fits the kernels, and is one contract on both kinds of hardware."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from sigmahat_deploy.engines.build import add_model
from sigmahat_deploy.engines.builders import Profile
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.features import FEATURE_NAMES, N_FEATURES
from sigmahat_kernels.manifest import ManifestError, write_manifest
from sigmahat_kernels.market import MARKET
from sigmahat_kernels.members import Member, MemberError, member_folders
from sigmahat_kernels.parameters import N_PARAMETERS, split_parameters
from sigmahat_kernels.pipeline import Pipeline, features_and_status
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import MAX_UNIVERSES, read_request
from sigmahat_kernels.risk import measure_portfolios
from sigmahat_kernels.status import WarningFlag

REPOSITORY = Path(__file__).parents[1] / "model_repository"
MEMBERS = tuple(member_folders(REPOSITORY))
LAST_STEPS = {"shrinkage": [], "covariance": ["assemble"], "risk": ["measure"]}
"""Ensemble -> the steps that its chain has behind `combine`."""
ENSEMBLES = tuple(LAST_STEPS)
OF_MATRICES = ("assemble", "measure")
CHAIN = ("features", *MEMBERS, "combine", *OF_MATRICES)
INPUTS = ["PANEL", "UNIVERSES", "WINDOWS", "MARKET", "DATES", "BLOCKS"]
POSITIONS = ["WEIGHTS", "PORTFOLIOS"]


def read(model: str, form: str = "config.pbtxt") -> model_config_pb2.ModelConfig:
    return text_format.Parse((REPOSITORY / model / form).read_text(), model_config_pb2.ModelConfig())


def signature(tensors: object) -> list[tuple[object, ...]]:
    return [(t.name, t.data_type, tuple(t.dims), getattr(t, "optional", False)) for t in tensors]  # type: ignore[attr-defined]


def warm_up_tensors(model: str, warm_up: model_config_pb2.ModelWarmup) -> dict[str, np.ndarray]:
    """The tensors that Triton makes of a warm-up; those from files must fill their shape exactly."""
    types = {
        model_config_pb2.TYPE_FP32: np.float32,
        model_config_pb2.TYPE_FP64: np.float64,
        model_config_pb2.TYPE_INT32: np.int32,
    }
    tensors = {}
    for name, source in warm_up.inputs.items():
        tensors[name] = np.zeros(source.dims, types[source.data_type])
        if source.input_data_file:
            values = np.fromfile(REPOSITORY / model / "warmup" / source.input_data_file, types[source.data_type])
            tensors[name] = values.reshape(source.dims)
        else:
            assert source.zero_data  # random data are random bytes, so NaN and worse
    return tensors


def test_all_models_are_there() -> None:
    """On a CPU the ensembles have one step, on a GPU a chain of them."""
    assert {path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")} == {"estimate", *ENSEMBLES}
    assert {path.parts[-3] for path in REPOSITORY.glob("*/configs/gpu.pbtxt")} == {*CHAIN, *ENSEMBLES}


@pytest.mark.parametrize("model", ENSEMBLES)
def test_both_kinds_of_hardware_have_one_signature(model: str) -> None:
    cpu, gpu = read(model), read(model, "configs/gpu.pbtxt")
    assert cpu.name == gpu.name == model
    assert cpu.max_batch_size == gpu.max_batch_size
    assert signature(cpu.input) == signature(gpu.input)
    assert signature(cpu.output) == signature(gpu.output)
    assert [step.model_name for step in cpu.ensemble_scheduling.step] == ["estimate"]
    chain = ["features", *MEMBERS, "combine", *LAST_STEPS[model]]
    assert [step.model_name for step in gpu.ensemble_scheduling.step] == chain


def test_the_one_step_takes_and_gives_what_the_chain_does() -> None:
    """Each tensor under the name, type and shape that it has where a step of the chain reads or publishes it."""
    step, chain = read("estimate"), [read(model, "configs/gpu.pbtxt") for model in CHAIN]
    read_by_chain = {row for model in chain for row in signature(model.input)}
    given_by_chain = {row for model in chain for row in signature(model.output)}
    assert set(signature(step.input)) <= read_by_chain
    assert [tensor.name for tensor in step.input] == [*INPUTS, *POSITIONS]
    assert set(signature(step.output)) <= given_by_chain
    of_ensembles = [row for model in ("covariance", "risk") for row in signature(read(model).output)]
    assert signature(step.output) == list(dict.fromkeys(of_ensembles))


@pytest.fixture(scope="module")
def with_fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository to which `sigmahat engines build --fused` has added its model."""
    copy = tmp_path_factory.mktemp("fused") / "model_repository"
    shutil.copytree(REPOSITORY, copy)
    add_model(copy)
    return copy


def test_one_engine_for_all_members_keeps_the_signature(with_fused: Path) -> None:
    """Ensembles answer alike; what has no form of its own for the one engine is not part of them."""
    for model in ("features", *OF_MATRICES):
        assert read(model, "configs/gpu_fused.pbtxt") == read(model, "configs/gpu.pbtxt")
    for ensemble, last in LAST_STEPS.items():
        three, one = read(ensemble, "configs/gpu.pbtxt"), read(ensemble, "configs/gpu_fused.pbtxt")
        assert signature(three.input) == signature(one.input)
        assert signature(three.output) == signature(one.output)
        steps = [step.model_name for step in one.ensemble_scheduling.step]
        assert steps == ["features", "fused", "combine", *last]
    three, one = read("combine", "configs/gpu.pbtxt"), read("combine", "configs/gpu_fused.pbtxt")
    assert signature(three.output) == signature(one.output)
    assert [t.name for t in one.input] == ["WEIGHTED", "ROW_STATUS", "ROW_ASSET"]
    added = text_format.Parse((with_fused / "fused" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    member = read("member_1", "configs/gpu.pbtxt")
    assert added.name == "fused"
    assert signature(added.input) == signature(member.input)
    assert signature(added.output) == [("WEIGHTED", model_config_pb2.TYPE_FP32, (N_PARAMETERS + 1,), False)]
    assert (added.optimization, added.max_batch_size) == (member.optimization, member.max_batch_size)


@pytest.mark.parametrize("form", ["config.pbtxt", "configs/gpu.pbtxt", "configs/gpu_fused.pbtxt"])
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_ensemble_maps_every_tensor_of_its_steps(ensemble: str, form: str, with_fused: Path) -> None:
    def read(model: str) -> model_config_pb2.ModelConfig:
        path = with_fused / model / (form if (with_fused / model / form).exists() else "config.pbtxt")  # as Triton does
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())

    config = read(ensemble)
    assert [tensor.name for tensor in config.input] == INPUTS + POSITIONS * (ensemble == "risk")
    assert [t.name for t in config.input if not t.optional] == ["PANEL", "UNIVERSES"]
    types = {t.name: (t.data_type, tuple(t.dims)) for t in config.input}
    for step in config.ensemble_scheduling.step:
        model = read(step.model_name)
        batch = () if model.max_batch_size == 0 else (-1,)
        # The one step answers all ensembles, and is given only what each of them takes.
        beyond = set(POSITIONS) if step.model_name == "estimate" and ensemble != "risk" else set()
        assert set(step.input_map) == {t.name for t in model.input} - beyond
        for tensor in (t for t in model.input if t.name not in beyond):
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
    for name in MEMBERS:
        member = read(name, "configs/gpu.pbtxt")
        assert list(member.input[0].dims) == [N_FEATURES]
        assert list(member.output[0].dims) == [N_PARAMETERS]
        assert member.max_batch_size == MAX_UNIVERSES


def test_committed_members_read_the_published_features() -> None:
    digests = set()
    for folder in member_folders(REPOSITORY).values():
        path = folder / "model.onnx"
        assert Member(path).metadata["features"] == ",".join(FEATURE_NAMES)
        digests.add(path.read_bytes())
    assert len(digests) == len(MEMBERS)


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


# ----------------------------------------------------------------------------------------------------- the generator


def test_configurations_are_what_the_layout_says() -> None:
    written = runpy.run_path(str(REPOSITORY / "make_configurations.py"))["configurations"](len(MEMBERS))
    committed = {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in REPOSITORY.rglob("*.pbtxt")}
    assert written == committed


def make_configurations(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "make_configurations.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_repository_takes_any_number_of_members(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(REPOSITORY, repository)
    before = contents(repository)
    assert make_configurations(repository).returncode == 0
    assert contents(repository) == before
    for n_members in (5, 1, 3):
        result = make_configurations(repository, "--members", str(n_members))
        assert result.returncode == 0, result.stderr
        members = [f"member_{k}" for k in range(1, n_members + 1)]
        assert sorted(path.name for path in repository.glob("member_*")) == members
        configs = {
            path.parts[-3]: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
            for path in repository.glob("*/configs/gpu.pbtxt")
        }
        assert [t.name for t in configs["combine"].input if t.name.startswith("MEMBER_")] == [
            name.upper() for name in members
        ]
        for ensemble, last in LAST_STEPS.items():
            steps = [step.model_name for step in configs[ensemble].ensemble_scheduling.step]
            assert steps == ["features", *members, "combine", *last]
    assert {name: content for name, content in before.items() if ".onnx" not in name} == {
        name: content for name, content in contents(repository).items() if ".onnx" not in name
    }
    result = make_configurations(repository, "--members", "0")
    assert result.returncode == 2
    assert "an ensemble has at least 1 member, got 0" in result.stderr


def test_a_pipeline_has_the_members_of_the_manifest(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    shutil.copytree(REPOSITORY, repository)
    files = sorted(repository.glob("member_*/1/*.onnx"))
    write_manifest(repository, [file for file in files if "member_1" in file.parts or "member_2" in file.parts])
    assert len(Pipeline(repository).members) == 2
    write_manifest(repository, files)
    shutil.rmtree(repository / "member_3")
    with pytest.raises(MemberError, match=r"no member at .*member_3/1/model.onnx"):
        Pipeline(repository)
    write_manifest(repository, [])
    with pytest.raises(MemberError, match="names no member: run `sigmahat export`"):
        Pipeline(repository)


# --------------------------------------------------------------------------------------------- the form for a GPU


def assert_graphs(model: model_config_pb2.ModelConfig) -> None:
    """Each batch size lies between the bounds of one graph, and both name the shape that they are compared in."""
    shape = {tensor.name: list(tensor.dims) for tensor in model.input}
    next_batch = 1
    for spec in model.optimization.cuda.graph_spec:
        assert spec.graph_lower_bound.batch_size == next_batch <= spec.batch_size
        for bound in (spec, spec.graph_lower_bound):
            assert {name: list(value.dim) for name, value in bound.input.items()} == shape
        next_batch = spec.batch_size + 1
    assert next_batch == model.max_batch_size + 1


def test_every_batch_of_the_one_engine_has_its_cuda_graph(with_fused: Path) -> None:
    fused = (with_fused / "fused" / "config.pbtxt").read_text()
    assert_graphs(text_format.Parse(fused, model_config_pb2.ModelConfig()))


@pytest.mark.parametrize("member", MEMBERS)
def test_every_batch_of_a_member_has_its_cuda_graph(member: str) -> None:
    gpu = read(member, "configs/gpu.pbtxt")
    assert (gpu.backend, gpu.default_model_filename) == ("tensorrt", "model.plan")
    assert [group.kind for group in gpu.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_GPU]
    assert gpu.optimization.cuda.graphs
    assert_graphs(gpu)
    assert gpu.max_batch_size <= Profile().largest
    assert [warm_up.batch_size for warm_up in gpu.model_warmup] == [1, gpu.max_batch_size]
    for warm_up in gpu.model_warmup:
        assert {name: value.shape for name, value in warm_up_tensors(member, warm_up).items()} == {
            "FEATURES": tuple(gpu.input[0].dims)
        }


def test_warm_up_runs_what_requests_run() -> None:
    """On the CPU: the same tensors through the same functions; the universes are good, so that nothing is left out."""
    (features,) = read("features", "configs/gpu.pbtxt").model_warmup
    tensors = {name.lower(): values for name, values in warm_up_tensors("features", features).items()}
    request = read_request(**tensors)
    table, status, _ = features_and_status(request)
    assert status.tolist() == [[0]] * len(request.universes)
    assert np.isfinite(np.delete(table.features, [FEATURE_NAMES.index(name) for name in MARKET], axis=1)).all()
    (n_rows, how_many), sizes = np.unique(np.diff(request.windows), return_counts=True), request.universes >= 0
    assert len(np.unique(request.windows[:, 0])) == 3  # two windows of one length
    assert max(how_many) >= 2
    assert min(n_rows) <= max(sizes.sum(axis=1))  # fewer rows than assets
    assert np.isnan(request.panel).any()
    assert np.isfinite(request.panel[:, request.universes[0, :16]]).all()
    for flag in (WarningFlag.NEAR_COPY, WarningFlag.DOMINANT_RETURN):
        assert (table.warnings.of_asset & flag).any()
    for model in OF_MATRICES:
        (warm_up,) = read(model, "configs/gpu.pbtxt").model_warmup
        tensors = warm_up_tensors(model, warm_up)
        given = {t.name: tuple(t.dims) for t in read(model, "configs/gpu.pbtxt").input}
        assert tensors.keys() == given.keys() - {"WEIGHTS"}
        for name, values in tensors.items():
            assert len(values.shape) == len(given[name])
            assert all(wanted in (-1, got) for got, wanted in zip(values.shape, given[name], strict=True)), name
        internal = ("PARAMETERS_INTERNAL", "BLOCK_INTENSITY_INTERNAL", "STATUS_INTERNAL")
        parameters, blocks, status = (tensors.pop(name) for name in internal)
        books = tensors.pop("PORTFOLIOS", None)
        request = read_request(**{name.lower(): values for name, values in tensors.items()})
        heads = split_parameters(parameters)
        if model == "assemble":
            covariance = assemble(request, heads, status, block_intensity=blocks)
            held = request.universes >= 0
            np.testing.assert_array_equal(np.isfinite(covariance), held[:, :, None] & held[:, None, :])
            assert covariance[0, 0, 0] > 0
        else:
            risk = measure_portfolios(
                request, heads, status, read_portfolios(request, portfolios=books), block_intensity=blocks
            )
            assert risk.portfolio_status.shape == (len(request.universes), 1)
            assert (risk.diagonal[request.universes >= 0] > 0).all()


@pytest.mark.parametrize("model", ["features", *OF_MATRICES])
def test_tensors_on_the_device_may_stay_there(model: str) -> None:
    gpu = read(model, "configs/gpu.pbtxt")
    assert gpu.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"
    assert [group.kind for group in gpu.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_GPU]
    assert not gpu.instance_group[0].gpus  # named none: one on each GPU of the node


def test_what_takes_turns_on_a_cpu_has_a_queue_of_its_own() -> None:
    assert not read("estimate").HasField("dynamic_batching")
    assert [(group.kind, group.count) for group in read("estimate").instance_group] == [
        (model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)
    ]
    for model in CHAIN:
        gpu = read(model, "configs/gpu.pbtxt")
        assert gpu.HasField("dynamic_batching")
        # While a GPU computes for one call, the host prepares the next.
        assert [group.count for group in gpu.instance_group] == [2 if model == "features" else 1]
