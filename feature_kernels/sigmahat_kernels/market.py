# SPDX-License-Identifier: Apache-2.0
"""Market-wide indicators that the caller sends: VIX, turnover, illiquidity, days to the next event."""

from __future__ import annotations

import numpy as np

from sigmahat_kernels.request import MARKET_COLUMNS

MARKET = {
    "has_vix": "1 if there is a VIX value at or before the window's last row",
    "log_vix": "ln(VIX / 20), last value",
    "vix_percentile": "share of all VIX values so far that are at most the last one; [0, 1]",
    "vix_change": "ln(last VIX / average of the 21 values up to it)",
    "has_turnover": "1 if there is a turnover value",
    "turnover_change": "ln(average of the last 21 turnover values / average of the last 252)",
    "turnover_percentile": "share of all turnover values so far that are at most the last one",
    "turnover_volatility": "standard deviation of ln turnover over its last 63 values",
    "has_illiquidity": "1 if there is an illiquidity value",
    "illiquidity_change": "ln(average of the last 21 illiquidity values / average of the last 252)",
    "illiquidity_percentile": "share of all illiquidity values so far that are at most the last one",
    "has_event": "1 if the days to the next event are known on the window's last row",
    "event_proximity": "exp(-trading days to the next event / 5); (0, 1]",
}
"""Feature name -> definition. All are 0 where the indicator is missing; a VIX, turnover or illiquidity that is not
positive counts as missing. Only rows before the window's end are read, from the first row sent on."""

_SHORT, _QUARTER, _LONG = 21, 63, 252
_EVENT_SCALE = 5.0


def market_features(market: np.ndarray | None, stop: int) -> dict[str, float]:
    """The features listed in `MARKET` for a window that ends before row `stop`.

    Parameters
    ----------
    market : array of shape (n_rows, up to 4) or None
        In the order of `request.MARKET_COLUMNS`; NaN = missing. A missing value is skipped, so the last known one
        stands in for it (forward fill); percentiles run over all rows so far (expanding window).
    """
    features = dict.fromkeys(MARKET, 0.0)
    if market is None:
        return features
    known = {}
    for column, name in enumerate(MARKET_COLUMNS[: market.shape[1]]):
        values = market[:stop, column]
        known[name] = values[np.isfinite(values)].astype(np.float64)
    for name in ("vix", "turnover", "illiquidity"):
        values = known.get(name, np.empty(0))
        values = values[values > 0]
        if len(values):
            features[f"has_{name}"] = 1.0
            features[f"{name}_percentile"] = float((values <= values[-1]).mean())
            recent = values[-1] if name == "vix" else values[-_SHORT:].mean()
            usual = values[-_SHORT:].mean() if name == "vix" else values[-_LONG:].mean()
            features[f"{name}_change"] = float(np.log(recent / usual))
            if name == "vix":
                features["log_vix"] = float(np.log(values[-1] / 20.0))
            if name == "turnover":
                features["turnover_volatility"] = float(np.log(values[-_QUARTER:]).std())
    # A count of days grows stale within a day, so it is not carried forward.
    if "days_to_event" in known and np.isfinite(market[stop - 1, MARKET_COLUMNS.index("days_to_event")]):
        features["has_event"] = 1.0
        features["event_proximity"] = float(np.exp(-max(known["days_to_event"][-1], 0.0) / _EVENT_SCALE))
    return features
