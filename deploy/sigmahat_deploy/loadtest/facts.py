# SPDX-License-Identifier: Apache-2.0
"""What figures depend on: this machine, versions, and how the servers are set up."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from tritonclient.utils import InferenceServerException

from sigmahat_deploy.loadtest.errors import LoadTestError
from sigmahat_deploy.loadtest.servers import Servers
from sigmahat_deploy.loadtest.steps import step_name

_TIMEOUT_S = 10.0


def machine_facts() -> dict[str, Any]:
    """Of the machine of the load test, which may be the servers' too."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "load_average": round(os.getloadavg()[0], 2),  # of the minute before: what else the machine was doing
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("sigmahat", "numpy", "tritonclient")},
    }


def server_facts(servers: Servers) -> tuple[dict[str, Any], ...]:
    """Of each server: its version, the instances of each step, and a digest of all configurations.

    Raises
    ------
    LoadTestError
        If one does not answer.
    """
    return tuple(_facts(servers, url) for url in servers.urls)


def _facts(servers: Servers, url: str) -> dict[str, Any]:
    try:
        with servers.client(url) as client:
            server = client.get_server_metadata(client_timeout=_TIMEOUT_S)
            loaded = client.get_inference_statistics(client_timeout=_TIMEOUT_S).model_stats
            configs = [
                client.get_model_config(model.name, client_timeout=_TIMEOUT_S).config
                for model in sorted(loaded, key=lambda model: model.name)
            ]
    except InferenceServerException as error:
        raise LoadTestError(
            f"{url} does not say what it serves: {error.message()}; start it with `sigmahat serve`, or name "
            "it with --url"
        ) from error
    digest = hashlib.sha256(b"".join(config.SerializeToString(deterministic=True) for config in configs))
    return {
        "url": url,
        "triton": server.version,
        "instances": {
            step_name(config.name): sum(group.count for group in config.instance_group)
            for config in configs
            if config.platform != "ensemble"
        },
        "configurations_sha256": digest.hexdigest()[:16],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
