# SPDX-License-Identifier: Apache-2.0
"""Over how many periods of the returns risk is told."""

from __future__ import annotations

import math

import numpy as np

from sigmahat_client.intake.arrays import require
from sigmahat_client.intake.rows import Rows

_YEARS = ((0.5, 1.2, 365.0), (1.2, 2.0, 252.0), (5.0, 9.0, 52.0), (26.0, 33.0, 12.0), (80.0, 100.0, 4.0))
"""Mean days from row to row, from and below -> rows of a year: every day, trading days, weeks, months, quarters."""


def periods_of(horizon: float, annualise: bool | float, rows: Rows) -> float:
    """Periods by which the variance of one is multiplied.

    Parameters
    ----------
    horizon : float
        Periods ahead.
    annualise : bool or float
        False: over the horizon. A number: as of a year of so many periods, whatever the horizon; True: as many as the
        dates of the rows say.

    Raises
    ------
    InvalidRequest
        If a number is not positive and finite, or there are no dates that tell.
    """
    require(0 < horizon < math.inf, f"horizon must be a positive number of periods, got {horizon}")
    if annualise is False:
        return float(horizon)
    if annualise is not True:
        require(0 < annualise < math.inf, f"annualise must be a positive number of periods a year, got {annualise}")
        return float(annualise)
    remedy = "say how many periods a year has, such as annualise=252"
    days = np.empty(0) if rows.days is None else rows.days
    require(len(days) > 1, f"annualise=True needs dates: {remedy}")
    distance = float(np.ptp(days)) / (len(days) - 1)
    found = [year for least, below, year in _YEARS if least <= distance < below]
    require(bool(found), f"annualise=True knows no rows that are {distance:.3g} days apart: {remedy}")
    return found[0]
