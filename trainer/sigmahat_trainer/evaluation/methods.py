# SPDX-License-Identifier: Apache-2.0
"""What is compared, by name, and where it comes from: a method is added here and is then listed, tested and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from sigmahat_kernels.pipeline import Pipeline
from sigmahat_trainer.baselines.adapters import (
    Estimator,
    checkpoint_pipeline,
    closed_form,
    learned_constants,
    run_constants,
)
from sigmahat_trainer.baselines.average_oracle import average_oracle
from sigmahat_trainer.baselines.closed_form import BASELINES, Baseline
from sigmahat_trainer.baselines.dcc import dcc_nl
from sigmahat_trainer.baselines.learned import LearnedBaselines, load_learned
from sigmahat_trainer.baselines.rienet import rienet
from sigmahat_trainer.export.model_card import read_card

SERVED = "sigmahat"
"""The ensemble as it is served; pipelines of training runs are named for their folders."""

HINDSIGHT = "hindsight_constants"
"""A bound and no method: constants fitted to the very period, so it takes part in no contest."""


class Sources(NamedTuple):
    """Where the methods come from; what is left out is not compared."""

    model_repository: Path | None = None  # INT8 members as they are served: the method `SERVED`
    runs: tuple[Path, ...] = ()  # folders of `sigmahat train`, float32: methods named for the folders
    baselines: Path | None = None  # folder of `sigmahat fit-baselines`
    hindsight: bool = True
    dcc: bool = False  # a GARCH for every asset at every date: about 10 ms each


class Place(NamedTuple):
    """Where a method is asked for: a panel and one shape of the grid."""

    panel: str
    n_assets: int
    n_obs: int
    horizon: int


class Methods(NamedTuple):
    """What is compared: estimators, and pipelines whose answers other than the covariance are examined too."""

    estimators: Mapping[str, Estimator]
    pipelines: Mapping[str, Pipeline]
    hindsight_start: Mapping[str, Sequence[float]] | None = None  # constants; None leaves the bound out


class Material(NamedTuple):
    """What the estimators of one place are made of."""

    learned: LearnedBaselines | None
    constants: Mapping[str, Mapping[str, Sequence[float]]]
    place: Place | None  # None: simulated returns
    dcc: bool


Maker = Callable[[Material], Estimator | None]


def _closed_form(material: Material, *, form: Baseline) -> Estimator:
    return closed_form(form)


def _average_oracle(material: Material) -> Estimator | None:
    """An oracle is of one market and one shape."""
    if material.learned is None or material.place is None:
        return None
    eigenvalues = material.learned.oracles.get(material.place[:3])
    return None if eigenvalues is None else closed_form(average_oracle(eigenvalues))


def _dcc_nl(material: Material) -> Estimator | None:
    return dcc_nl(material.place.horizon) if material.dcc and material.place is not None else None


def _rienet(material: Material) -> Estimator | None:
    network = material.learned.rienet if material.learned is not None else None
    return None if network is None else rienet(network)


def _constants(material: Material, *, name: str) -> Estimator | None:
    return learned_constants(material.constants[name]) if name in material.constants else None


ESTIMATORS: dict[str, Maker] = {
    **{name: partial(_closed_form, form=form) for name, form in BASELINES.items()},
    "average_oracle": _average_oracle,
    "dcc_nl": _dcc_nl,
    "rienet": _rienet,
    "learned_constants": partial(_constants, name="learned_constants"),
    "tilted_constants": partial(_constants, name="tilted_constants"),
}
"""Every baseline, in the order in which tables list them: its maker, None where there is nothing to make it of."""


def load_methods(sources: Sources, place: Place | None) -> Methods:
    """All that can be compared at a place; on simulated returns, None, no oracle, no hindsight and no DCC."""
    loaded = _load(sources)
    material = Material(loaded.learned, loaded.constants, place, sources.dcc)
    made = {name: make(material) for name, make in ESTIMATORS.items()}
    estimators = {name: estimator for name, estimator in made.items() if estimator is not None}
    hindsight = loaded.constants.get("tilted_constants") if sources.hindsight and place is not None else None
    return Methods(estimators, loaded.pipelines, hindsight)


class _Loaded(NamedTuple):
    pipelines: dict[str, Pipeline]
    constants: dict[str, dict[str, list[float]]]
    learned: LearnedBaselines | None


@cache
def _load(sources: Sources) -> _Loaded:
    """The refitted constants win over those of the members: they have seen no simulated returns."""
    pipelines = {run.resolve().name: checkpoint_pipeline(run) for run in sources.runs}
    constants = {"tilted_constants": run_constants(sources.runs[0])} if sources.runs else {}
    if sources.model_repository is not None:
        pipelines[SERVED] = Pipeline(sources.model_repository)
        constants = {"tilted_constants": read_card(sources.model_repository)["constants"]}
    learned = load_learned(sources.baselines) if sources.baselines is not None else None
    return _Loaded(pipelines, learned.constants if learned else constants, learned)
