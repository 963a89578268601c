# SPDX-License-Identifier: Apache-2.0
"""Where every number of the documentation comes from: run a module of it with ``python -m benchmarks.ROOM.NAME``."""
