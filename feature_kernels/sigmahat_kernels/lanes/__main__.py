# SPDX-License-Identifier: Apache-2.0
"""``python -m sigmahat_kernels.lanes``: compile all kernels for this CPU, so that no later process waits for them."""

from __future__ import annotations

import sys

from sigmahat_kernels.lanes.compiled import can_compile


def main() -> None:
    """Exit code 1 if there is no compiler, or it fails."""
    if not can_compile():
        sys.exit(
            "no kernels are compiled: numba, which sigmahat[lanes] brings, is not installed, switched off, or fails"
        )
    from sigmahat_kernels.lanes.kept import kept_in

    print(f"compiled kernels are in {kept_in() or 'memory alone'}")


if __name__ == "__main__":
    main()
