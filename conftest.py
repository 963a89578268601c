# SPDX-License-Identifier: Apache-2.0
"""Which modules the doctests cannot import here."""

# They import the module that exists only inside Triton's Python processes; tests/kernels/test_triton.py stands in
# for it.
collect_ignore = [
    *(f"feature_kernels/sigmahat_kernels/{name}.py" for name in ("sliced", "triton")),
    "tests/without_gpu/node",  # an import takes away what a bare node has not
]
