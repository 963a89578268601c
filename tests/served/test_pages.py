# SPDX-License-Identifier: Apache-2.0
"""The Python that the documentation shows runs as written, page by page; its commands can be typed."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path

import click
import pytest
from markdown_it import MarkdownIt

from sigmahat_deploy.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = runpy.run_path(str(DOCS / "run_pages.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the files that the pages read."""
    laid_out = tmp_path_factory.mktemp("pages")
    PAGES["lay_out"](laid_out)
    return laid_out


@pytest.mark.server
@pytest.mark.parametrize("page", PAGES["pages"](), ids=lambda page: page.stem)
def test_python_of_a_page_runs(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    server = {}
    if any(PAGES[protocol] in page.read_text() for protocol in ("GRPC", "HTTP")):
        running = request.getfixturevalue("running_server")
        server = {PAGES["GRPC"]: running.grpc_url, PAGES["HTTP"]: running.http_url}
    PAGES["run"](page, folder, server)


def test_pages_that_run_are_those_with_python() -> None:
    names = {page.stem for page in PAGES["pages"]()}
    assert names >= {
        "start",
        "nightly",
        "rolling",
        "desks",
        "risk",
        "skfolio",
        "blocks",
        "market",
        "web_service",
        "plain_grpc",
    }


def commands() -> list[tuple[str, list[str]]]:
    """Every command line `sigmahat ...` in a fence of a page, with the words of it."""
    found = []
    for page in sorted(DOCS.rglob("*.md")):
        for token in MarkdownIt().parse(page.read_text()):
            lines = token.content.replace("\\\n", " ").splitlines() if token.type == "fence" else []
            found += [
                (f"{page.stem}: {line}", shlex.split(line, comments=True)[1:])
                for line in lines
                if line.startswith("sigmahat ")
            ]
    return found


@pytest.mark.parametrize("words", [words for _, words in commands()], ids=[line for line, _ in commands()])
def test_commands_of_the_pages_exist_with_their_options(words: list[str]) -> None:
    command: click.Command | None = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
    assert command is not None
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= {*known, "--help"}
