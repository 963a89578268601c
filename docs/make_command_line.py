# SPDX-License-Identifier: Apache-2.0
"""Write docs/command_line.md from the table of subcommands: ``python docs/make_command_line.py``."""

from __future__ import annotations

from pathlib import Path

from sigmahat_deploy.cli import EXIT_CODES, SUBCOMMANDS
from sigmahat_deploy.progress_line import LINE_EVERY_S

_HEAD = f"""# The command line

`sigmahat COMMAND --help` lists options, examples and exit codes. What a command has to say goes to standard error, so
that standard output holds results alone (`estimate --out -`, `completion`); long work shows a bar on a terminal, and in
a log a line every {LINE_EVERY_S:g} s. What goes wrong ends in one line that says what to do; `--debug` behind any
command adds the traceback. `--json` of `estimate` and `report` says what was done as one JSON object on the last line,
for scripts.

The extras in brackets are what a command needs: `pip install 'sigmahat[local]'` has `cli` and all that
`estimate --local` wants.

## Exit codes

| command | {" | ".join(map(str, range(4)))} |
| --- | --- | --- | --- | --- |
"""

_COMPLETION = """
## Completion

`sigmahat completion bash`, `zsh` or `fish` prints what the shell has to read; it takes effect in the next shell.
"""


def page() -> str:
    """The whole page."""
    rows = []
    for name, row in SUBCOMMANDS.items():
        if row.exit_codes:
            codes = {**EXIT_CODES, **row.exit_codes}
            rows.append(f"| `{name}` | " + " | ".join(codes.get(code, "") for code in range(4)) + " |")
    rows.append("| all others | " + " | ".join(EXIT_CODES.get(code, "") for code in range(4)) + " |")
    parts = [_HEAD + "\n".join(rows) + "\n", "\n## Commands\n"]
    for name, row in SUBCOMMANDS.items():
        examples = "\n".join(row.examples)
        parts.append(f"\n### {name} [{row.extra}]\n\n{row.short_help}\n\n```\n{examples}\n```\n")
    return "".join([*parts, _COMPLETION])


if __name__ == "__main__":
    Path(__file__).with_name("command_line.md").write_text(page())
