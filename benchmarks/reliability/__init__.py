# SPDX-License-Identifier: Apache-2.0
"""Faults of the real service: `scenarios`, the `load` that they share and the `service` that they are done to.

`run` does all of them at full size; tests/served/test_reliability.py the same functions at a small one.
"""
