# SPDX-License-Identifier: Apache-2.0
"""Constants as `fit_constants` might find them, for tests that need some and not the best."""

from __future__ import annotations

CONSTANTS = {
    "target_intensity": [0.5, 0.1, 0.7],
    "target_weights": [0.4, 0.2, 0.4],
    "target_confidence": [0.5, 0.5, 0.5],
    "memory": [0.4],
    "factor_memory": [0.2],
    "volatility": [0.3, 0.5, 0.2, 0.1],
    "condition": [1.0],
    "expected_error": [0.1],
    "log_variance": [-2.0],
    "regime": [0.25, 0.25, 0.25, 0.25],
}
