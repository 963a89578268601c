# SPDX-License-Identifier: Apache-2.0
"""Kernels for the CPU's vector units, compiled by numba where that is installed."""
