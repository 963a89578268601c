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
from sigmahat_trainer.baselines.cm_iewma import cm_iewma
from sigmahat_trainer.baselines.dcc import dcc_nl
from sigmahat_trainer.baselines.har import har_qis
from sigmahat_trainer.baselines.learned import LearnedBaselines, load_learned
from sigmahat_trainer.baselines.packages import PACKAGED, Packaged, guarded, missing
from sigmahat_trainer.baselines.ridge import ridge_qis
from sigmahat_trainer.baselines.rienet import rienet
from sigmahat_trainer.export.model_card import read_card

SERVED = "sigmahat"
"""The ensemble as it is served; pipelines of training runs are named for their folders."""

HINDSIGHT = "hindsight_constants"
"""A bound and no method: constants fitted to the very period, so it takes part in no contest."""


class Sources(NamedTuple):
    """Where the methods come from; what is left out is not compared."""

    model_repository: Path | None = None  # INT8 members as they are served: the method `SERVED`
    runs: tuple[
        Path, ...
    ] = ()  # folders of `sigmahat train`, float32, or other model repositories: named for the folders
    baselines: Path | None = None  # folder of `sigmahat fit-baselines`
    hindsight: bool = True
    contestants: tuple[
        tuple[str, int], ...
    ] = ()  # names of `CONTESTANTS`, each with the holding periods from one to the next


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
    every: Mapping[str, int] | None = (
        None  # of a method that is too slow for all dates: holding periods from one to the next
    )


class Material(NamedTuple):
    """What the estimators of one place are made of."""

    learned: LearnedBaselines | None
    constants: Mapping[str, Mapping[str, Sequence[float]]]
    place: Place | None  # None: simulated returns


Maker = Callable[[Material], Estimator | None]


def _closed_form(material: Material, *, form: Baseline) -> Estimator:
    return closed_form(form)


def _average_oracle(material: Material) -> Estimator | None:
    """An oracle is of one market and one shape."""
    if material.learned is None or material.place is None:
        return None
    eigenvalues = material.learned.oracles.get(material.place[:3])
    return None if eigenvalues is None else closed_form(average_oracle(eigenvalues))


def _ridge_qis(material: Material) -> Estimator | None:
    ridge = material.learned.ridge if material.learned is not None else None
    return None if ridge is None else closed_form(ridge_qis(ridge))


def _rienet(material: Material) -> Estimator | None:
    network = material.learned.rienet if material.learned is not None else None
    return None if network is None else rienet(network)


def _constants(material: Material, *, name: str) -> Estimator | None:
    return learned_constants(material.constants[name]) if name in material.constants else None


ESTIMATORS: dict[str, Maker] = {
    **{name: partial(_closed_form, form=form) for name, form in BASELINES.items()},
    "ridge_qis": _ridge_qis,
    "average_oracle": _average_oracle,
    "rienet": _rienet,
    "learned_constants": partial(_constants, name="learned_constants"),
    "tilted_constants": partial(_constants, name="tilted_constants"),
}
"""Every baseline, in the order in which tables list them: its maker, None where there is nothing to make it of."""


class Contestant(NamedTuple):
    """A baseline that is compared where it is asked for: it is slow, or another package's."""

    make: Callable[[Place], Estimator]
    every: int = 1  # of so many dates one is enough for a tournament: at 100 assets of 252 rows all take about as long
    package: Packaged | None = None


def _packaged(place: Place, *, package: Packaged) -> Estimator:
    return closed_form(guarded(package))


_SLOW = {"squeeze_kernel": 4, "skfolio_denoised": 2, "riskfolio_denoised": 4, "riskfolio_denoised_shrunk": 2}

CONTESTANTS: dict[str, Contestant] = {
    "har_qis": Contestant(lambda place: closed_form(partial(har_qis, horizon=place.horizon))),
    "cm_iewma": Contestant(lambda place: closed_form(cm_iewma)),
    "dcc_nl": Contestant(lambda place: dcc_nl(place.horizon), every=8),  # a GARCH for every asset: about 10 ms each
    **{
        name: Contestant(partial(_packaged, package=package), _SLOW.get(name, 1), package)
        for name, package in PACKAGED.items()
    },
}
"""Name -> baseline, in the order in which tables list them, after `ESTIMATORS`."""


def installed_contestants() -> tuple[dict[str, int], list[str]]:
    """Name -> dates from one to the next of those that can be called here, and a reason for each that cannot."""
    reasons = {name: missing(c.package) for name, c in CONTESTANTS.items() if c.package is not None}
    names = [name for name in CONTESTANTS if reasons.get(name) is None]
    left_out = [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]
    return {name: CONTESTANTS[name].every for name in names}, left_out


def load_methods(sources: Sources, place: Place | None) -> Methods:
    """All that can be compared at a place; on simulated returns, None, no oracle, no hindsight and no contestant."""
    loaded = _load(sources)
    material = Material(loaded.learned, loaded.constants, place)
    made = {name: make(material) for name, make in ESTIMATORS.items()}
    estimators = {name: estimator for name, estimator in made.items() if estimator is not None}
    if place is None:
        return Methods(estimators, loaded.pipelines)
    every = dict(sources.contestants)
    estimators |= {name: CONTESTANTS[name].make(place) for name in every}
    hindsight = loaded.constants.get("tilted_constants") if sources.hindsight else None
    return Methods(estimators, loaded.pipelines, hindsight, every)


class _Loaded(NamedTuple):
    pipelines: dict[str, Pipeline]
    constants: dict[str, dict[str, list[float]]]
    learned: LearnedBaselines | None


@cache
def _load(sources: Sources) -> _Loaded:
    """The refitted constants win over those of the members: they have seen no simulated returns."""
    pipelines: dict[str, Pipeline] = {}
    if sources.model_repository is not None:
        pipelines[SERVED] = Pipeline(sources.model_repository)
    for run in sources.runs:
        name = run.resolve().name
        if name in pipelines:
            raise ValueError(f"{run} is the second ensemble of the name {name}: rename the folder")
        pipelines[name] = Pipeline(run) if _is_repository(run) else checkpoint_pipeline(run)
    # The members' own, those that are served first.
    source = next((folder for folder in (sources.model_repository, *sources.runs) if folder is not None), None)
    constants = {} if source is None else {"tilted_constants": _constants_of(source)}
    learned = load_learned(sources.baselines) if sources.baselines is not None else None
    return _Loaded(pipelines, learned.constants if learned else constants, learned)


def _is_repository(folder: Path) -> bool:
    return any(folder.glob("member_*/*/model.onnx"))


def _constants_of(folder: Path) -> dict[str, list[float]]:
    constants: dict[str, list[float]] = (
        read_card(folder)["constants"] if _is_repository(folder) else run_constants(folder)
    )
    return constants
