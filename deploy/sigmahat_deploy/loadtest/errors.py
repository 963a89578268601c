# SPDX-License-Identifier: Apache-2.0
"""What a caller of the load test can do something about."""


class LoadTestError(RuntimeError):
    """The load test cannot run; the message names the remedy."""
