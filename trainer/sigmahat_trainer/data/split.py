# SPDX-License-Identifier: Apache-2.0
"""Which days of a panel are learned from, which are chosen by, and which are left for the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console

    from sigmahat_trainer.data.panels import ReturnPanel

TRAIN_UNTIL, VALIDATE_UNTIL = "2012-12-31", "2015-12-31"
"""Last days of what is learned from and of what is chosen by; all later ones are for the test."""


class PanelSplit(NamedTuple):
    """Panels cut to the days that may be used."""

    training: list[ReturnPanel]  # windows and their holding periods end by the last row
    validation: list[ReturnPanel]  # so do these; their holding periods begin after the last day of training


class Period(NamedTuple):
    """Days on which portfolios are held, ISO; None = no bound."""

    first: str
    last: str | None
    part: Literal["validation", "test"] | None = None  # None: these days whatever the panel

    def of(self, panel: ReturnPanel) -> Period:
        """The same part of this panel: other days if it begins after those of training."""
        if self.part == "validation":
            return self._replace(last=validation_end(panel, TRAIN_UNTIL, VALIDATE_UNTIL))
        if self.part == "test":
            return self._replace(first=max(self.first, day_after(validation_end(panel, TRAIN_UNTIL, VALIDATE_UNTIL))))
        return self


def validation_end(panel: ReturnPanel, train_until: str, validate_until: str) -> str:
    """Last day (ISO) of a panel by which may be chosen.

    That is `validate_until`; but of a panel without a day up to `train_until`, which trains nothing, the last day of
    its first third.
    """
    if not len(panel.dates) or panel.dates[0] <= np.datetime64(train_until, "D"):
        return validate_until
    return str(panel.dates[max(len(panel.dates) // 3, 1) - 1])


def day_after(day: str) -> str:
    """The next day of the calendar, both ISO."""
    return str(np.datetime64(day, "D") + 1)


PERIODS = {
    "validation": Period(day_after(TRAIN_UNTIL), VALIDATE_UNTIL, "validation"),
    "test": Period(day_after(VALIDATE_UNTIL), None, "test"),
}


def split_panels(
    panels: Sequence[ReturnPanel],
    *,
    train_until: str = TRAIN_UNTIL,
    validate_until: str = VALIDATE_UNTIL,
    console: Console | None = None,
) -> PanelSplit:
    """Cut panels to the days of training and of validation.

    Parameters
    ----------
    panels : sequence of ReturnPanel
    train_until, validate_until : str
        ISO dates, see `validation_end`.
    console : Console, optional
        Where to say which panels begin too late to train.
    """
    training = [panel for panel in (panel.between(None, train_until) for panel in panels) if len(panel.dates)]
    validation = [panel.between(None, validation_end(panel, train_until, validate_until)) for panel in panels]
    late = [
        f"{panel.name} (to {cut.dates[-1]})"
        for panel, cut in zip(panels, validation, strict=True)
        if len(cut.dates) and cut.dates[0] > np.datetime64(train_until, "D")
    ]
    if late and console is not None:
        console.print(
            f"begin after {train_until}, train nothing and validate on their first third: {', '.join(late)}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    return PanelSplit(training, validation)
