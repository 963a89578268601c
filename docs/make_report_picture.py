# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/report.png``: parts of the report of the demo's stocks, as Chromium shows them.

Needs Chromium, its driver and the extras ``report`` and ``dev``: run as ``python docs/make_report_picture.py``.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
from pathlib import Path

from click.testing import CliRunner
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from sigmahat_deploy.cli import main as sigmahat
from sigmahat_deploy.returns_file import read_returns

ROOT = Path(__file__).parents[1]
RETURNS = ROOT / "benchmarks" / "data" / "us_sp500_2016_2019.npz"
PARTS = ("correlation-0", "eigenvalues-0", "walk-forward-0")
HIDDEN = "#correlation-0 table, .screen, #walk-forward-0 h4, #walk-forward-0 figure, #walk-forward-0 .soft"
WIDTH, SCALE = 1080, 0.85


def main() -> None:
    """Make the report of 100 stocks over the last year, and take its picture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        stocks = read_returns(RETURNS).columns[:100].tolist()
        universes = Path(folder) / "universes.json"
        universes.write_text(json.dumps({"100 US stocks": {"assets": stocks, "start": "2019-01-04"}}))
        arguments = [
            "report", str(RETURNS), "--universes", str(universes), "--local", "--backtest",
            "--title", "Covariances of 100 US stocks", "--model-repository", str(ROOT / "model_repository"),
            "--out", str(page),
        ]  # fmt: skip
        done = CliRunner().invoke(sigmahat, arguments)
        if done.exit_code:
            raise SystemExit(done.output)
        picture = Image.open(io.BytesIO(photograph(page))).convert("RGB")  # without an alpha channel it is smaller
    picture.save(ROOT / "docs" / "report.png", optimize=True)


def photograph(page: Path) -> bytes:
    """The heading, the tiles and the parts named above; PNG."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", f"--window-size={WIDTH},900"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(page.as_uri())
        WebDriverWait(browser, 60).until(
            lambda browser: browser.execute_script("return document.documentElement.dataset.ready") == "yes"
        )
        browser.execute_script(
            "const style = document.createElement('style');"
            "style.textContent = arguments[0] + '{ display: none; }';"
            "document.head.append(style);",
            ", ".join([HIDDEN, "footer", "article > section" + "".join(f":not(#{part})" for part in PARTS)]),
        )
        height = browser.execute_script("return document.querySelector('main').getBoundingClientRect().bottom + 24")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": SCALE}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        return base64.b64decode(shot["data"])
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
