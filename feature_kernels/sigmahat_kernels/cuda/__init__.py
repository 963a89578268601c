# SPDX-License-Identifier: Apache-2.0
"""CUDA kernels (the .cu files), and the thin wrappers that launch them; imports CuPy only when it is to run."""
