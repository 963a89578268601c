# SPDX-License-Identifier: Apache-2.0
"""Panels from files: what is read, what is refused, and indicators that never see the future."""

from __future__ import annotations

import datetime
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sigmahat_client.intake.files import ENDINGS, UnreadableFile
from sigmahat_kernels.request import MARKET_COLUMNS
from sigmahat_kernels.returns import column_status
from sigmahat_kernels.stale import without_stale
from sigmahat_kernels.status import Status
from sigmahat_trainer.data.panels import ReturnPanel, load_panel, load_panels, market_indicators, panel_files

REAL_PANELS = Path(__file__).parents[3].parent / "shared" / "data"
VIX, TURNOVER, ILLIQUIDITY, DAYS_TO_EVENT = range(4)

# The third Fridays of fifteen months, from a calendar.
EXPIRIES = [
    datetime.date.fromisoformat(day)
    for day in (
        *(
            "2023-01-20",
            "2023-02-17",
            "2023-03-17",
            "2023-04-21",
            "2023-05-19",
            "2023-06-16",
            "2023-07-21",
            "2023-08-18",
        ),
        *("2023-09-15", "2023-10-20", "2023-11-17", "2023-12-15", "2024-01-19", "2024-02-16", "2024-03-15"),
    )
]


def weekdays(first, n):
    """`n` days from `first` on without Saturdays and Sundays."""
    return np.busday_offset(np.datetime64(first, "D"), np.arange(n), roll="forward")


def write_panel(path, *, n_rows=10, n_assets=3, seed=0, **changes):
    """Write a panel file; `changes` replace keys, or drop them where None."""
    rng = np.random.default_rng(seed)
    content = {
        "dates": weekdays("2023-01-02", n_rows),
        "ret": (0.01 * rng.standard_normal((n_rows, n_assets))).astype(np.float32),
        **changes,
    }
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return content


# ------------------------------------------------------------------------------------------------------------ files


def test_panel_is_read_as_it_was_written(tmp_path):
    returns = np.asfortranarray(np.array([[0.01, np.nan], [-0.02, 0.03]], np.float32))
    dates = np.array(["2023-01-02", "2023-01-03"], "datetime64[D]")
    write_panel(tmp_path / "uk.npz", ret=returns, dates=dates)
    panel = load_panel(tmp_path / "uk.npz")
    assert panel.name == "uk"
    np.testing.assert_array_equal(panel.returns, returns)
    assert panel.returns.dtype == np.float32
    assert panel.returns.flags["C_CONTIGUOUS"]  # windows are cut by rows
    np.testing.assert_array_equal(panel.dates, dates)
    assert panel.dates.dtype == np.dtype("datetime64[D]")
    assert panel.market.shape == (2, len(MARKET_COLUMNS))
    assert panel.market.dtype == np.float32
    assert np.isnan(panel.market[:, [VIX, TURNOVER, ILLIQUIDITY]]).all()
    np.testing.assert_array_equal(panel.market[:, DAYS_TO_EVENT], [14, 13])


def test_dates_of_a_finer_unit_are_days(tmp_path):
    nanoseconds = weekdays("2023-01-02", 10).astype("datetime64[ns]")
    write_panel(tmp_path / "uk.npz", dates=nanoseconds)
    np.testing.assert_array_equal(load_panel(tmp_path / "uk.npz").dates, weekdays("2023-01-02", 10))


def test_folder_holds_panels_by_name_and_the_vix_is_none(tmp_path):
    for name in ("us", "asia", "uk"):
        write_panel(tmp_path / f"{name}.npz", seed=len(name))
    np.savez(tmp_path / "vix_daily.npz", dates=weekdays("2023-01-02", 3), close=np.array([20.0, 21.0, 22.0]))
    (tmp_path / "notes.txt").write_text("not a panel")
    panels = load_panels([tmp_path])
    assert [panel.name for panel in panels] == ["asia", "uk", "us"]
    assert all(panel.market[0, VIX] == 20.0 for panel in panels)


def test_folder_without_panels_is_an_error(tmp_path):
    np.savez(tmp_path / "vix.npz", dates=weekdays("2023-01-02", 3), close=np.zeros(3))
    with pytest.raises(FileNotFoundError, match=r"no return panel \(\*\.csv, .*, \*\.npz\) in .*"):
        load_panels([tmp_path])


def test_folders_are_read_one_after_the_other_each_with_its_own_vix(tmp_path):
    for folder, names in {"home": ("us", "asia"), "abroad": ("brazil",)}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            write_panel(tmp_path / folder / f"{name}.npz", seed=len(name))
    np.savez(tmp_path / "home" / "vix.npz", dates=weekdays("2023-01-02", 1), close=np.array([20.0]))
    panels = load_panels([tmp_path / "home", tmp_path / "abroad"])
    assert [panel.name for panel in panels] == ["asia", "us", "brazil"]
    np.testing.assert_array_equal([panel.market[0, VIX] for panel in panels], [20.0, 20.0, np.nan])


def test_one_name_in_two_folders_is_refused(tmp_path):
    for folder in ("home", "abroad"):
        (tmp_path / folder).mkdir()
        write_panel(tmp_path / folder / "us.npz")
    with pytest.raises(UnreadableFile, match=r"/home/us\.npz and .*/abroad/us\.npz are panels of one name: rename"):
        load_panels([tmp_path / "home", tmp_path / "abroad"])


def test_one_folder_without_panels_among_others_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    write_panel(tmp_path / "us.npz")
    with pytest.raises(FileNotFoundError, match=r"no return panel .* in .*/empty"):
        load_panels([tmp_path, tmp_path / "empty"])


WRITERS = {
    ".csv": lambda table, path: table.to_csv(path),
    ".csv.gz": lambda table, path: table.to_csv(path),
    ".parquet": lambda table, path: table.to_parquet(path),
    ".feather": lambda table, path: table.rename_axis("date").reset_index().to_feather(path),
    ".npz": lambda table, path: np.savez(
        path, dates=table.index.to_numpy(), tickers=table.columns.to_numpy(str), ret=table.to_numpy()
    ),
}


def daily_returns(*, n_rows=60, n_assets=3, seed=0):
    """As a panel's own numbers, float32, with a gap."""
    returns = (0.01 * np.random.default_rng(seed).standard_normal((n_rows, n_assets))).astype(np.float32)
    returns[3, 1] = np.nan
    dates = pd.DatetimeIndex(weekdays("2023-01-02", n_rows))
    return pd.DataFrame(returns, dates, [f"A{i}" for i in range(n_assets)])


def test_every_ending_has_a_writer_here():
    assert WRITERS.keys() == set(ENDINGS)


@pytest.mark.parametrize("ending", WRITERS)
def test_every_kind_of_file_is_the_same_panel(tmp_path, ending):
    table = daily_returns()
    WRITERS[ending](table, tmp_path / f"my.market{ending}")
    panel = load_panel(tmp_path / f"my.market{ending}")
    assert panel.name == "my.market"
    np.testing.assert_array_equal(panel.returns, table.to_numpy())
    assert panel.returns.dtype == np.float32
    np.testing.assert_array_equal(panel.dates, table.index.to_numpy("datetime64[D]"))
    assert panel.dates.dtype == np.dtype("datetime64[D]")


def test_a_folder_may_mix_kinds_and_says_what_it_leaves(tmp_path):
    for name, ending in (("us", ".csv"), ("asia", ".parquet"), ("uk", ".npz")):
        WRITERS[ending](daily_returns(), tmp_path / f"{name}{ending}")
    (tmp_path / "vix.csv").write_text("date,vix\n2023-01-02,20\n2023-01-03,21\n")
    (tmp_path / "us_sectors.csv").write_text("ticker,sector\nA0,tech\n")
    (tmp_path / "notes.txt").write_text("not a panel")
    said = io.StringIO()
    panels = load_panels([tmp_path], Console(file=said, width=40))
    assert [panel.name for panel in panels] == ["asia", "uk", "us"]
    for panel in panels:
        np.testing.assert_array_equal(panel.market[:3, VIX], [20.0, 21.0, 21.0])
    (line,) = said.getvalue().splitlines()
    assert line == f"panels of {tmp_path}: asia.parquet, uk.npz, us.csv; not read: notes.txt, us_sectors.csv"


def test_a_folder_of_panels_alone_has_nothing_to_say(tmp_path):
    WRITERS[".csv"](daily_returns(), tmp_path / "us.csv")
    said = io.StringIO()
    load_panels([tmp_path], Console(file=said))
    assert said.getvalue() == ""


def test_two_panels_of_one_name_are_refused(tmp_path):
    for ending in (".csv", ".npz"):
        WRITERS[ending](daily_returns(), tmp_path / f"us{ending}")
    with pytest.raises(UnreadableFile, match=r"us\.csv and .*us\.npz are panels of one name: rename one"):
        load_panels([tmp_path])


def test_files_and_folders_are_panels_in_the_order_in_which_they_are_named(tmp_path):
    for name in ("home/us.csv", "home/uk.csv", "home/vix.csv", "abroad/asia.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        WRITERS[".csv"](daily_returns(), tmp_path / name)
    found = panel_files([tmp_path / "abroad" / "asia.csv", tmp_path / "home"])
    assert [path.name for path in found] == ["asia.csv", "uk.csv", "us.csv"]
    with pytest.raises(UnreadableFile, match=r"us\.csv and .*us\.csv are panels of one name: rename one"):
        panel_files([tmp_path / "home" / "us.csv", tmp_path / "home"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no return panel"):
        panel_files([tmp_path / "home", tmp_path / "empty"])


def prices(table):
    return 100 * (1 + table.fillna(0)).cumprod()


@pytest.mark.parametrize("ending", [".csv", ".npz"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (prices, "asset 'A0': the asset's values are too large for returns .* 3 of 3 assets are refused"),
        (lambda t: prices(t) / 1000, r"'A0': .*: levels \(prices, rates\), not returns \(0\.0.* 3 of 3 assets"),
        (lambda t: 100 * t, "asset 'A0': the asset's values are too large .*mean absolute value 0.* 3 of 3"),
        (lambda t: t.assign(A1=t["A1"].mask(t.index == t.index[7], -999)), r"'A1': .*-999 in 2023-01-11; 1 of 60"),
    ],
    ids=["prices", "rates", "percent", "a code for missing"],
)  # fmt: skip
def test_what_is_no_return_is_refused_as_the_service_does(tmp_path, spoil, words, ending):
    table = spoil(daily_returns())
    WRITERS[ending](table, tmp_path / f"uk{ending}")
    with pytest.raises(UnreadableFile, match=words) as raised:
        load_panel(tmp_path / f"uk{ending}")
    assert str(raised.value).startswith(f"{tmp_path / 'uk'}{ending}, asset 'A")
    assert "\n" not in str(raised.value)
    status = column_status(without_stale(table.to_numpy())[0], 1.4)
    assert status[1] not in (Status.GOOD, Status.SHORT_HISTORY, Status.CONSTANT_ASSET)


def test_an_infinite_return_is_refused(tmp_path):
    WRITERS[".npz"](daily_returns().replace(np.nan, np.inf), tmp_path / "uk.npz")
    with pytest.raises(UnreadableFile, match=r"asset 'A1': the asset has an infinite return.*inf in 2023-01-05"):
        load_panel(tmp_path / "uk.npz")


def test_assets_that_are_short_or_constant_stay(tmp_path):
    """They lived for a while only: no universe is drawn of them then."""
    table = daily_returns().assign(A0=0.0)
    table.loc[table.index[10] :, "A2"] = np.nan
    WRITERS[".csv"](table, tmp_path / "uk.csv")
    np.testing.assert_array_equal(load_panel(tmp_path / "uk.csv").returns, table.to_numpy())


def test_rows_within_a_day_are_refused(tmp_path):
    table = daily_returns()
    table.index = pd.date_range("2023-01-02 09:30", periods=len(table), freq="5min")
    WRITERS[".csv"](table, tmp_path / "uk.csv")
    with pytest.raises(UnreadableFile, match=r"uk\.csv: rows should be days, got times within a day: 2023-01-02 09:30"):
        load_panel(tmp_path / "uk.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("date,close,high\n2023-01-02,20,30\n", None),
        ("date,VIXCLS\n2023-01-02,20\n", None),
        ("date,now,later\n2023-01-02,20,30\n", r"vix\.csv: one column should hold the VIX, got now, later"),
        ("date,vix\nyesterday,20\n", r"vix\.csv: the first column should hold dates such as 2019-01-31"),
    ],
)
def test_the_vix_as_a_table(tmp_path, content, words):
    (tmp_path / "vix.csv").write_text(content)
    WRITERS[".csv"](daily_returns(), tmp_path / "uk.csv")
    if words is None:
        assert load_panel(tmp_path / "uk.csv").market[0, VIX] == 20.0
        return
    with pytest.raises(UnreadableFile, match=words):
        load_panel(tmp_path / "uk.csv")


def test_one_file_holds_the_vix(tmp_path):
    write_panel(tmp_path / "uk.npz")
    for name in ("vix.csv", "vix.npz"):
        (tmp_path / name).touch()
    with pytest.raises(UnreadableFile, match=r"vix\.csv and vix\.npz both hold the VIX: keep one"):
        load_panel(tmp_path / "uk.npz")


def test_volume_has_the_shape_of_returns(tmp_path):
    write_panel(tmp_path / "uk.npz", dollar_volume=np.ones((10, 2)))
    with pytest.raises(UnreadableFile, match=r"uk\.npz: dollar_volume has shape \(10, 2\), and ret \(10, 3\)"):
        load_panel(tmp_path / "uk.npz")


@pytest.mark.parametrize(
    ("dropped", "missing"),
    [({"ret": None}, "ret"), ({"dates": None}, "dates"), ({"dates": None, "ret": None}, "dates, ret")],
)
def test_missing_keys_are_named(tmp_path, dropped, missing):
    write_panel(tmp_path / "uk.npz", price=np.zeros(3), **dropped)
    with pytest.raises(UnreadableFile, match=rf"uk\.npz: there should be arrays dates and ret, but {missing} is not"):
        load_panel(tmp_path / "uk.npz")


@pytest.mark.parametrize("key", ["ret", "dates", "dollar_volume"])
def test_pickled_objects_are_refused(tmp_path, key):
    """A data file must not be able to run code."""
    objects = np.array([[0.01], [0.02]], object)
    write_panel(tmp_path / "uk.npz", **{"n_rows": 2, "n_assets": 1, key: objects})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_panel(tmp_path / "uk.npz")


def test_pickled_vix_is_refused(tmp_path):
    write_panel(tmp_path / "uk.npz")
    np.savez(tmp_path / "vix.npz", dates=weekdays("2023-01-02", 1), close=np.array([20.0], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_panel(tmp_path / "uk.npz")


# ------------------------------------------------------------------------------------------------------- indicators


def indicators(dates, *, returns=None, volume=None, vix=None):
    dates = np.array(dates, "datetime64[D]")
    returns = np.zeros((len(dates), 1), np.float32) if returns is None else np.asarray(returns, np.float32)
    if vix is not None:
        vix = (np.array(list(vix), "datetime64[D]"), np.array(list(vix.values()), float))
    return market_indicators(dates, returns, None if volume is None else np.asarray(volume, float), vix)


def test_vix_is_that_of_the_day_or_the_last_before_it_within_a_week():
    vix = {"2023-01-03": 21.0, "2023-01-05": 23.0, "2023-01-06": 24.0}
    dates = ["2023-01-02", "2023-01-03", "2023-01-04", "2023-01-05", "2023-01-09", "2023-01-13", "2023-01-14"]
    measured = indicators(dates, vix=vix)[:, VIX]
    # Before its first day unknown; on the 4th that of the 3rd, not that of the 5th; on the 13th just 7 days old.
    np.testing.assert_array_equal(measured, [np.nan, 21.0, 21.0, 23.0, 24.0, 24.0, np.nan])


def test_vix_of_later_days_changes_nothing():
    rng = np.random.default_rng(1)
    days = weekdays("2023-01-02", 60)
    values = rng.uniform(10, 30, 60)
    dates = weekdays("2022-12-20", 80)
    for cut in (5, 23, 59):
        whole = market_indicators(dates, np.zeros((80, 1)), None, (days, values))
        known = market_indicators(dates, np.zeros((80, 1)), None, (days[:cut], values[:cut]))
        past = dates < days[cut]
        np.testing.assert_array_equal(whole[past], known[past])


def test_unknown_indicators_are_nan():
    market = indicators(["2023-01-03"])
    assert np.isnan(market[0, [VIX, TURNOVER, ILLIQUIDITY]]).all()


def test_turnover_is_the_sum_of_what_was_traded():
    volume = [[1.0, 2.5, 4.0], [np.nan, 0.0, 3.0], [5.0, np.nan, np.nan]]
    market = indicators(weekdays("2023-01-02", 3), returns=np.full((3, 3), 0.01), volume=volume)
    np.testing.assert_allclose(market[:, TURNOVER], [7.5, 3.0, 5.0])


def test_illiquidity_is_the_median_over_assets_of_absolute_return_per_dollar():
    returns = [[0.01, -0.02, 0.09], [np.nan, 0.01, -0.03], [0.05, 0.02, 0.01]]
    volume = [[1.0, 4.0, 3.0], [2.0, np.nan, 10.0], [0.0, 4.0, np.nan]]
    market = indicators(weekdays("2023-01-02", 3), returns=returns, volume=volume)
    # 0.01, 0.005, 0.03; only the third asset has both; the first was not traded, the third's volume is unknown
    np.testing.assert_allclose(market[:, ILLIQUIDITY], [0.01, 0.003, 0.005], rtol=1e-6)


def test_a_day_without_any_volume_has_neither_turnover_nor_illiquidity():
    volume = [[1.0, 2.0], [np.nan, np.nan], [0.0, np.nan]]
    market = indicators(weekdays("2023-01-02", 3), returns=np.full((3, 2), 0.01), volume=volume)
    np.testing.assert_array_equal(np.isnan(market[:, [TURNOVER, ILLIQUIDITY]]), [[False] * 2, [True] * 2, [True] * 2])


def test_volume_is_read_from_the_file(tmp_path):
    volume = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32)
    returns = np.array([[0.01, -0.04], [0.03, 0.02]], np.float32)
    write_panel(tmp_path / "uk.npz", n_rows=2, ret=returns, dollar_volume=volume)
    market = load_panel(tmp_path / "uk.npz").market
    np.testing.assert_allclose(market[:, TURNOVER], [3.0, 3.0])
    np.testing.assert_allclose(market[:, ILLIQUIDITY], [0.015, 0.01], rtol=1e-6)


def test_days_to_event_count_weekdays_to_the_third_friday():
    day = datetime.date(2023, 1, 2)
    while day <= datetime.date(2024, 3, 15):
        expiry = min(expiry for expiry in EXPIRIES if expiry >= day)
        ahead = [day + datetime.timedelta(k) for k in range((expiry - day).days)]
        expected = sum(each.weekday() < 5 for each in ahead)
        assert indicators([day.isoformat()])[0, DAYS_TO_EVENT] == expected, day
        day += datetime.timedelta(1)


# ---------------------------------------------------------------------------------------------------------- between


def numbered_panel():
    dates = np.array(["2023-01-02", "2023-01-03", "2023-01-05", "2023-01-06"], "datetime64[D]")
    rows = np.arange(4, dtype=np.float32)[:, None]
    return ReturnPanel("uk", np.tile(rows, 2), dates, np.tile(rows, 4))


@pytest.mark.parametrize(
    ("first", "last", "rows"),
    [
        (None, None, [0, 1, 2, 3]),
        ("2023-01-03", None, [1, 2, 3]),
        ("2023-01-04", None, [2, 3]),  # a day between two rows
        (None, "2023-01-05", [0, 1, 2]),
        (None, "2023-01-04", [0, 1]),
        ("2023-01-03", "2023-01-03", [1]),
        ("2023-01-04", "2023-01-04", []),
        ("2023-02-01", None, []),
        (None, "2022-12-31", []),
        ("2022-01-01", "2024-01-01", [0, 1, 2, 3]),
    ],
)
def test_between_keeps_both_bounds(first, last, rows):
    panel = numbered_panel()
    cut = panel.between(first, last)
    assert cut.name == "uk"
    np.testing.assert_array_equal(cut.dates, panel.dates[rows])
    for field in (cut.returns, cut.market):
        np.testing.assert_array_equal(field[:, 0], rows)
        assert field.shape[0] == len(rows)


# ------------------------------------------------------------------------------------------------------- real panels


PANELS_OF_STUDY = (
    "uk_ftse64_2000_2023",
    "us_broad_2005_2017",
    "us_etf18_2006_2022",
    "us_etf_2005_2017",
    "us_factors_1963_2022",
    "us_long_1985_2005",
    "us_sp500_1999_2021",
)
"""Those that the members are trained and judged on; what else lies beside them may look as it likes."""


@pytest.mark.data
def test_real_panels_load():
    """Trains nothing: every panel is one of returns, in order of time, with indicators of a sane size."""
    missing = [name for name in PANELS_OF_STUDY if not (REAL_PANELS / f"{name}.npz").is_file()]
    if missing:
        pytest.skip(f"{REAL_PANELS} lacks {', '.join(missing)}")
    panels = {name: load_panel(REAL_PANELS / f"{name}.npz") for name in PANELS_OF_STUDY}
    for name, panel in panels.items():
        n_rows, n_assets = panel.returns.shape
        assert len(panel.dates) == len(panel.market) == n_rows > 1_000, name
        assert n_assets >= 9, name
        assert (np.diff(panel.dates) > np.timedelta64(0, "D")).all(), name
        assert np.isnan(panel.returns).mean() < 0.3, name
        assert 0.001 < np.nanstd(panel.returns) < 0.05, name  # returns, neither percentages nor prices
        assert np.nanmin(panel.returns) > -1, name
        days = panel.market[:, DAYS_TO_EVENT]
        assert days.min() >= 0, name
        assert days.max() <= 25, name
        vix = panel.market[panel.dates >= np.datetime64("1990-01-02"), VIX]
        assert np.isfinite(vix).mean() > 0.99, name
        assert np.nanmin(vix) > 5, name
        assert np.nanmax(vix) < 100, name
        turnover = panel.market[:, TURNOVER]
        assert np.isnan(turnover).all() or np.nanmin(turnover) > 0, name
    assert np.isfinite(panels["us_sp500_1999_2021"].market).all()
    assert np.isnan(panels["uk_ftse64_2000_2023"].market[:, TURNOVER]).all()
    lehman = panels["us_sp500_1999_2021"].between("2008-09-15", "2008-09-15")
    assert lehman.market[0, VIX] == pytest.approx(31.70)
    assert np.nanmean(lehman.returns) < -0.02
