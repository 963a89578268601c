# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime's own int8 products change in answers on this processor, into ``results/int8_products.json``.

``python -m benchmarks.accuracy.int8_products`` answers universes of the demo's panel by the members with their Q/DQ
pairs as they are written, which is what is served, and with the pairs fused into int8 products, which saturate on x86
processors without VNNI.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.figures import RESULTS, ROOT, four_digits, print_figures, write_figures
from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.combine import combine
from sigmahat_kernels.members import MEMBER_FILES, member_folders, session_on_cpu
from sigmahat_kernels.minimum_variance import long_short
from sigmahat_kernels.parameters import intensity_of, split_parameters
from sigmahat_kernels.pipeline import features_and_status
from sigmahat_kernels.request import read_request

RESULT = RESULTS / "int8_products.json"
PANEL = ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz"
N_UNIVERSES, N_ASSETS, N_OBS = 400, 60, 252
ROUNDS = 20


def fused(path: Path) -> onnxruntime.InferenceSession:
    """As ONNX Runtime opens a file unless it is told otherwise; on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def milliseconds(sessions: list[Any], features: np.ndarray) -> float:
    """Least time that all members take, one after the other."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for session in sessions:
            session.run(None, {"FEATURES": features})
        times.append(time.perf_counter() - begin)
    return 1e3 * min(times)


def main() -> None:
    """Answer both ways, compare, write."""
    returns = np.load(PANEL)["ret"].astype(np.float32)
    rng = np.random.default_rng(0)
    whole = np.flatnonzero(~np.isnan(returns).any(axis=0))
    universes = np.stack([np.sort(rng.choice(whole, N_ASSETS, replace=False)) for _ in range(N_UNIVERSES)])
    stop = rng.integers(N_OBS, len(returns) + 1, N_UNIVERSES)
    request = read_request(returns, universes.astype(np.int32), np.stack([stop - N_OBS, stop], 1).astype(np.int32))
    table, status, _ = features_and_status(request)
    paths = [folder / MEMBER_FILES["int8"] for folder in member_folders(ROOT / "model_repository").values()]
    figures: dict[str, float] = {}
    heads, matrices = {}, {}
    for name, opened in {"fused": fused, "as_written": session_on_cpu}.items():
        sessions = [opened(path) for path in paths]
        answers = [session.run(None, {"FEATURES": table.features})[0] for session in sessions]
        heads[name] = split_parameters(combine(answers, status).parameters)
        matrices[name] = assemble(request, heads[name], status[:, 0]).astype(np.float64)
        figures[f"{name}_ms"] = milliseconds(sessions, table.features)
        figures[f"{name}_single_universe_ms"] = milliseconds(sessions, table.features[:1])
    intensity = np.abs(intensity_of(heads["fused"]) - intensity_of(heads["as_written"]))
    weights = long_short(matrices["as_written"])
    variance = {name: np.einsum("ni,nij,nj->n", weights, matrix, weights) for name, matrix in matrices.items()}
    volatility = 50.0 * np.abs(np.log(variance["fused"] / variance["as_written"]))
    for name, change in {"intensity_change": intensity, "volatility_change_percent": volatility}.items():
        figures |= {f"{name}_mean": change.mean(), f"{name}_most": change.max()}
    figures = {name: four_digits(float(value)) for name, value in figures.items()}
    print_figures(figures)
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    vnni = any(flag in flags for flag in ("avx512_vnni", "avx_vnni"))
    write_figures(RESULT, figures, vnni=vnni, n_universes=N_UNIVERSES, n_assets=N_ASSETS, n_obs=N_OBS)


if __name__ == "__main__":
    main()
