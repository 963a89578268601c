# SPDX-License-Identifier: Apache-2.0
"""What several commands share: periods of the data."""

from __future__ import annotations

TRAIN_UNTIL, VALIDATE_UNTIL = "2012-12-31", "2015-12-31"
"""Last days of what is learned from and of what is chosen by; all later ones are for the test."""
