# SPDX-License-Identifier: Apache-2.0
"""What ``import cupy`` finds on the pretended node."""

from __future__ import annotations

import sys

from without_gpu.pretended_node import cupy_of_the_node

sys.modules[__name__] = cupy_of_the_node()
