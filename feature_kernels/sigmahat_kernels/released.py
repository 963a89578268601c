# SPDX-License-Identifier: Apache-2.0
"""Where the model repository is that comes with this package: the one default of all that need a model."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def released_repository() -> Path:
    """Folder of the models that were released with these kernels.

    In the wheel it lies inside this package; an editable install uses that of its checkout, of which it is a copy.
    Where neither is there, the path is that of the wheel, and whoever opens it says what is missing.
    """
    in_wheel, in_checkout = _PACKAGE / "model_repository", _PACKAGE.parents[1] / "model_repository"
    return in_wheel if in_wheel.is_dir() or not in_checkout.is_dir() else in_checkout
