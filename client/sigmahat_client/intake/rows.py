# SPDX-License-Identifier: Apache-2.0
"""Rows and their dates: the one reader of indices, whichever door they come through."""

from __future__ import annotations

import datetime
import re
import sys
from typing import Any, NamedTuple

import numpy as np

from sigmahat_client.intake.arrays import as_array, integers, require, shown
from sigmahat_kernels.status import InvalidRequest

WANTED = "dates must be days such as 2019-01-31, or times such as 2019-01-31 16:00"

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY = re.compile(
    r"(?:(?P<y>\d{4})(?P<mark>[-/.])(?P<m>\d{1,2})(?P=mark)(?P<d>\d{1,2})|(?P<y2>\d{4})(?P<m2>\d\d)(?P<d2>\d\d)"
    r"|(?P<d3>\d{1,2})[- ](?P<m3>[A-Za-z]{3})[a-z]*[- ](?P<y3>\d{4}))"
    r"(?:[T ](?P<H>\d{1,2}):(?P<M>\d\d)(?::(?P<S>\d\d)(?P<f>\.\d+)?)?)? ?(?P<zone>Z|UTC|[+-]\d\d:?(?:\d\d)?)?"
)
_MONTH = re.compile(r"(?P<y>\d{4})-(?P<m>\d\d)")
_QUARTER = re.compile(r"(?P<y>\d{4})[- ]?[Qq](?P<q>[1-4])|[Qq](?P<q2>[1-4])[- ](?P<y2>\d{4})")
_LIKE_A_DATE = re.compile(r"\d{1,4}[-/. ]\d{1,2}[-/. ]\d{1,4}|\d{8}")
_FIRST_NUMBER, _LAST_NUMBER = 18000101, 22001231
"""Whole numbers between these may be days written as yyyymmdd; no panel has as many rows."""


class Moment(NamedTuple):
    """When a row was: by the clock where the exchange is, and for all clocks."""

    wall: np.datetime64  # microseconds
    instant: np.datetime64  # the same, in UTC where an offset is known


class Rows(NamedTuple):
    """What names the rows of a panel, checked."""

    days: np.ndarray | None  # (n_rows,) int32 since 1970-01-01, strictly increasing; None: no dates, or intraday
    times: np.ndarray | None  # (n_rows,) datetime64[us] as the exchange's clock shows them, to name rows by

    @property
    def intraday(self) -> bool:
        """Whether rows are times within days."""
        return self.days is None and self.times is not None

    @property
    def stamps(self) -> np.ndarray | None:
        """Days, or times within days, as datetime64[us]; None without dates."""
        return self.times if self.days is None else self.days.astype("datetime64[D]").astype("datetime64[us]")

    def name(self, row: int) -> str:
        """A row as messages call it."""
        return f"row {row}" if self.times is None else f"row {row} ({_shown(self.times[row])})"


def index_rows(index: Any, n_rows: int) -> Rows:
    """Read the index of a frame, or what else came with the returns; one that holds no dates is none.

    Dates are a DatetimeIndex with or without a time zone, a PeriodIndex (its last days), `datetime.date` and its kin,
    or text. A row counts for the day that it has where the exchange is. Times within days, more than one on most days,
    are intraday: they must increase, and say nothing of the season.

    Raises
    ------
    InvalidRequest
        If dates do not strictly increase, if only some of them can be read, or if there is more than one level.
    """
    levels = getattr(index, "nlevels", 1)
    require(
        levels == 1,
        f"returns must have one row a date and one column an asset, got rows named by {levels} levels",
    )
    read = _read(index, numbers_are_days=False)
    return Rows(None, None) if read is None else _checked(*read, n_rows)


def given_rows(dates: Any, n_rows: int) -> Rows:
    """Read dates that the caller names as such, as `index_rows` does; whole numbers are days since 1970-01-01.

    Raises
    ------
    InvalidRequest
        Also where there are no dates in it.
    """
    read = _read(dates, numbers_are_days=True)
    if read is None:
        kind = getattr(dates, "dtype", None) or as_array("dates", dates).dtype
        raise InvalidRequest(f"{WANTED}, or whole days since 1970-01-01, got {kind}")
    return _checked(*read, n_rows)


def row_at(bound: Any, times: np.ndarray | None) -> int:
    """Row number that bounds a window: that of the first row that is not before a date, or the number as it is.

    Raises
    ------
    InvalidRequest
        If it is neither, or the rows have no dates.
    """
    if isinstance(bound, int | np.integer) and not isinstance(bound, bool):
        return int(bound)
    moment = _moment(bound)
    if moment is None or moment.wall != moment.instant:  # in another zone than the exchange's, perhaps
        raise InvalidRequest(f"a window should start and stop at a date or a row number, got {shown(bound)}")
    if times is None:
        raise InvalidRequest(f"a window starts or stops at {shown(bound)}, but the returns have no dates")
    return int(np.searchsorted(times, moment.wall))


def parse_time(text: str) -> Moment | None:
    """Read one date or time that can be meant in one way only; None if it is something else.

    Months and quarters stand for their last day.

    >>> str(parse_time("20200102").wall)
    '2020-01-02T00:00:00.000000'
    >>> str(parse_time("2020Q1").wall.astype("datetime64[D]")), parse_time("02/01/2020")
    ('2020-03-31', None)
    """
    text = text.strip()
    for pattern, months in ((_MONTH, 1), (_QUARTER, 3)):
        if match := pattern.fullmatch(text):
            found = match.groupdict()
            first = int(found["m"]) if months == 1 else 3 * int(found["q"] or found["q2"]) - 2
            if not 1 <= first <= 12:
                return None
            year = int(found["y"] or found["y2"])
            end = np.datetime64(f"{year:04}-{first:02}", "M") + np.timedelta64(months, "M")
            wall = end.astype("datetime64[D]").astype("datetime64[us]") - np.timedelta64(1, "D")
            return Moment(wall, wall)
    match = _DAY.fullmatch(text)
    if match is None:
        return None
    found = match.groupdict()
    year, day = (int(found[k] or found[f"{k}2"] or found[f"{k}3"]) for k in "yd")
    name = found["m"] or found["m2"] or found["m3"]
    hour, minute, second = (int(found[k] or 0) for k in "HMS")
    microsecond = int(1e6 * float(found["f"] or 0))
    try:
        month = int(name) if name.isdigit() else _MONTHS.index(name.lower()) + 1
        date = datetime.datetime(year, month, day, hour, minute, second, microsecond)
    except ValueError:  # no such day, month or hour
        return None
    wall = np.datetime64(date, "us")
    return Moment(wall, wall - _offset(found["zone"]))


def _offset(zone: str | None) -> np.timedelta64:
    if zone in (None, "Z", "UTC"):
        return np.timedelta64(0, "us")
    assert zone is not None
    digits = zone[1:].replace(":", "").ljust(4, "0")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return np.timedelta64(-minutes if zone[0] == "-" else minutes, "m")


def _read(index: Any, *, numbers_are_days: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Days, the exchange's clock and instants of the rows; None where they are something else."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(index, pandas.Series):
        index = pandas.Index(index)
    if pandas is not None and isinstance(index, pandas.PeriodIndex):
        start, end = (index.to_timestamp(how=how).to_numpy("datetime64[us]") for how in ("start", "end"))
        return end.astype("datetime64[D]"), start, start
    if getattr(index, "tz", None) is not None:
        wall = index.tz_localize(None).to_numpy("datetime64[us]")
        return wall.astype("datetime64[D]"), wall, index.tz_convert(None).to_numpy("datetime64[us]")
    values = as_array("dates", index)
    if values.dtype.kind == "M":
        wall = values.astype("datetime64[us]")
        return wall.astype("datetime64[D]"), wall, wall
    if values.dtype.kind in "iu":
        return _from_numbers(values, numbers_are_days=numbers_are_days)
    if values.dtype.kind not in "OUT":  # T: NumPy 2's strings
        return None
    return _from_objects(values.tolist(), required=numbers_are_days)


def _from_numbers(values: np.ndarray, *, numbers_are_days: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    if not numbers_are_days:
        if not len(values) or values.min() < _FIRST_NUMBER or values.max() > _LAST_NUMBER:
            return None
        return _from_objects([str(value) for value in values.tolist()], required=False)
    days = integers("dates", values, values.shape).astype("datetime64[D]")
    wall = days.astype("datetime64[us]")
    return days, wall, wall


def _from_objects(values: list[Any], *, required: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    moments = [_moment(value) for value in values]
    for row, (value, moment) in enumerate(zip(values, moments, strict=True)):
        if moment is None:
            if not required and not any(moments) and not any(map(_like_a_date, values)):
                return None
            raise InvalidRequest(f"{WANTED}, got {value!r} in row {row}")
    walls, instants = (np.array([m[i] for m in moments if m is not None], "datetime64[us]") for i in (0, 1))
    return walls.astype("datetime64[D]"), walls, instants


def _moment(value: Any) -> Moment | None:
    if isinstance(value, str):
        return parse_time(value)
    if hasattr(value, "end_time"):  # a pandas.Period
        value = value.end_time.normalize()
    if value != value:  # NaT
        return None
    if isinstance(value, datetime.datetime):
        wall = np.datetime64(value.replace(tzinfo=None), "us")
        offset = value.utcoffset()
        return Moment(wall, wall if offset is None else wall - np.timedelta64(offset))
    if isinstance(value, datetime.date | np.datetime64):
        wall = np.datetime64(value, "us")
        return Moment(wall, wall)
    return None


def _like_a_date(value: Any) -> bool:
    return isinstance(value, datetime.date) or (isinstance(value, str) and bool(_LIKE_A_DATE.search(value)))


def _checked(days: np.ndarray, wall: np.ndarray, instants: np.ndarray, n_rows: int) -> Rows:
    require(days.shape == (n_rows,), f"dates must have shape ({n_rows},), got {days.shape}")
    for row in np.flatnonzero(np.isnat(wall))[:1]:
        raise InvalidRequest(f"dates must be known for every row, got none in row {row}")
    steps = np.diff(instants)
    _refuse_first(steps <= np.timedelta64(0, "us"), wall, "strictly increase")
    if (wall[1:] <= wall[:-1]).any():  # an hour that comes twice, when daylight saving ends
        wall = instants
    if (days[1:] > days[:-1]).all():
        return Rows(integers("dates", days.astype(np.int64), days.shape), wall)
    if np.median(steps.astype(np.int64)) >= np.timedelta64(1, "D") / np.timedelta64(1, "us"):
        _refuse_first(days[1:] <= days[:-1], wall, "be one a day, or times of which most days have several")
    return Rows(None, wall)


def _refuse_first(bad: np.ndarray, wall: np.ndarray, wanted: str) -> None:
    for row in np.flatnonzero(bad)[:1].tolist():
        found = f"got {_shown(wall[row + 1])} in row {row + 1} after {_shown(wall[row])} in row {row}"
        raise InvalidRequest(f"dates must {wanted}, {found} ({bad.sum()} such rows)")


def _shown(time: np.datetime64) -> str:
    day = time.astype("datetime64[D]")
    return str(day) if time == day else str(time.astype("datetime64[s]")).replace("T", " ")
