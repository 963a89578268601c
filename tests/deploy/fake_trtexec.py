# SPDX-License-Identifier: Apache-2.0
"""Stands in for trtexec where there is no GPU: its "plan" is the ONNX file itself, which it runs in ONNX Runtime.

It proves how builds are supervised, and nothing about TensorRT. FAKE_TRTEXEC, words separated by spaces, says what is
to go wrong; FAKE_CALLS is a file that receives one line of options a call.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from sigmahat_kernels.manifest import write_manifest


def main() -> None:
    """Do what the options say."""
    options = dict(option.partition("=")[::2] for option in sys.argv[1:])
    faults = os.environ.get("FAKE_TRTEXEC", "").split()
    banner = os.environ.get("FAKE_BANNER", "[TensorRT v110100] [b106]")
    print(f"&&&& RUNNING TensorRT.trtexec {banner} # trtexec {' '.join(sys.argv[1:])}", flush=True)
    if calls := os.environ.get("FAKE_CALLS"):
        with open(calls, "a") as file:
            file.write(" ".join(sys.argv[1:]) + "\n")
    if "--onnx" in options:
        build(options, faults)
    elif "--loadEngine" in options:
        run(options, faults)


def build(options: dict[str, str], faults: list[str]) -> None:
    """Write what trtexec writes."""
    if os.environ.get("FAKE_FAULTY_MODEL", "") not in options["--onnx"]:
        faults = []
    if "slow" in faults:
        time.sleep(60)
    if "refuse" in faults:
        print("[11/22/2026-12:00:00] [E] [TRT] Quantized constant is only allowed before DQ")
        sys.exit(1)
    if "no_plan" in faults:
        return
    content = Path(options["--onnx"]).read_bytes()
    if "edit_source" in faults:
        path = Path(os.environ["FAKE_SOURCE"])
        path.write_bytes(path.read_bytes() + b"\x72\x00")  # one more, empty, metadata entry
        models = path.parents[2]
        write_manifest(models, sorted(models.glob("member_*/1/*.onnx")))  # as an export does
    padding = b"\0" * (1 << 20) if "large" in faults else b""
    Path(options["--saveEngine"]).write_bytes(content)
    if padding:
        Path(options["--saveEngine"]).with_suffix(".pad").write_bytes(padding)
    layers = layer_report(Path(options["--onnx"]), int8="float" not in faults)
    report = {"Layers": ["only a name"]} if "names_only" in faults else {"Layers": layers, "I/O Tensors": []}
    Path(options["--exportLayerInfo"]).write_text(json.dumps(report))
    timings = Path(options["--timingCacheFile"])
    timings.write_bytes((timings.read_bytes() if timings.exists() else b"timings:") + b"+")


def layer_report(path: Path, int8: bool) -> list[dict[str, object]]:
    """One layer a product, as TensorRT 11 describes them, the last quantised one in float if not `int8`."""
    from sigmahat_deploy.engines.graph import read_graph

    graph = read_graph(path)
    kinds = dict.fromkeys(graph.int8_products, "Int8") | dict.fromkeys(graph.float_products, "Float")
    if not int8 and graph.int8_products:
        kinds[graph.int8_products[-1]] = "Float"
    return [
        {
            "Name": f"{name}_myl0_1",
            "LayerType": "gemm",
            "Inputs": [{"Name": "x", "Datatype": kind, "Format": "Row major linear format"}],
            "Metadata": f"[ONNX Layer: {name}]\u001f[ONNX Layer: {name}_quantised]",
        }
        for name, kind in kinds.items()
    ]


def run(options: dict[str, str], faults: list[str]) -> None:
    """Answer with ONNX Runtime, in the JSON of ``--exportOutput``."""
    import numpy as np
    import onnxruntime

    name, _, path = options["--loadInputs"].partition(":")
    n, width = map(int, options["--shapes"].partition(":")[2].split("x"))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    settings.add_session_config_entry("session.disable_quant_qdq", "1")  # no int8 product of TensorRT's saturates
    session = onnxruntime.InferenceSession(options["--loadEngine"], settings, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    (values,) = session.run(None, {name: np.fromfile(path, np.float32).reshape(n, width)})
    if "wrong" in faults:
        values = values + 0.02
    if "tail" in faults:  # right on average, wrong in one row of 50
        values[25::50] += 0.1
    if "nan" in faults:
        values[0, 0] = np.nan
    if "short" in faults:
        values = values[:, :-1]
    text = {"name": output, "dimensions": "x".join(map(str, values.shape)), "values": values.ravel().tolist()}
    Path(options["--exportOutput"]).write_text(json.dumps([text]))


if __name__ == "__main__":
    main()
