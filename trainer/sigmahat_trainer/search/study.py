# SPDX-License-Identifier: Apache-2.0
"""Search for the settings with which one member validates best: Parzen estimators propose, the median stops."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import optuna
import torch
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn

from sigmahat_kernels.files import write_whole
from sigmahat_trainer.config import TrainConfig, from_dict
from sigmahat_trainer.data.sample_sets import SampleSets, open_sample_sets, pool
from sigmahat_trainer.progress import Progress
from sigmahat_trainer.provenance import provenance
from sigmahat_trainer.search.plots import draw_search
from sigmahat_trainer.search.space import SearchSpace, Vary, search_space, settings_of
from sigmahat_trainer.training.constants import fit_constants
from sigmahat_trainer.training.member import train_member
from sigmahat_trainer.training.shared_losses import evaluate_losses

JOURNAL, RESULT = "search.journal", "search.json"

STARTUP_TRIALS = 10
"""Random trials before the first that is proposed, and complete ones before the first that is stopped early."""

WARM_UP = 1 / 3
"""Share of the epochs after which a trial may be stopped: schedules that fall late look bad before."""

IMPORTANT_QUANTILE = 0.25
"""Importance is what decides whether a trial is among this share of the complete ones, the best."""

INTERRUPTED = "interrupted"


def search(
    dataset: Path,
    config: TrainConfig,
    folder: Path,
    *,
    trials: int,
    timeout_s: float | None = None,
    processes: int = 1,
    vary: Sequence[Vary] | None = None,
    console: Console,
) -> dict[str, Any]:
    """Train one member after another, each with other settings, on the same samples; go on where a search was cut off.

    What is minimised is the decision loss on the validation samples after the last epoch, averaged over panels. The
    first trial is `config` itself, if the space contains it. With one process the search is reproducible: one that was
    killed and called again proposes what it would have proposed.

    Parameters
    ----------
    dataset : Path
        As `open_sample_sets` reads it.
    config : TrainConfig
        The settings that are not searched; `seed` is that of the members, which all start alike, and of the proposals.
    folder : Path
        Receives ``search.journal`` (from which a search goes on), ``search.json`` after each trial, and pictures.
    trials : int
        Trials in all, those before a restart among them; interrupted ones do not count.
    timeout_s : float, optional
        No trial starts later than this.
    processes : int
        Trials side by side.
    vary : sequence of Vary, optional
        Default `space.SEARCHED`.
    console : Console
        Shows the progress.

    Returns
    -------
    dict
        What ``search.json`` holds.

    Raises
    ------
    ValueError
        If `folder` holds a search with other settings, another space or other samples; or one that is still running.
    """
    started = time.monotonic()
    space = search_space() if vary is None else search_space(vary)
    sets = open_sample_sets(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        study = _open_study(folder, _identity(config, space, sets))
        constants = _constants(study, sets, config, console)
        under_way = _Trials(study, space, config, dataset, constants, console)
        with under_way:
            under_way.show_done(trials)
            while True:
                late = timeout_s is not None and time.monotonic() - started > timeout_s
                wanted = 0 if late else trials - len(finished_trials(study)) - len(under_way.running)
                if wanted > 0 and len(under_way.running) < processes:
                    under_way.start(parallel=processes > 1)
                elif under_way.running:
                    under_way.answer()
                else:
                    break
                _write_result(folder, _result(study, space, config))
                under_way.show_done(trials)
        result = _result(study, space, config)
        _write_result(folder, result)
        draw_search(result, folder)
    return result


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """All but those that were under way when the search was cut off."""
    return [trial for trial in study.get_trials(deepcopy=False) if _state(trial) in ("complete", "pruned", "failed")]


class _TrialProcess(NamedTuple):
    trial: Trial
    process: BaseProcess
    bar: TaskID


class _Pruned(Exception):
    """The median of the trials before was better."""


class _Trials:
    """The trials under way, one process each; only this side knows of the study.

    Those that still run at the end of the block are stopped.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        config: TrainConfig,
        dataset: Path,
        constants: torch.Tensor,
        console: Console,
    ) -> None:
        self.study, self.space, self.config, self.dataset, self.constants = study, space, config, dataset, constants
        self.running: dict[Connection, _TrialProcess] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[loss]}"),
            console=console,
        )
        self.all = self.progress.add_task("trials", loss="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for running in self.running.values():
            running.process.terminate()
        self.progress.stop()

    def start(self, *, parallel: bool) -> None:
        """Draw settings and train with them; settings that are no configuration are a failed trial."""
        n_before = len(finished_trials(self.study)) + len(self.running)
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        own = self.space.params(self.config)
        if not n_before and not waiting and own is not None:
            self.study.enqueue_trial(own)
        self.study.sampler = _sampler(self.config.seed, n_before, parallel)
        trial = self.study.ask(self.space.distributions)
        try:
            config = self.space.configuration(self.config, trial.params)
        except ValueError as error:
            _fail(self.study, trial, str(error))
            return
        context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads in mid-air
        here, there = context.Pipe()
        arguments = (there, str(self.dataset), asdict(config), self.constants.numpy())
        process = context.Process(target=_train_trial, args=arguments, daemon=True)
        process.start()
        there.close()  # so that reading from `here` ends when the process does
        bar = self.progress.add_task(f"trial {trial.number + 1}", total=config.epochs, loss="")
        self.running[here] = _TrialProcess(trial, process, bar)

    def answer(self) -> None:
        """Wait for news of the trials under way, and deal with them."""
        for connection in wait(list(self.running)):
            assert isinstance(connection, Connection)
            running = self.running[connection]
            try:
                kind, *content = connection.recv()
            except EOFError:
                running.process.join()
                kind, content = "failed", [f"its process ended with exit code {running.process.exitcode}"]
            if kind == "epoch":
                self._epoch(connection, running, *content)
            else:
                self._end(connection, running, kind, *content)

    def _epoch(self, connection: Connection, running: _TrialProcess, epoch: int, loss: float) -> None:
        running.trial.report(loss, epoch)
        self.progress.update(running.bar, completed=epoch, loss=f"validation {loss:.4f}")
        connection.send(epoch < self.config.epochs and running.trial.should_prune())

    def _end(self, connection: Connection, running: _TrialProcess, kind: str, content: Any = None) -> None:
        del self.running[connection]
        if kind == "complete":
            running.trial.set_user_attr("validation", content)
            self.study.tell(running.trial, float(np.mean(list(content.values()))))
        elif kind == "pruned":
            self.study.tell(running.trial, state=TrialState.PRUNED)
        else:
            _fail(self.study, running.trial, content)
        connection.close()
        running.process.join()
        self.progress.remove_task(running.bar)

    def show_done(self, trials: int) -> None:
        """Bring the bar of all trials up to date."""
        best = _best(self.study)
        loss = "" if best is None else f"best {best.value:.4f}, trial {best.number + 1}"
        self.progress.update(self.all, completed=len(finished_trials(self.study)), total=trials, loss=loss)


def _train_trial(connection: Connection, dataset: str, config: dict[str, Any], constants: np.ndarray) -> None:
    """Train in a process of its own; after each epoch the other side says whether to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side hears it too, and ends this process
    torch.set_num_threads(1)  # threads inside small matrices cost more than the matrices
    settings = from_dict(TrainConfig, config)

    def report(what: str, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        loss = metrics["validation_decision"]
        if not math.isfinite(loss):
            raise ValueError(f"the validation loss is {loss} after epoch {epoch}")
        connection.send(("epoch", epoch, loss))
        if connection.recv():
            raise _Pruned

    sets = open_sample_sets(Path(dataset))
    try:
        trained = train_member(
            sets.training,
            pool(sets.validation),
            torch.from_numpy(constants),
            settings,
            member=0,
            progress=report,
        )
        connection.send(("complete", _decision_losses(trained.network, sets, settings)))
    except _Pruned:
        connection.send(("pruned",))
    except (ArithmeticError, RuntimeError, ValueError) as error:
        connection.send(("failed", f"{type(error).__name__}: {error}"))
    except EOFError:  # the search was killed
        return


def _decision_losses(answerer: Any, sets: SampleSets, config: TrainConfig) -> dict[str, float]:
    """Validation loss by panel, of a network or of constants."""
    return {
        panel: evaluate_losses(answerer, validation, config)["decision"]
        for panel, validation in sets.validation.items()
    }


def _sampler(seed: int, n_before: int, parallel: bool) -> optuna.samplers.BaseSampler:
    """A sampler that knows of no trial but through the study: a search that goes on draws as if it had not stopped."""
    (own_seed,) = np.random.SeedSequence([seed, n_before]).generate_state(1).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=parallel, seed=own_seed
        )


def _open_study(folder: Path, identity: dict[str, Any]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    epochs = identity["config"]["epochs"]
    study = optuna.create_study(
        study_name="search",
        storage=storage,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=math.ceil(WARM_UP * epochs)),
    )
    known = study.user_attrs.get("identity")
    if known is None:
        study.set_user_attr("identity", identity)
    elif known != identity:
        differing = [name for name in identity if known.get(name) != identity[name]]
        raise ValueError(f"{folder} holds a search with another {' and '.join(differing)}: name a new folder")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # it was under way when the search was cut off
    return study


def _identity(config: TrainConfig, space: SearchSpace, sets: SampleSets) -> dict[str, Any]:
    """What must not change while a search goes on, as JSON gives it back."""
    digest = hashlib.sha256()
    for dataset in (sets.training, *sets.validation.values()):
        for stack in dataset.by_size.values():
            digest.update(stack.features.tobytes())
    identity = {
        "config": asdict(config),
        "space": {
            name: json.loads(optuna.distributions.distribution_to_json(distribution))
            for name, distribution in space.distributions.items()
        },
        "dataset": {
            "training": len(sets.training),
            "validation": {panel: len(dataset) for panel, dataset in sets.validation.items()},
            "sha256_of_features": digest.hexdigest(),
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def _constants(study: optuna.Study, sets: SampleSets, config: TrainConfig, console: Console) -> torch.Tensor:
    """Logits of the learned constants, the same for all trials; fitted once."""
    if "constants" not in study.user_attrs:
        torch.set_num_threads(1)
        with console.status("fitting the constants"):
            constants = fit_constants(sets.training, config)
            losses = _decision_losses(constants, sets, config)
        study.set_user_attr("constants", {"logits": constants.tolist(), "validation": losses})
    return torch.tensor(study.user_attrs["constants"]["logits"])


def _fail(study: optuna.Study, trial: Trial, reason: str) -> None:
    trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.FAIL)


def _state(trial: FrozenTrial) -> str:
    if trial.state == TrialState.FAIL:
        return "failed" if "reason" in trial.user_attrs else INTERRUPTED
    return {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(trial.state, "running")


def _best(study: optuna.Study) -> FrozenTrial | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda trial: trial.value or 0.0, default=None)


def _result(study: optuna.Study, space: SearchSpace, config: TrainConfig) -> dict[str, Any]:
    constants = study.user_attrs["constants"]["validation"]
    baseline = float(np.mean(list(constants.values())))
    rows = []
    for trial in study.get_trials(deepcopy=False):
        row: dict[str, Any] = {"trial": trial.number + 1, "state": _state(trial)}
        try:
            settings = settings_of(space.configuration(config, trial.params))
            row["settings"] = {name: settings[name] for name in space.declared}
        except (ValueError, KeyError):  # not drawn yet, or no configuration
            row["settings"] = dict(trial.params)
        row["seconds"] = None if trial.duration is None else round(trial.duration.total_seconds(), 1)
        row["epochs"] = [trial.intermediate_values[k] for k in sorted(trial.intermediate_values)]
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            row |= {"loss": trial.value, "validation": trial.user_attrs["validation"]}
            row["volatility_against_constants_percent"] = 50 * (trial.value - baseline)
        rows.append(row | ({"reason": trial.user_attrs["reason"]} if "reason" in trial.user_attrs else {}))
    best, source = _best(study), provenance()
    return {
        **source,
        "versions": {**source["versions"], "optuna": optuna.__version__},
        **study.user_attrs["identity"],
        "figures": {
            "constants": {"loss": baseline, "validation": constants},
            "best": None if best is None else rows[best.number],
            "importance": _importance(study),
            "trials": rows,
        },
    }


def _importance(study: optuna.Study) -> dict[str, float]:
    """Share of each dimension in what separates the best trials from the others (PED-ANOVA); {} with too few of them.

    Watanabe, Bansal, Hutter (2023), IJCAI, arXiv:2304.10255.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) * IMPORTANT_QUANTILE < 2 or len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=IMPORTANT_QUANTILE)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it goes when the process does, however that ends."""
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout:
        raise ValueError(f"another search is running in {folder}") from None


def _write_result(folder: Path, content: dict[str, Any]) -> None:
    write_whole(folder / RESULT, lambda file: file.write(json.dumps(content, indent=1).encode() + b"\n"))
