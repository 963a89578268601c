# SPDX-License-Identifier: Apache-2.0
"""The one error of this package."""


class EngineError(RuntimeError):
    """An engine cannot be built or used; says why, and what to do. Engines that were linked before stay linked."""
