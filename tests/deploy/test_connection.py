# SPDX-License-Identifier: Apache-2.0
"""Commands that need the models reach them alike: by the same options, with the same words."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sigmahat_deploy.cli import main

COMMANDS = {
    "estimate": ["--out", "{folder}/out.csv"],
    "risk": ["--out", "{folder}/out.csv", "--portfolios", "{folder}/p.csv"],
    "report": ["--out", "{folder}/out.html"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--local", "--url", "a:1"], 2, "--local computes in this process: leave --url and certificates out"),
        (["--local", "--root-certificates", "{folder}/p.csv"], 2, "--local computes in this process"),
        (["--model-repository", "{folder}"], 2, "--model-repository is for --local: a server has its own"),
        (["--deadline-s", "0"], 2, "0.0 is not in the range"),
        (["--certificate-chain", "{folder}/p.csv"], 1, "go together"),
        (["--local", "--model-repository", "{folder}"], 1, "no member at"),
        (["--url", "127.0.0.1:1", "--retry-s", "0"], 1, "Error: 127.0.0.1:1: "),
    ],
)
def test_commands_reach_the_models_alike(
    tmp_path: Path, command: str, options: list[str], code: int, words: str
) -> None:
    pytest.importorskip("onnxruntime", reason="needs sigmahat[local]")
    rows = "".join(f"2024-01-{day:02},0.0{day},0.00{day}\n" for day in range(1, 31))
    (tmp_path / "returns.csv").write_text("date,AAA,BBB\n" + rows)
    (tmp_path / "p.csv").write_text("portfolio,asset,weight\nbook,AAA,1\n")
    arguments = [option.format(folder=tmp_path) for option in (*COMMANDS[command], *options)]
    result = CliRunner().invoke(main, [command, str(tmp_path / "returns.csv"), *arguments])
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    assert not (tmp_path / "out.csv").exists()
