# SPDX-License-Identifier: Apache-2.0
"""Which library an array belongs to, told without importing CuPy."""

from __future__ import annotations

import subprocess
import sys
import types

import numpy as np

from sigmahat_kernels.backend import array_namespace, to_numpy


class DeviceArray:
    """Stands in for `cupy.ndarray`: it lives elsewhere, and `get` copies it to the host."""

    def __init__(self, host):
        self.host = host

    def get(self):
        return self.host.copy()


def test_numpy_arrays_belong_to_numpy():
    assert array_namespace(np.zeros(3)) is np


def test_cupy_arrays_belong_to_cupy(monkeypatch):
    cupy = types.SimpleNamespace(ndarray=DeviceArray)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert array_namespace(DeviceArray(np.zeros(3))) is cupy
    assert array_namespace(np.zeros(3)) is np


def test_cupy_is_never_imported():
    code = (
        "import sys, numpy; from sigmahat_kernels import features, assemble, combine, backend;"
        "backend.array_namespace(numpy.zeros(3)); backend.to_numpy(numpy.zeros(3)); sys.exit('cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_to_numpy_leaves_host_arrays_alone_and_fetches_others():
    host = np.arange(3)
    assert to_numpy(host) is host
    assert to_numpy(DeviceArray(host)).tolist() == [0, 1, 2]
    assert to_numpy([1, 2]).tolist() == [1, 2]
