# SPDX-License-Identifier: Apache-2.0
"""The model card, for programs and for people: what the members were trained on, how well, and what INT8 changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.members import MEAN_LIMIT, MEMBER_FILES, P99_LIMIT
from sigmahat_trainer.config import PreprocessingConfig, settings_of
from sigmahat_trainer.data.dataset import SIZES, WINDOW_LENGTHS
from sigmahat_trainer.export.gate import Difference
from sigmahat_trainer.model.network import CLIP

CARD, READABLE_CARD = "model_card.json", "MODEL_CARD.md"

_OF_THE_RUN_ALONE = ("members", "run")
"""Parts of a run's metrics that its card leaves out: the course of each member, the digests of its data and code."""


def describe(
    metrics: Mapping[str, Any],
    differences: Sequence[Mapping[str, Difference]],
    intensity_difference: Mapping[str, float],
    clipped: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    """The card of an ensemble.

    Parameters
    ----------
    metrics : mapping
        Of the training run.
    differences : sequence of mappings
        Of each member, what each precision changed.
    intensity_difference : mapping
        What INT8 changed in the ensemble's intensity.
    clipped : sequence of mappings
        Of each member, `gate.clipped_share`.
    """
    last = [
        {name: history[-1][name] for name in map("validation_{}".format, _LOSSES)} for history in metrics["members"]
    ]
    kept = {name: value for name, value in metrics.items() if name not in _OF_THE_RUN_ALONE}
    kept["validation_of_constants"] = {name: metrics["validation_of_constants"][name] for name in _LOSSES}
    by_precision = {
        f"{name.replace('-', '_')}_difference": [member[name] for member in differences] for name in MEMBER_FILES
    }
    return {
        **kept,
        "validation_of_members": last,
        **by_precision,
        "intensity_difference": dict(intensity_difference),
        "clipped_inputs": [_most_clipped(share) for share in clipped],
    }


def write_card(card: Mapping[str, Any], model_repository: Path) -> None:
    """Write the card beside the members, as JSON and as a page."""
    page = readable(card)
    (model_repository / CARD).write_text(json.dumps(card, indent=1) + "\n")
    (model_repository / READABLE_CARD).write_text(page)


def read_card(model_repository: Path) -> dict[str, Any]:
    """The card beside the members: what they were trained on, the learned constants, what INT8 changed."""
    card: dict[str, Any] = json.loads((model_repository / CARD).read_text())
    return card


def readable(card: Mapping[str, Any]) -> str:
    """The card as Markdown, from ``model_card.md.jinja``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sigmahat_trainer.export", ""),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.jinja").render(
        card,
        n_features=len(FEATURE_NAMES),
        windows=WINDOW_LENGTHS,
        sizes=SIZES,
        losses=_LOSSES,
        mean_limit=MEAN_LIMIT,
        p99_limit=P99_LIMIT,
        clip=CLIP,
        preprocessing=_switched_on(card["config"].get("preprocessing", {})),
    )


def _switched_on(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    usual = settings_of(PreprocessingConfig())
    return {name: value for name, value in preprocessing.items() if value != usual[name]}


def _most_clipped(share: Mapping[str, float]) -> dict[str, Any]:
    most = max(share, key=share.__getitem__)
    return {"share": fmean(share.values()), "most_feature": most, "most_share": share[most]}


_LOSSES = {
    "decision": "ln realised variance of the minimum-variance portfolio",
    "qlike": "QLIKE of random portfolios and of that one",
    "alone": "the same, shrinking toward one target at its head's own intensity",
    "confidence": "cross-entropy of the confidences",
    "condition": "squared error of the log10 condition number",
    "expected_error": "Gaussian negative log likelihood of ln(realised / forecast volatility)",
    "regime": "cross-entropy of the regime probabilities",
}
