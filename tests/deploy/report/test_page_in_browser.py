# SPDX-License-Identifier: Apache-2.0
"""Pages as Chromium shows them: rendered, searched, opened by keyboard, in the dark and on paper."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deploy.report import studies

from sigmahat_deploy.report import backtest
from sigmahat_deploy.report.page import Options, page
from sigmahat_deploy.report.release import release
from sigmahat_deploy.report.study import Study

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402, after the check that it is there
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1180,900",
)  # fmt: skip
REPOSITORY = Path(__file__).parents[3] / "model_repository"
NAMES = ("first", "</script><script>throw 1</script>", 'a "quoted" & <b>bold</b> one', *(f"fund {i}" for i in range(9)))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver here: `make test` installs Debian's, as root")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver, env={**os.environ, "no_proxy": "localhost,127.0.0.1"})
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


@dataclass
class Shown:
    """A page in the browser."""

    browser: Any

    def script(self, text: str, *arguments: object) -> Any:
        return self.browser.execute_script(f"return {text}", *arguments)

    def wait(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 60
        while not (found := condition()):
            assert time.monotonic() < end, self.browser.get_log("browser")
            time.sleep(0.05)
        return found

    def drawn(self) -> None:
        self.wait(lambda: self.script("document.documentElement.dataset.ready") == "yes")

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def visible(self) -> list[str]:
        return self.script("[...document.querySelectorAll('article:not([hidden])')].map((a) => a.dataset.universe)")

    def media(self, media: str = "", scheme: str = "light") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def write(study: Study, path: Path, **options: Any) -> str:
    made = page(study, Options("Covariances", "sigmahat report", release("of a test", REPOSITORY), **options))
    path.write_text(made.html, encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    return path.as_uri()


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every section of a dozen universes, with gaps in the returns, and one that failed."""
    returns = studies.panel(n_rows=200, n_assets=9)
    returns.iloc[:60, 3] = np.nan
    returns.iloc[5, 0] = 0.9
    study = studies.study(returns, NAMES, failed=("not there",))
    weights = pd.Series({"A0": 0.6, "A4": 0.6, "A7": -0.2})

    def estimate(panel: pd.DataFrame, windows: list[tuple[int, int]]) -> Any:
        return type("Answer", (), {
            "status": np.zeros(len(windows), int),
            "covariance": [studies.shrunk(panel.iloc[start:stop]) for start, stop in windows],
        })  # fmt: skip

    tested = backtest.walk_forward("first", returns, weights, estimate, window=100, periods_per_year=252)
    earlier = dict(study.assets), {name: 1.1 * matrix for name, matrix in study.covariances.items()}
    path = tmp_path_factory.mktemp("pages") / "twelve.html"
    return write(study, path, weights=weights, backtest=tested, earlier=earlier)


@pytest.fixture
def shown(browser: Any, twelve: str) -> Iterator[Shown]:
    shown = Shown(browser)
    shown.media()
    browser.get("about:blank")
    browser.get(twelve)
    shown.drawn()
    yield shown
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [line for line in browser.get_log("browser") if line["level"] != "INFO"] == []
    assert shown.script("performance.getEntriesByType('resource').map((e) => e.name)") == []


def test_everything_is_drawn_and_in_the_order_of_the_page(shown: Shown):
    assert shown.visible() == ["first"]
    titles = shown.script("[...document.querySelectorAll('article:not([hidden]) h3')].map((h) => h.textContent)")
    assert titles == [
        "The data", "Volatility", "Correlation", "Eigenvalues", "My portfolio", "Walk-forward", "What the model says",
        "Which assets were shrunk most",
    ]  # fmt: skip
    plots = shown.script(
        "[...document.querySelectorAll('article:not([hidden]) .plot')]"
        ".map((p) => [p.getAttribute('aria-label'), p.querySelectorAll('svg path, svg image').length])"
    )
    assert len(plots) == 11  # map, volatility, 3 heat maps, spectrum, portfolio, 3 of the backtest, intensity
    assert all(label and marks for label, marks in plots)
    assert shown.script("document.querySelectorAll('article:not([hidden]) .heat svg image').length") == 3
    assert shown.script("document.documentElement.scrollWidth") <= 1180
    size = {"width": 480, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    shown.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert shown.script("document.documentElement.scrollWidth") <= 480
    assert "The model and its limits" in shown.one("footer").text


def test_a_cell_of_a_heat_map_can_be_read(shown: Shown):
    image = shown.one(".heat svg image")
    shown.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
    # The middle of nine assets is the fifth with itself.
    ActionChains(shown.browser).move_to_element(image).perform()
    title = shown.wait(lambda: [t for t in [shown.one(".heat svg .role-title-text").text] if ":" in t])[0]
    name, value = title.removeprefix("sample: ").rsplit(" ", 1)
    assert value == "1.00"
    assert len(set(name.split(", "))) == 1


def test_names_are_text_and_a_failed_universe_says_why(shown: Shown):
    rows = shown.script(
        "[...document.querySelectorAll('#table tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    assert [row[0] for row in rows] == [*NAMES, "not there"]
    assert rows[-1][2] == "–"
    assert "the asset is not a column of the panel" in rows[-1][-1]
    assert shown.script("document.querySelectorAll('b b, td b').length") == 0


def test_the_table_is_searched_sorted_and_opened_by_keyboard(shown: Shown):
    keys = ActionChains(shown.browser)
    keys.send_keys(Keys.TAB).send_keys("fund 7").perform()  # the search is the first stop of the page
    assert shown.script("document.activeElement.id") == "search"
    assert shown.one("#found").text == "1 found"
    stops = 1 + shown.script("document.querySelectorAll('#table th button').length")
    ActionChains(shown.browser).send_keys(Keys.TAB * stops).send_keys(Keys.ENTER).perform()
    shown.drawn()
    assert shown.visible() == ["fund 7"]
    assert shown.script("document.activeElement.dataset.universe") == "fund 7"
    assert shown.script("decodeURIComponent(location.hash)") == "#universe=fund 7"
    assert shown.script("document.querySelector('article:not([hidden]) .plot svg') !== null")
    shown.browser.back()
    shown.drawn()
    assert shown.visible() == ["first"]
    search = shown.one("#search")
    search.send_keys(Keys.CONTROL + "a" + Keys.DELETE)
    heading = shown.one("#table th:nth-child(3) button")
    for direction, sign in (("ascending", 1), ("descending", -1)):
        heading.send_keys(Keys.ENTER)
        assert shown.one("#table th:nth-child(3)").get_attribute("aria-sort") == direction
        column = shown.script("[...document.querySelectorAll('#table tbody tr')].map((r) => r.cells[2].textContent)")
        assert column[-1] == "–"  # whatever the direction
        numbers = sign * np.array(column[:-1], float)
        assert (np.diff(numbers) >= 0).all()


def contrast(first: str, second: str) -> float:
    """Of two colours as CSS computes them: WCAG 2.2, relative luminance."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("media", "scheme"), [("", "light"), ("", "dark"), ("print", "dark")])
def test_text_and_data_can_be_seen_by_day_by_night_and_on_paper(shown: Shown, media: str, scheme: str):
    shown.media(media, scheme)
    colours = shown.script(
        "['body', 'h3', '.soft', '.plot svg .role-axis-label text'].map((s) => document.querySelector(s))"
        ".map((e) => { const c = getComputedStyle(e); return e.tagName === 'text' ? c.fill : c.color; })"
        ".concat([...document.querySelectorAll('.plot svg .mark-symbol path')].map((e) => getComputedStyle(e).fill))"
    )
    paper = shown.script("getComputedStyle(document.body).backgroundColor")
    assert (contrast(paper, "rgb(255, 255, 255)") < 1.1) == ("dark" not in (scheme if not media else ""))
    for colour in colours[:4]:
        assert contrast(colour, paper) >= 4.5
    for colour in set(colours[4:]) - {"rgba(0, 0, 0, 0)"}:
        assert contrast(colour, paper) >= 3
    hidden = shown.script("getComputedStyle(document.querySelector('article nav')).display") == "none"
    assert hidden == (media == "print")


def test_it_prints(shown: Shown):
    printed = base64.b64decode(shown.browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert printed.startswith(b"%PDF-")
    assert len(printed) > 50_000


def test_ten_thousand_universes_are_one_page(browser: Any, tmp_path: Path):
    returns = studies.panel(n_rows=60, n_assets=5)
    names = tuple(f"fund {i:05d}" for i in range(10_000))
    shown = Shown(browser)
    shown.media()
    browser.get(write(studies.study(returns, names), tmp_path / "many.html", detail=("fund 07777",)))
    shown.drawn()
    assert shown.visible() == ["fund 07777"]
    assert "Details are kept of 20 of 10,000 estimated universes" in shown.one("#universes").text
    shown.one("#search").send_keys("fund 0777")
    assert shown.one("#found").text == "11 found"  # 00777 too
    assert len(browser.find_elements(By.CSS_SELECTOR, "#table tbody tr")) == 11
    assert [b.text for b in browser.find_elements(By.CSS_SELECTOR, "#table tbody button")] == ["fund 07777"]
    shown.one("#search").send_keys(Keys.CONTROL + "a" + Keys.DELETE)
    shown.one("#after").send_keys(Keys.ENTER)
    assert shown.one("#place").text == "26 to 50 of 10,000"
    assert [line for line in browser.get_log("browser") if line["level"] != "INFO"] == []
