# SPDX-License-Identifier: Apache-2.0
"""Every test here asks for `cupy`, so that each is counted as skipped, with the reason, where there is no GPU."""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.fixture
def cupy() -> ModuleType:
    """The library, on a machine where it finds a GPU."""
    library = pytest.importorskip("cupy", reason="needs sigmahat[gpu]")
    if not library.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return library
