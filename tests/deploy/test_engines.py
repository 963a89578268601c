# SPDX-License-Identifier: Apache-2.0
"""Builds of engines from end to end, with `fake_trtexec.py` in the place of trtexec: what is kept, linked, refused."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sigmahat_deploy.cli import main
from sigmahat_deploy.engines import builders, cache
from sigmahat_deploy.engines.build import Engine, build_engines, check_engines
from sigmahat_deploy.engines.builders import Profile, Trtexec, find_builder
from sigmahat_deploy.engines.device import Device, find_device
from sigmahat_deploy.engines.errors import EngineError
from sigmahat_deploy.engines.graph import read_graph
from sigmahat_kernels.manifest import MANIFEST, write_manifest
from sigmahat_kernels.parameters import N_PARAMETERS

COMMITTED = Path(__file__).parents[2] / "model_repository"
MEMBERS = ("member_1", "member_2", "member_3")
SMALL = Profile(1, 64, 128)
DEVICE = Device("NVIDIA-H200", "9.0", "580.159.03")
GPU = "NVIDIA H200, 9.0, 580.159.03"
FAKE_TRTEXEC = f'exec "{sys.executable}" "{Path(__file__).with_name("fake_trtexec.py")}" "$@"'
SIGMAHAT = [sys.executable, "-c", "from sigmahat_deploy.cli import main; main()", "engines", "build"]


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the engines of the committed members: most tests begin where they are there."""
    root = tmp_path_factory.mktemp("built")
    fake = executable(root / "bin" / "trtexec", FAKE_TRTEXEC)
    copy_members(root / "models")
    build_engines(root / "models", root / "cache", Trtexec(fake), DEVICE, profile=SMALL)
    return root / "cache"


@pytest.fixture
def repository(tmp_path: Path, built_once: Path) -> Path:
    """Models without links, beside a cache with their engines."""
    shutil.copytree(built_once, tmp_path / "cache")
    copy_members(tmp_path / "models")
    return tmp_path / "models"


def copy_members(models: Path) -> None:
    for member in MEMBERS:
        (models / member / "1").mkdir(parents=True)
        for file in (COMMITTED / member / "1").glob("*.onnx"):
            shutil.copy(file, models / member / "1")
        shutil.copytree(COMMITTED / member / "configs", models / member / "configs")
    shutil.copy(COMMITTED / MANIFEST, models)


def replace_file(path: Path, content: bytes) -> None:
    """As an export does: the manifest knows of it."""
    path.write_bytes(content)
    models = path.parents[2]
    write_manifest(models, sorted(models.glob("member_*/1/*.onnx")))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "calls"
    monkeypatch.setenv("FAKE_CALLS", str(path))
    return path


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def trtexec(tmp_path: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trtexec and an nvidia-smi on PATH."""
    executable(tmp_path / "bin" / "nvidia-smi", f'case "$1" in -L) ;; *) echo "{GPU}" ;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("TRT_VERSION", raising=False)
    return executable(tmp_path / "bin" / "trtexec", FAKE_TRTEXEC)


def build(repository: Path, trtexec: Path, **options: object) -> list[Engine]:
    return build_engines(repository, repository.parent / "cache", Trtexec(trtexec), DEVICE, profile=SMALL, **options)


def links(repository: Path) -> dict[str, Path]:
    return {path.parent.parent.name: path.readlink() for path in repository.glob("*/1/model.plan")}


def edit(repository: Path, member: str) -> bytes:
    """Change a member's file, though not its answers; return what it was."""
    path = repository / member / "1" / "model.onnx"
    before = path.read_bytes()
    replace_file(path, before + b"\x72\x00")  # one more, empty, metadata entry
    return before


def built(calls: Path) -> int:
    return sum("--onnx=" in line for line in calls.read_text().splitlines()) if calls.exists() else 0


def engines_command(repository: Path, *arguments: str) -> Result:
    folders = ["--model-repository", str(repository), "--cache", str(repository.parent / "cache")]
    return CliRunner().invoke(main, ["engines", arguments[0], *folders, *arguments[1:]])


# ---------------------------------------------------------------------------------------------------- what is built


def test_command_builds_proves_and_links_every_member(repository: Path, trtexec: Path, calls: Path) -> None:
    result = engines_command(repository, "build")
    assert result.exit_code == 0, result.output
    assert set(links(repository)) == set(MEMBERS)
    for member, plan in links(repository).items():
        source = repository / member / "1" / "model.onnx"
        graph = read_graph(source)
        entry = plan.parent
        assert entry == repository.parent / "cache" / (
            f"11.1.0.106-sm90-NVIDIA-H200-int8-1-4096-65536-{graph.sha256[:16]}"
        )
        assert plan.read_bytes() == source.read_bytes()  # the fake's plan is the file
        report = json.loads((entry / "report.json").read_text())
        assert report["onnx_sha256"] == graph.sha256
        assert report["device"]["compute_capability"] == "9.0"
        assert sorted(report["int8_products"]) == sorted(graph.int8_products)
        assert set(report["difference_from_onnxruntime"]) == {"1", "333", "4096"}
        assert all(value["p99"] < 1e-4 for value in report["difference_from_onnxruntime"].values())
    first = next(line for line in calls.read_text().splitlines() if "--onnx=" in line).split()
    n = read_graph(repository / "member_1" / "1" / "model.onnx").n_features
    for option in (f"--minShapes=FEATURES:1x{n}", f"--optShapes=FEATURES:4096x{n}", f"--maxShapes=FEATURES:65536x{n}"):
        assert option in first
    assert "--profilingVerbosity=detailed" in first
    assert "--stronglyTyped" not in first  # of TensorRT 10
    assert not list((repository.parent / "cache").glob("*.building-*"))
    # A second time there is nothing to build; and the check agrees.
    n_built = built(calls)
    assert engines_command(repository, "build").exit_code == 0
    assert built(calls) == n_built == 3
    assert engines_command(repository, "check").exit_code == 0


def test_options_of_tensorrt_10_and_11(
    repository: Path, trtexec: Path, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(repository, trtexec, fused=True)
    monkeypatch.setenv("FAKE_BANNER", "[TensorRT v101602] [b10]")
    (engine,) = build(repository, trtexec, fused=True)
    assert engine.plan.parent.name.startswith("10.16.2.10-sm90-")
    build_11, run_11, build_10, run_10 = (
        [line for line in calls.read_text().splitlines() if option in line][i]
        for i in (0, -1)
        for option in ("--onnx=", "--loadEngine=")
    )
    assert ("--stronglyTyped" in build_11, "--includeDataTransfers" in run_11) == (False, True)
    assert ("--stronglyTyped" in build_10, "--includeDataTransfers" in run_10) == (True, False)


def test_float16_and_the_way_back(repository: Path, trtexec: Path, calls: Path) -> None:
    build(repository, trtexec)
    int8 = links(repository)
    build(repository, trtexec, precision="fp16")
    assert all("-fp16-" in str(plan) for plan in links(repository).values())
    n_built = built(calls)
    assert not any(engine.built for engine in build(repository, trtexec))
    assert links(repository) == int8
    assert built(calls) == n_built


def test_fused_engine_is_a_model_of_its_own(repository: Path, trtexec: Path) -> None:
    build(repository, trtexec)
    members = links(repository)
    (engine,) = build(repository, trtexec, fused=True)
    assert engine.model == "fused"
    assert links(repository) == {**members, "fused": engine.plan}
    assert (repository / "fused" / "config.pbtxt").exists()


def test_changed_member_is_built_anew_and_its_old_engine_serves_a_rollback(
    repository: Path, trtexec: Path, calls: Path
) -> None:
    build(repository, trtexec)
    old = links(repository)
    before = edit(repository, "member_2")
    with pytest.raises(EngineError, match=r"member_2 has the engine .*run `sigmahat engines build`"):
        check_engines(repository, repository.parent / "cache", "11.1.0.106", DEVICE, profile=SMALL)
    assert [engine.built for engine in build(repository, trtexec)] == [False, True, False]
    assert links(repository)["member_2"] != old["member_2"]
    n_built = built(calls)
    replace_file(repository / "member_2" / "1" / "model.onnx", before)
    build(repository, trtexec)
    assert links(repository) == old
    assert built(calls) == n_built == 1


def test_engine_of_another_gpu_or_tensorrt_is_noticed(repository: Path, trtexec: Path) -> None:
    build(repository, trtexec)
    folder = repository.parent / "cache"
    check_engines(repository, folder, "11.1.0.106", DEVICE, profile=SMALL)
    with pytest.raises(EngineError, match=r"11.2.1.2-sm90-NVIDIA-H200.* wanted"):
        check_engines(repository, folder, "11.2.1.2", DEVICE, profile=SMALL)
    with pytest.raises(EngineError, match=r"NVIDIA-H200-MIG-1g.18gb-int8.* wanted"):
        check_engines(
            repository, folder, "11.1.0.106", DEVICE._replace(product="NVIDIA-H200-MIG-1g.18gb"), profile=SMALL
        )
    with pytest.raises(EngineError, match=r"has no engine at .*fused"):
        check_engines(repository, folder, "11.1.0.106", DEVICE, fused=True, profile=SMALL)


# -------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("refuse", r"(?s)failed with code 1:.*Quantized constant is only allowed before DQ"),
        ("no_plan", "wrote no plan for member_3.onnx"),
        ("float", r"1 of \d+ products of member_3.onnx are not int8 in the engine: node_linear_\d+"),
        ("names_only", "the layer report of member_3.onnx has no details"),
        ("wrong", r"member_3.onnx differs from ONNX Runtime on 1 rows: PARAMETERS by 0.0200 on average"),
        ("tail", r"differs from ONNX Runtime on 64 rows: PARAMETERS by 0.00\d+ on average and 0.1\d+ in the worst"),
        ("nan", "differs from ONNX Runtime on 1 rows: PARAMETERS by nan"),
        ("short", rf"answers 1 rows with PARAMETERS of shape \(1, {N_PARAMETERS - 1}\), \(1, {N_PARAMETERS}\) wanted"),
    ],
)
def test_bad_build_leaves_every_old_engine(
    repository: Path, trtexec: Path, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    build(repository, trtexec)
    old, entries = links(repository), sorted(path.name for path in (repository.parent / "cache").iterdir())
    edit(repository, "member_3")
    monkeypatch.setenv("FAKE_TRTEXEC", fault)
    with pytest.raises(EngineError, match=message):
        build(repository, trtexec)
    assert links(repository) == old
    assert all(plan.is_file() for plan in old.values())
    assert sorted(path.name for path in (repository.parent / "cache").iterdir()) == entries


def test_nothing_is_linked_unless_all_of_it_is_proven(
    repository: Path, trtexec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members of two trainings must not answer together."""
    build(repository, trtexec)
    old = links(repository)
    edit(repository, "member_1")
    edit(repository, "member_3")
    monkeypatch.setenv("FAKE_TRTEXEC", "refuse")
    monkeypatch.setenv("FAKE_FAULTY_MODEL", "member_3")
    with pytest.raises(EngineError, match="only allowed before DQ"):
        build(repository, trtexec)
    assert links(repository) == old
    monkeypatch.delenv("FAKE_TRTEXEC")
    assert [engine.built for engine in build(repository, trtexec)] == [False, False, True]  # the first was kept
    assert links(repository)["member_1"] != old["member_1"]


def test_member_that_changes_while_it_is_built(
    repository: Path, trtexec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(repository, "member_1")  # so that there is something to build
    monkeypatch.setenv("FAKE_TRTEXEC", "edit_source")
    monkeypatch.setenv("FAKE_SOURCE", str(repository / "member_1" / "1" / "model.onnx"))
    with pytest.raises(EngineError, match="the ONNX file of member_1 changed while its engine was built"):
        build(repository, trtexec)
    assert links(repository) == {}


@pytest.mark.parametrize("file", ["model.plan", "layers.json", "report.json"])
def test_truncated_cache_is_an_error_until_it_is_rebuilt(repository: Path, trtexec: Path, file: str) -> None:
    (engine, *_) = build(repository, trtexec)
    old = links(repository)
    damaged = engine.plan.with_name(file)
    os.truncate(damaged, damaged.stat().st_size // 2)
    with pytest.raises(EngineError, match=f"cached engine {engine.plan.parent} .*--rebuild"):
        build(repository, trtexec)
    assert links(repository) == old
    if file != "model.plan":
        return
    assert all(engine.built for engine in build(repository, trtexec, rebuild=True))
    assert not any(engine.built for engine in build(repository, trtexec))
    assert links(repository) == old


def test_timings_are_kept_and_damaged_ones_left_out(repository: Path, trtexec: Path) -> None:
    (timings,) = (repository.parent / "cache").glob("*.cache")
    assert timings.name == "timings-11.1.0.106-NVIDIA-H200.cache"
    assert timings.read_bytes() == b"timings:+++"
    build(repository, trtexec, fused=True)
    assert timings.read_bytes() == b"timings:++++"
    os.truncate(timings, 3)
    build(repository, trtexec, fused=True, rebuild=True)
    assert timings.read_bytes() == b"timings:+"


@pytest.mark.parametrize(("limit", "fault"), [(100_000, ""), (600_000, "large")])  # ours and TensorRT's writes fail
def test_full_disk(repository: Path, trtexec: Path, limit: int, fault: str) -> None:
    build(repository, trtexec)
    old, entries = links(repository), sorted(path.name for path in (repository.parent / "cache").iterdir())
    edit(repository, "member_1")
    done = subprocess.run(
        [*SIGMAHAT, "--model-repository", str(repository), "--cache", str(repository.parent / "cache")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={**os.environ, "FAKE_TRTEXEC": fault},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr.partition("Error:")[0]
    assert links(repository) == old
    assert sorted(path.name for path in (repository.parent / "cache").iterdir()) == entries


def test_plan_that_somebody_copied_there_is_not_overwritten(repository: Path, trtexec: Path) -> None:
    (repository / "member_2" / "1" / "model.plan").write_text("precious")
    with pytest.raises(EngineError, match=r"member_2/1/model\.plan is a file and no link"):
        build(repository, trtexec)
    assert (repository / "member_2" / "1" / "model.plan").read_text() == "precious"


def test_member_of_other_features_is_refused(repository: Path, trtexec: Path, calls: Path) -> None:
    path = repository / "member_1" / "1" / "model.onnx"
    replace_file(path, path.read_bytes().replace(b"log_assets", b"log_aztets"))
    with pytest.raises(EngineError, match="was trained on another list of features"):
        build(repository, trtexec)
    assert built(calls) == 0


# ------------------------------------------------------------------------------------------------------ two at once


def test_two_builds_at_once_build_once(repository: Path, trtexec: Path, calls: Path) -> None:
    command = [*SIGMAHAT, "--fused", "--model-repository", str(repository)]
    command += ["--cache", str(repository.parent / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sum("waiting for it" in text for text in said) == 1
    assert built(calls) == 1


def test_killed_build_leaves_nothing_that_hurts(repository: Path, trtexec: Path, calls: Path) -> None:
    folder = repository.parent / "cache"
    command = [*SIGMAHAT, "--model-repository", str(repository)]
    environment = {**os.environ, "FAKE_TRTEXEC": "slow"}
    process = subprocess.Popen([*command, "--cache", str(folder)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (calls.exists() and built(calls)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(folder.glob("*.building-*"))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert links(repository) == {}
    build(repository, trtexec, fused=True)
    assert not list(folder.glob("*.building-*"))
    assert set(links(repository)) == {"fused"}


def test_lock_gives_up_after_its_time(tmp_path: Path) -> None:
    told: list[bool] = []
    with (
        cache.locked(tmp_path, lambda: None),
        pytest.raises(EngineError, match=r"another process has been building engines in .* for more than 0.3 s"),
        cache.locked(tmp_path, lambda: told.append(True), timeout_s=0.3),
    ):
        pass
    assert told == [True]


# ----------------------------------------------------------------------------------------- the GPU and its TensorRT


def test_no_gpu(repository: Path, trtexec: Path) -> None:
    executable(trtexec.with_name("nvidia-smi"), "echo 'NVIDIA-SMI has failed: no driver' >&2; exit 9")
    result = engines_command(repository, "build")
    assert result.exit_code == 1
    assert "no usable NVIDIA GPU: nvidia-smi says: NVIDIA-SMI has failed: no driver" in result.output
    with pytest.raises(EngineError, match=r"no NVIDIA GPU here .* is not installed"):
        find_device("no-such-nvidia-smi")


@pytest.mark.parametrize(
    ("query", "listing", "product"),
    [
        (f"{GPU}\n{GPU}", "GPU 0: NVIDIA H200 (UUID: a)", "NVIDIA-H200"),
        ("Tesla T4, 7.5, 580.1", "GPU 0: Tesla T4 (UUID: a)", "Tesla-T4"),
        (GPU, "GPU 0: NVIDIA H200 (UUID: a)\n  MIG 1g.18gb     Device  0: (UUID: b)", "NVIDIA-H200-MIG-1g.18gb"),
        (f"{GPU}\nTesla T4, 7.5, 580.1", "", "GPUs of different kinds"),
        (GPU, "  MIG 1g.18gb Device 0: (b)\n  MIG 2g.35gb Device 1: (c)", "partitions of different sizes"),
        ("", "", "lists no GPU"),
    ],
)
def test_product_is_named_as_the_node_label_names_it(tmp_path: Path, query: str, listing: str, product: str) -> None:
    smi = executable(tmp_path / "nvidia-smi", f"case \"$1\" in -L) printf '{listing}' ;; *) printf '{query}' ;; esac")
    if " " in product:
        with pytest.raises(EngineError, match=product):
            find_device(str(smi))
    else:
        assert find_device(str(smi)).product == product


def test_builder_must_be_the_tensorrt_that_serves(
    repository: Path, trtexec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = engines_command(repository, "build", "--tensorrt-version", "11.2.1.2")
    assert result.exit_code == 1
    assert "builds with TensorRT 11.1.0.106, but Triton serves with 11.2.1.2" in result.output
    monkeypatch.setenv("TRT_VERSION", "11.1.0.106+cuda13.3")  # as images set it
    monkeypatch.setenv("FAKE_TRTEXEC", "refuse")
    assert "only allowed before DQ" in engines_command(repository, "build").output  # it came that far
    monkeypatch.setenv("FAKE_BANNER", "[TensorRT v8601]")
    result = engines_command(repository, "build")
    assert "TensorRT 8.6.1 builds no engines for sigmahat: 10 or 11 wanted" in result.output
    monkeypatch.setenv("FAKE_BANNER", "nothing")
    assert "does not say which TensorRT it belongs to" in engines_command(repository, "build").output


def test_no_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(builders, "IMAGE_TRTEXEC", tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="no TensorRT here: neither trtexec on PATH"):
        find_builder()
    with pytest.raises(EngineError, match="no trtexec at"):
        find_builder(tmp_path / "trtexec")
