# SPDX-License-Identifier: Apache-2.0
"""Which release of the model answered, until when it was taught, and what it is not for."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sigmahat_deploy.report.errors import ReportError
from sigmahat_kernels.status import USUAL_ASSETS, USUAL_ROWS

CARD = "model_card.json"
LIMITS = (
    f"Taught on daily returns of {USUAL_ASSETS[0]} to {USUAL_ASSETS[1]} assets over {USUAL_ROWS[0]} to "
    f"{USUAL_ROWS[1]:,} rows; other frequencies, sizes and lengths are answered, and flagged.",
    "For portfolios held for a month or so: it says nothing of expected returns, nor of tails beyond a covariance.",
    "Its panels are of firms that survived, so crises are milder in them than they were.",
    "Expected error, regime and confidence are trained and only partly calibrated: stressed months are announced too "
    "often.",
    "Regulatory capital wants a validation of your own, on your own portfolios.",
)
"""After the model card."""


class Release(NamedTuple):
    """What is known of the model."""

    version: str  # of sigmahat
    source: str  # where the estimates came from
    card: str  # which card the rest is of, empty if there is none
    commit: str
    members: int
    train_until: str
    validate_until: str
    panels: list[str]


def release(source: str, model_repository: Path) -> Release:
    """Read the model card beside the members, if there is one.

    Raises
    ------
    ReportError
        If it is there and cannot be read.
    """
    version = metadata.version("sigmahat")
    path = model_repository / CARD
    if not path.is_file():
        return Release(version, source, "", "", 0, "", "", [])
    try:
        card = json.loads(path.read_text())
        return Release(
            version,
            source,
            str(path),
            str(card["commit"])[:12],
            int(card["config"]["members"]),
            card["train_until"],
            card["validate_until"],
            [panel["panel"] for panel in card["data"]],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path} is no model card: {error!r}") from error
