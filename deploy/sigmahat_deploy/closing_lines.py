# SPDX-License-Identifier: Apache-2.0
"""What commands say at their end, on standard error: what was odd, what was written, what to type next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np

from sigmahat_client import Estimates
from sigmahat_client.errors import listed
from sigmahat_deploy.command_files import STDOUT

_SHOWN = 10


def say_what_is_odd(estimates: Estimates, failures: Sequence[object]) -> None:
    """Assets that were dropped, warnings, failures: the first of each, and how many more there are."""
    dropped = [
        f"universe {name!r} is estimated without {len(assets)} assets: {listed(assets)}"
        for name, assets in zip(estimates.universes, estimates.dropped, strict=True)
        if assets
    ]
    for lines in (dropped, estimates.warning_lines, list(map(str, failures))):
        for line in lines[:_SHOWN]:
            click.echo(line, err=True)
        if len(lines) > _SHOWN:
            click.echo(f"... and {len(lines) - _SHOWN} more", err=True)


def say_as_json(
    estimates: Estimates, files: Mapping[str, Path | None], seconds: float, done: Mapping[str, object]
) -> None:
    """Say what was done as one JSON object, on standard output unless a file is written there.

    Parameters
    ----------
    files : mapping of names to paths
        What was written.
    done : mapping
        Whatever else there is to say.
    """
    said = {
        **{name: None if path in (None, STDOUT) else str(path) for name, path in files.items()},
        "universes": len(estimates),
        **done,
        "warnings": estimates.warning_lines,
        "last_date": _last_date(estimates),
        "seconds": round(seconds, 3),
    }
    click.echo(json.dumps(said), err=STDOUT in files.values())


def say_what_was_written(
    estimates: Estimates, files: Sequence[Path | None], what: str, following: Sequence[str]
) -> None:
    """Say which files, with what in them, and what to type next; nothing, where there are none."""
    written = [str(path) for path in files if path not in (None, STDOUT)]
    if not written:
        return
    date = _last_date(estimates)
    click.echo(f"wrote {' and '.join(written)}: {what}{f' to {date}' if date else ''}", err=True)
    for step in following:
        click.echo(f"next{step}", err=True)


def _last_date(estimates: Estimates) -> str | None:
    dates = estimates.last_date[~np.isnat(estimates.last_date)]
    return str(dates.max().astype("datetime64[D]")) if len(dates) else None
