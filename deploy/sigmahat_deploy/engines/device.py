# SPDX-License-Identifier: Apache-2.0
"""Which GPU this node has, as far as an engine depends on it."""

from __future__ import annotations

import re
import subprocess
from typing import NamedTuple

from sigmahat_deploy.engines.errors import EngineError


class Device(NamedTuple):
    """A GPU, or the partition of one that this process sees."""

    product: str  # as the node label nvidia.com/gpu.product writes it: "NVIDIA-H200", "NVIDIA-H200-MIG-1g.18gb"
    compute_capability: str  # "9.0"
    driver: str


def find_device(nvidia_smi: str = "nvidia-smi") -> Device:
    """Ask the driver.

    Raises
    ------
    EngineError
        If there is no GPU, or several of different kinds: an engine fits one kind only.
    """
    rows = set(_lines(nvidia_smi, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"))
    if not rows:
        raise EngineError(f"{nvidia_smi} lists no GPU: engines are built on the GPU that serves them")
    if len(rows) > 1:
        raise EngineError(
            f"this node shows GPUs of different kinds, {sorted(rows)}; an engine fits one: show this process one kind"
        )
    name, compute_capability, driver = (field.strip() for field in rows.pop().split(","))
    partitions = set(re.findall(r"^\s+MIG (\S+)", "\n".join(_lines(nvidia_smi, "-L")), re.MULTILINE))
    if len(partitions) > 1:
        raise EngineError(f"this node shows MIG partitions of different sizes, {sorted(partitions)}: show one kind")
    product = "-".join([re.sub(r"[^A-Za-z0-9.]+", "-", name), *(f"MIG-{partition}" for partition in partitions)])
    return Device(product, compute_capability, driver)


def _lines(nvidia_smi: str, *arguments: str) -> list[str]:
    try:
        done = subprocess.run([nvidia_smi, *arguments], capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        raise EngineError(
            f"no NVIDIA GPU here ({nvidia_smi} is not installed): engines are built on the GPU that serves them"
        ) from None
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stdout", None) or getattr(error, "stderr", None) or str(error)
        raise EngineError(f"no usable NVIDIA GPU: {nvidia_smi} says: {str(output).strip()}") from error
    return [line for line in done.stdout.splitlines() if line.strip()]
