# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with what a report is asked to show."""

from __future__ import annotations


class ReportError(ValueError):
    """The files do not fit each other, or there is nothing to show; the message is one line."""
