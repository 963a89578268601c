# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/capacity.md`` from what two benchmarks found: ``python docs/make_capacity.py``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sigmahat_kernels.parameters import N_PARAMETERS

PAGE = Path(__file__).with_name("capacity.md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"

A_DAY = 10**9
IN_USE = 0.7
"""Share of what a replica can do that is planned with: the rest is for its neighbours' failures and uneven arrivals."""

INTRODUCTION = """\
# Capacity

Written by `docs/make_capacity.py` from [`loadtest.json`](../benchmarks/results/loadtest.json)
(`python -m benchmarks.speed.loadtest`) and [`service.json`](../benchmarks/results/service.json)
(`python -m benchmarks.speed.service`): measure on your node, run it again, and this page is yours.
"""
WHERE = """\
Measured on {cores} cores, {processor}, no GPU, **of which the load generator takes its part**: a service that is called
from elsewhere does more. Two replicas share those cores, so they say what a second process costs, not what a second
machine brings. What else the machine was doing: a load average of {load_average:g} in the minute before.
"""
MIX = """\
## A mix of sizes

Requests of {universes} universes (least, mean, most) of {assets} assets, windows of {n_obs} rows of real returns,
half for parameters and half with covariance matrices ([the load test](loadtest.md)).
"""
SHAPES = """\
## By shape of the request

U universes of N assets and T rows, of a panel of 500 columns. *Busy*: universes a second with two requests a core in
flight. *Alone*: milliseconds of a request with nobody else there. Core-hours are of a million universes, busy.
"""
COST = """\
## Cost of a million universes

```
cost = price of a core-hour x core-hours,   core-hours = cores x 10^6 / (3600 x universes a second)
```

With a GPU the same of GPU-hours: 10^6 / (3600 x universes a second of one). A node that is planned to do {in_use:.0f} %
of what it can costs 1 / {share:g} of that.
"""
PAPER = """\
## {a_day:,} universes a day, on paper

That is {per_s:,.0f} a second, day and night. Servers share nothing, so replicas add up as long as callers and network
keep up. One replica is the machine of above, {cores} cores, used to {in_use:.0f} %:

```
replicas = {per_s:,.0f} / ({share:g} x universes a second of one)
```
"""
WAY = """\
What has to be there beside them:

- **Callers.** One client process fed {client:,.0f} universes a second for parameters and {client_matrices:,.0f} with
  matrices, while it shared those cores with the server: {n_clients:,} such processes at least, with matrices
  {n_clients_matrices:,}. `score_batches` on Spark, Dask or Ray is as many as you like
  ([operations](operations.md#beyond-one-client)).
- **Network.** A matrix of 100 assets has 40 kB: {gbit:,.1f} Gbit/s in all, and {tb:,.0f} TB a day where they are kept.
  Parameters have {parameters:,} numbers a universe.
- **Panels** go with each request: 252 rows of 500 columns are 0.5 MB, which all universes of the request share.
- **Balance.** Each client resolves every server (headless Service), or Envoy balances.

Not measured: more than two replicas, more than one machine, and a GPU.
"""


def page() -> str:
    """The whole page."""
    load, service = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("loadtest", "service"))
    figures, machine = load["figures"], load["machine"]
    shapes: list[dict[str, Any]] = figures["shapes"]
    setups = {name: test for name, test in figures.items() if name != "shapes"}
    mix = next(iter(setups.values()))["mix"]
    parts = [
        INTRODUCTION,
        WHERE.format(**machine, load_average=next(iter(setups.values()))["machine"]["load_average"]),
        MIX.format(
            universes=mix["universes of a request: least, mean, most"],
            assets=mix["assets of a universe: least, mean, most"],
            n_obs=mix["rows and columns of a panel"].partition(" ")[0],
        ),
        _table(("servers", "universes / s at most", "objective, p99 ms", "universes / s within it"), _mixed(setups)),
        SHAPES,
        _table(
            (
                "U",
                "N",
                "T",
                "parameters, busy",
                "alone, ms",
                "matrices, busy",
                "alone, ms",
                "core-hours",
                "with matrices",
            ),
            _shaped(shapes, machine["cores"]),
        ),
        COST.format(in_use=100 * IN_USE, share=IN_USE),
        PAPER.format(a_day=A_DAY, per_s=A_DAY / 86_400, cores=machine["cores"], in_use=100 * IN_USE, share=IN_USE),
        _table(
            ("what is asked", "universes / s of one", "replicas", "cores"), _planned(setups, shapes, machine["cores"])
        ),
        _way(service["figures"]),
    ]
    return "\n".join(parts)


def _mixed(setups: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for name, test in setups.items():
        _, replicas, _, instances = name.split("_")
        capacity = test["capacity"]
        yield (
            f"{replicas} of {instances} instance{'s' * (instances != '1')}",
            _number(_most(test)),
            f"{test['objective_ms']:g}",
            _number(capacity["universes_per_s"]) if capacity else "none of the levels tried",
        )
        if pool := test["pool"]:
            yield (
                f"none: scikit-learn's LedoitWolf in {pool['processes']} processes",
                _number(pool["universes_per_s"]),
                "",
                "",
            )


def _shaped(shapes: Iterable[Mapping[str, Any]], cores: int) -> Iterable[Sequence[str]]:
    for shape in shapes:
        parameters, matrices = shape["shrinkage"], shape["covariance"]
        yield (
            *(str(shape[name]) for name in ("universes", "assets", "rows")),
            *(
                text
                for figures in (parameters, matrices)
                for text in map(_number, (figures["universes_per_s"], figures["alone_ms"]))
            ),
            *(_number(cores * 1e6 / 3600 / figures["universes_per_s"]) for figures in (parameters, matrices)),
        )


def _planned(setups: Mapping[str, Any], shapes: Iterable[Mapping[str, Any]], cores: int) -> Iterable[Sequence[str]]:
    one = next(iter(setups.values()))
    asked = {"the mix, as a nightly batch": _most(one)}
    if one["capacity"]:
        asked[f"the mix, p99 within {one['objective_ms']:g} ms"] = one["capacity"]["universes_per_s"]
    for shape in shapes:
        if (shape["universes"], shape["rows"]) == (64, 252):
            for model, name in (("shrinkage", "parameters"), ("covariance", "matrices")):
                asked[f"{shape['assets']} assets, 252 rows, {name}"] = shape[model]["universes_per_s"]
    for what, rate in asked.items():
        replicas = math.ceil(A_DAY / 86_400 / (IN_USE * rate))
        yield what, _number(rate), f"{replicas:,}", f"{replicas * cores:,}"


def _way(service: Mapping[str, float]) -> str:
    per_s = A_DAY / 86_400
    client, matrices = service["parameters_grpc_universes_per_s"], service["covariance_grpc_universes_per_s"]
    return WAY.format(
        client=client,
        client_matrices=matrices,
        n_clients=math.ceil(per_s / client),
        n_clients_matrices=math.ceil(per_s / matrices),
        gbit=per_s * 40_000 * 8 / 1e9,
        tb=A_DAY * 40_000 / 1e12,
        parameters=N_PARAMETERS,
    )


def _most(test: Mapping[str, Any]) -> float:
    return float(max(level["universes_per_s"] for level in test["levels"]))


def _number(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.12g}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
