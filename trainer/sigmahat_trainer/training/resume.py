# SPDX-License-Identifier: Apache-2.0
"""What a killed run leaves to the next: the state of each part after its last epoch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sigmahat_kernels.files import write_whole
from sigmahat_trainer.training.distributed import is_first


class OtherRunError(ValueError):
    """The folder holds a run with other settings, data or code."""


class Checkpoint(NamedTuple):
    """One file, written anew after each epoch, and all that decides what comes out of the run."""

    path: Path
    run: dict[str, Any]  # as JSON knows it; a checkpoint of another one is refused

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None if there is none.

        Raises
        ------
        OtherRunError
            If it belongs to another run, with what differs.
        """
        if not self.path.exists():
            return None
        # Data only: a checkpoint must not be able to run code. To the host: its writer's GPU may be another process's.
        saved = torch.load(self.path, weights_only=True, map_location="cpu")
        if others := differences(json.loads(saved["run"]), self.run):
            raise OtherRunError(
                f"{self.path.parent} holds an unfinished run of other settings, data or code; "
                f"finish it as it was begun, train elsewhere, or delete that folder: {', '.join(others)}"
            )
        state: dict[str, Any] = saved["state"]
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file, in one step; of processes that train together the first does it.

        `state` holds tensors, numbers, words, and lists and dictionaries of them.
        """
        if is_first():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = {"run": json.dumps(self.run), "state": state}
            write_whole(self.path, lambda file: torch.save(content, file))


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, in words; `was` has been through JSON, `now` need not have been."""
    before, after = (dict(_flat(json.loads(json.dumps(run)))) for run in (was, now))
    return [
        f"{name} was {before.get(name, 'not there')}, is {after.get(name, 'not there')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested dictionaries."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
