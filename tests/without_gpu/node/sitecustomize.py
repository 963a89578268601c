# SPDX-License-Identifier: Apache-2.0
"""A GPU node that has no more than CuPy, PyTorch, NumPy and pytest: first on PYTHONPATH, with `cupy.py` beside it."""

from __future__ import annotations

import sys

for _missing in ("tritonclient", "triton", "tensorrt", "tensorrt_rtx", "numba", "onnx", "onnxruntime"):
    sys.modules[_missing] = None  # type: ignore[assignment]  # so an import of it fails as of one that is not there
