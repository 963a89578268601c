# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: arrows point one way, and the thin client stays thin."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "sigmahat_kernels": ROOT / "feature_kernels" / "sigmahat_kernels",
    "sigmahat_client": ROOT / "client" / "sigmahat_client",
    "sigmahat_trainer": ROOT / "trainer" / "sigmahat_trainer",
    "sigmahat_deploy": ROOT / "deploy" / "sigmahat_deploy",
}
ARROWS = {
    "sigmahat_kernels": set(),
    "sigmahat_client": {"sigmahat_kernels"},
    "sigmahat_trainer": {"sigmahat_kernels"},
    "sigmahat_deploy": {"sigmahat_client", "sigmahat_kernels"},
    "model_repository": {"sigmahat_kernels"},
}
LENT: dict[str, set[str]] = {
    # Single modules that a package may import beside: the one reader of files of returns;
    "sigmahat_trainer": {"sigmahat_client.intake.files"},
    # closed forms and portfolios of NumPy alone, which need no torch.
    "sigmahat_deploy": {
        "sigmahat_trainer.baselines.closed_form",
        "sigmahat_trainer.data.dataset",
        "sigmahat_trainer.evaluation.portfolios",
    },
}
ROOMS: dict[str, dict[str, set[str]]] = {
    # Whose files a room may import, beside its own and those that lie beside the rooms.
    "sigmahat_trainer": {
        "data": set(),
        "model": set(),
        "training": {"data", "model"},
        "search": {"data", "model", "training"},
        "export": {"data", "model"},
        "baselines": {"data", "model", "training"},
        "evaluation": {"baselines", "data", "export"},
        "commands": {"baselines", "data", "evaluation", "export", "model", "search", "training"},
    },
    "benchmarks": {"accuracy": set(), "speed": set(), "reliability": set()},
}
THIRD_PARTY = {
    # onnxruntime, cupy, numba and Triton's own module are imported where they are needed, by those who have them.
    "sigmahat_kernels": {
        "numpy",
        "threadpoolctl",
        "onnxruntime",
        "cupy",
        "numba",
        "llvmlite",
        "triton_python_backend_utils",
    },
    # numpy and tritonclient come with it; the others are imported by the functions and modules that are about them.
    "sigmahat_client": {
        "numpy",
        "tritonclient",
        "grpc",
        "pandas",
        "pyarrow",
        "sklearn",
        "skfolio",
        "opentelemetry",
        "matplotlib",
    },
}


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(full module name, first part) of everything a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or "", (node.module or "").split(".")[0]


def folder_of(package: str) -> Path:
    return PACKAGES.get(package, ROOT / package)


def files_of(package: str) -> list[Path]:
    files = sorted(folder_of(package).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("package", ARROWS)
def test_arrows(package: str) -> None:
    allowed = ARROWS[package] | {package}
    for path in files_of(package):
        for module, first in imports(path):
            lent = module in LENT.get(package, set())
            assert first not in PACKAGES or first in allowed or lent, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize(
    ("package", "room"),
    [(package, room) for package, rooms in ROOMS.items() for room in (*rooms, None)],
    ids=lambda name: name or "beside the rooms",
)
def test_arrows_between_rooms(package: str, room: str | None) -> None:
    folder, rooms = folder_of(package), ROOMS[package]
    allowed = set() if room is None else rooms[room] | {room}
    files = sorted(folder.glob("*.py") if room is None else (folder / room).rglob("*.py"))
    assert files
    for path in files:
        for module, first in imports(path):
            if first == package:
                _, *inner = module.split(".")
                assert inner, f"{path.relative_to(ROOT)} imports {module} as a whole"
                assert inner[0] not in rooms or inner[0] in allowed, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_are_all_there_are_and_point_one_way(package: str) -> None:
    assert {path.parent.name for path in folder_of(package).glob("*/__init__.py")} == ROOMS[package].keys()
    TopologicalSorter(ROOMS[package]).prepare()  # raises CycleError


@pytest.mark.parametrize("package", ARROWS)
def test_nothing_that_is_shipped_imports_the_benchmarks(package: str) -> None:
    for path in files_of(package):
        assert "benchmarks" not in {first for _, first in imports(path)}, path.relative_to(ROOT)


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_third_party_imports(package: str) -> None:
    for path in files_of(package):
        for module, first in imports(path):
            known = first in sys.stdlib_module_names or first in PACKAGES or first in THIRD_PARTY[package]
            assert known, f"{path.relative_to(ROOT)} imports {module}"


def test_the_client_reads_only_the_kernels_plain_part() -> None:
    plain = {
        f"sigmahat_kernels.{name}"
        for name in ("asset_statistics", "cost", "parameters", "request", "returns", "stale", "status", "targets")
    }
    for path in files_of("sigmahat_client"):
        if path.name == "local.py":  # is the whole pipeline, and imported only by those who ask for it
            continue
        for module, first in imports(path):
            assert first != "sigmahat_kernels" or module in plain, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize(
    ("module", "kept_out"),
    [
        (
            "sigmahat_client",
            {
                "pandas",
                "pyarrow",
                "sklearn",
                "opentelemetry",
                "torch",
                "onnxruntime",
                "tritonclient",
                "grpc",
                "threadpoolctl",
            },
        ),
        ("sigmahat_kernels.features", {"torch", "onnxruntime", "cupy", "pandas", "numba"}),
        ("sigmahat_deploy.cli", {"torch", "pandas", "tritonclient", "numpy"}),
        # What the demo and the report read of the trainer, with nothing installed but the extras `serve` or `report`.
        *(
            (f"sigmahat_trainer.{name}", {"torch", "scipy", "arch", "optuna", "matplotlib"})
            for name in ("baselines.closed_form", "data.dataset", "evaluation.portfolios")
        ),
    ],
)
def test_imports_stay_light(module: str, kept_out: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert module.split(".")[0] in loaded
    assert not kept_out & set(loaded)
