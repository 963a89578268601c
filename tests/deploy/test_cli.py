# SPDX-License-Identifier: Apache-2.0
"""The command `sigmahat` imports only what is called, and says what to install for the rest."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from sigmahat_deploy.cli import SUBCOMMANDS, Subcommand, exit_codes, main
from sigmahat_deploy.estimate_command import SOME_FAILED
from sigmahat_deploy.serve_command import GAVE_UP


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def subcommand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A subcommand whose module has the source given as parameter; its name is that of the module."""
    name = f"subcommand_{request.node.name.partition('[')[0]}"
    (tmp_path / f"{name}.py").write_text(request.param)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SUBCOMMANDS, name, Subcommand(f"{name}:command", "train", "Do nothing."))
    return name


HEAD = "import click\n@click.command()\n@click.option('--size', default=1)\ndef command(size):\n    "


def test_help_lists_every_subcommand() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert {"serve", "estimate", "train", "export", "evaluate"} <= set(SUBCOMMANDS)
    for name, row in SUBCOMMANDS.items():
        assert any(line.split() == [name, *row.short_help.split()] for line in result.output.splitlines())


def test_help_imports_no_subcommand() -> None:
    done = run_python(
        "import sys\n"
        "from sigmahat_deploy.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
        "print(sorted(name for name in sys.modules if name.startswith('sigmahat_')))\n"
    )
    *_, packages, own = done.stdout.splitlines()
    assert not [name for name in ("torch", "pandas", "numpy", "grpc", "tritonclient") if f"'{name}'" in packages]
    assert own == "['sigmahat_deploy', 'sigmahat_deploy.cli']"


@pytest.mark.parametrize("subcommand", [HEAD + "click.echo(f'size {size}')"], indirect=True)
def test_a_subcommand_is_imported_when_called(subcommand: str) -> None:
    assert subcommand not in sys.modules
    result = run(subcommand, "--size", "3")
    assert (result.exit_code, result.output) == (0, "size 3\n")
    assert subcommand in sys.modules


@pytest.mark.parametrize("subcommand", ["import absent_package.part"], indirect=True)
@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_a_missing_package_names_the_extra(subcommand: str, arguments: tuple[str, ...]) -> None:
    result = run(subcommand, *arguments)
    assert result.exit_code == 1
    assert result.output == (
        f"Error: sigmahat {subcommand} needs packages that are not installed (absent_package): "
        "pip install 'sigmahat[train]'\n"
    )
    assert run("--help").exit_code == 0


@pytest.mark.parametrize("subcommand", [HEAD + "import absent_package"], indirect=True)
def test_a_package_missed_only_when_the_subcommand_runs_names_the_extra(subcommand: str) -> None:
    assert run(subcommand, "--help").exit_code == 0
    result = run(subcommand)
    assert result.exit_code == 1
    assert "(absent_package): pip install 'sigmahat[train]'" in result.output


@pytest.mark.parametrize("subcommand", ["import sigmahat_absent.module"], indirect=True)
def test_a_missing_part_of_the_project_is_not_blamed_on_an_extra(subcommand: str) -> None:
    result = run(subcommand)
    assert result.exit_code == 1
    assert f"sigmahat {subcommand} is not part of this installation: it has no module sigmahat_absent" in result.output
    assert "pip install" not in result.output


@pytest.mark.parametrize(
    "example", [example for row in SUBCOMMANDS.values() for example in row.examples], ids=lambda example: example[9:40]
)
def test_every_example_can_be_typed(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, options and values are read as when they run; what they name is there."""
    program, *words = shlex.split(example.partition(" > ")[0])
    assert program == "sigmahat"
    monkeypatch.chdir(tmp_path)
    for word in ["model_repository/", "runs/1/", "runs/baselines/", "runs/validation/", *words]:
        path = Path(word)
        if word.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        elif path.suffix and word[0].isalpha() and "=" not in word:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    command: click.Command | None = main
    context = main.make_context("sigmahat", words[:1])
    while isinstance(command, click.Group):
        name, command, words = command.resolve_command(context, words)
        assert command is not None
        context = command.make_context(name, list(words), parent=context)


@pytest.mark.parametrize("name", list(SUBCOMMANDS))
def test_help_shows_examples_and_exit_codes(name: str) -> None:
    assert SUBCOMMANDS[name].examples, "a row of SUBCOMMANDS without examples"
    shown = run(name, "--help").output
    for example in SUBCOMMANDS[name].examples:
        assert f"  {example}\n" in shown
    for code, meaning in exit_codes(SUBCOMMANDS[name]).items():
        assert f"  {code}  {meaning}\n" in shown
    assert exit_codes(SUBCOMMANDS["estimate"])[SOME_FAILED].startswith("files were written")
    assert exit_codes(SUBCOMMANDS["serve"])[GAVE_UP].startswith("gave up")


def test_a_member_of_a_group_shows_its_own_examples() -> None:
    shown = run("engines", "check", "--help").output
    assert "sigmahat engines check --model-repository" in shown
    assert "sigmahat engines build" not in shown
    assert "--debug" in shown


@pytest.mark.parametrize("subcommand", [HEAD + "raise KeyError('one\\ntwo')"], indirect=True)
def test_what_nobody_foresaw_is_one_line_and_a_traceback_only_with_debug(subcommand: str) -> None:
    result = run(subcommand)
    assert result.exit_code == 1
    line = "Error: KeyError: 'one\\ntwo' (unforeseen: the same command with --debug shows where)\n"
    assert (result.output, result.stderr) == (line, line)
    with pytest.raises(KeyError, match="one"):
        CliRunner().invoke(main, [subcommand, "--debug"], catch_exceptions=False)


@pytest.mark.parametrize(
    "subcommand",
    [
        HEAD
        + "try:\n        1 / 0\n    except ZeroDivisionError as error:\n"
        + "        raise click.ClickException('in words') from error"
    ],
    indirect=True,
)
def test_debug_shows_the_cause_of_what_is_said_in_words(subcommand: str) -> None:
    assert run(subcommand).output == "Error: in words\n"
    shown = run(subcommand, "--debug").stderr
    assert "ZeroDivisionError" in shown
    assert shown.endswith("Error: in words\n")


def test_completion_needs_no_subcommands_packages() -> None:
    done = run_python(
        "import os, sys\n"
        "os.environ.update(_SIGMAHAT_COMPLETE='bash_complete', COMP_WORDS='sigmahat e', COMP_CWORD='1')\n"
        "from sigmahat_deploy.cli import main\n"
        "try:\n"
        "    main(prog_name='sigmahat')\n"
        "finally:\n"
        "    print(sorted({name.partition('.')[0] for name in sys.modules} & {'pandas', 'torch', 'numpy'}))\n"
    )
    assert done.stdout.splitlines() == ["plain,estimate", "plain,engines", "plain,export", "plain,evaluate", "[]"]


def test_completion_of_options_where_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUBCOMMANDS, "gone", Subcommand("absent_module:command", "train", "Do nothing."))
    found = ShellComplete(main, {}, "sigmahat", "_SIGMAHAT_COMPLETE")
    assert found.get_completions(["gone"], "--") is not None
    assert "--local" in {item.value for item in found.get_completions(["estimate"], "--lo")}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_SIGMAHAT_COMPLETE={shell}_complete" in result.output


def test_an_unknown_subcommand_is_a_usage_error() -> None:
    result = run("serv")
    assert result.exit_code == 2
    assert "serv" in result.output


def test_serve_is_where_the_table_says() -> None:
    result = run("serve", "--help")
    assert result.exit_code == 0
    options = ("grpc-port", "http-port", "metrics-port", "model-repository", "host", "ready-file", "startup-timeout-s")
    assert all(f"--{option} " in result.output for option in options)


def test_serve_reports_what_it_misses_without_a_stack_trace(tmp_path: Path) -> None:
    result = run("serve", "--model-repository", str(tmp_path / "absent"))
    assert result.exit_code == 1
    *records, message = result.output.splitlines()
    assert message.startswith("Error: model repository ")
    assert "--model-repository" in message
    assert [json.loads(record)["event"] for record in records] == ["starting", "not_started"]


def test_version_is_that_of_the_distribution() -> None:
    assert run("--version").output == f"sigmahat, version {metadata.version('sigmahat')}\n"


def test_without_click_the_extra_is_named() -> None:
    done = run_python("import sys; sys.modules['click'] = None; import sigmahat_deploy.cli")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'sigmahat[cli]'")
    assert "Traceback" not in done.stderr
