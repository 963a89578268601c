# SPDX-License-Identifier: Apache-2.0
"""The private copy of a model repository that Triton serves, where a new release replaces the old one in one step.

The steps of each release are models of their own, ``features-r1``, ``features-r2`` ..., and an ensemble names those of
one release. A request stays with the ensemble that it entered, so no answer can mix two releases. The version of an
ensemble is its release, and every answer says its model's version.

A release is first loaded and tried by ensembles of its own, ``covariance-r2`` ...: Triton 2.51 does without an ensemble
while it goes back to older steps, so those that callers name are touched only when the new steps are known to be good.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from sigmahat_deploy.installation import ServerError
from sigmahat_deploy.model_control import ModelControl
from sigmahat_kernels.files import write_whole
from sigmahat_kernels.manifest import ManifestError, read_verified, write_manifest

_DRAIN_S = 120.0
"""Requests to the old release may take this long; after that its steps are unloaded, and those requests fail."""

_Configs = dict[str, ModelConfig]
_Check = Callable[[list[str]], object]


class Releases:
    """Releases of the repository `source`, copied into `folder` one after the other.

    Copies, because what is served must not change while files are being written there, and must be the same again
    after a restart.

    Raises
    ------
    ServerError
        If the repository cannot be served: a file that is not the one of its manifest, a configuration that cannot be
        read, a model without a version.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.current = 1
        self.coming: frozenset[Path] = frozenset()
        """Folders of the release that is being loaded, if one is."""
        self._moving = False
        self._configs = _read_configs(source)
        self._swapping = threading.Lock()
        self._write(self._configs, self._configs, self.current)

    def serving(self) -> frozenset[Path]:
        """Folders of the current release: each model's, with its files. None while Triton moves to another.

        Triton ends the old steps by itself as soon as the last ensemble has left them.
        """
        return frozenset() if self._moving else self._folders(self._configs, self.current)

    def probed(self) -> list[str]:
        """Models to ask for a sign of life: together they have every step."""
        return [model for model in ("shrinkage", "covariance", "risk") if model in self._configs]

    def settle(self, timeout_s: float = 30.0) -> None:
        """Wait for the end of a swap in another thread: until then the folder may hold halves of a release.

        Raises
        ------
        ServerError
            If that lasts too long.
        """
        if not self._swapping.acquire(timeout=timeout_s):
            raise ServerError(f"the new release in {self.folder} was not taken back within {timeout_s:g} s")
        self._swapping.release()

    def swap(self, control: ModelControl, check: _Check, load_timeout_s: float) -> None:
        """Serve what `source` holds now. Requests go on all the time, each answered by one release alone.

        May run in another thread than what else is done here. Whatever is raised, the old release still is served.

        Parameters
        ----------
        control : ModelControl
        check : callable
            Called with the names of models to be asked when the new release has been loaded; what it raises takes that
            back.
        load_timeout_s : float
            Seconds that Triton may take to load a model with its steps.

        Raises
        ------
        ServerError
            If the new release cannot be served.
        """
        with self._swapping:
            old, new = self.current, self.current + 1
            configs = _read_configs(self.source)
            if gone := set(_public(self._configs)) - set(_public(configs)):
                raise ServerError(f"{self.source} no longer holds {', '.join(sorted(gone))}: that needs a restart")
            self.coming = self._folders(configs, new)
            try:
                self._try(configs, new, control, check, load_timeout_s)
                self._move(configs, new, control, check, load_timeout_s)
            finally:
                self.coming = frozenset()
            replaced, self._configs, self.current = self._configs, configs, new
            self._moving = False
            with suppress(ServerError):  # of a Triton that has died: it is started again with the new release
                deadline = time.monotonic() + _DRAIN_S
                while control.unloading() and time.monotonic() < deadline:
                    time.sleep(0.05)
            self._forget(_ensembles(configs), new, control)  # those that tried it
            self._forget(replaced, old, control)
            for model in _public(replaced):
                shutil.rmtree(self.folder / model / str(old), ignore_errors=True)

    def _try(self, configs: _Configs, new: int, control: ModelControl, check: _Check, load_timeout_s: float) -> None:
        """Load the new steps, and ask them through ensembles of their own; a failure touches nothing that is served."""
        try:
            self._write(_steps(configs), configs, new)
            tried = {model: _step_name(model, new) for model in _ensembles(configs)}
            for model, name in tried.items():
                (self.folder / name / "1").mkdir(parents=True)
                self._write_config(name, configs[model], new)
            for name in tried.values():
                control.load(name, load_timeout_s)  # with the steps that it names
            check([tried[model] for model in self.probed() if model in tried])
        except BaseException:
            self._forget([*_ensembles(configs), *_steps(configs)], new, control)
            raise

    def _move(self, configs: _Configs, new: int, control: ModelControl, check: _Check, load_timeout_s: float) -> None:
        """Let the models that callers name be those of the new release."""
        try:
            self._write(_public(configs), configs, new)
            for model in _public(configs):
                self._moving = model == _public(configs)[-1]
                control.load(model, load_timeout_s)
            check(self.probed())
        except BaseException:
            for model in _public(configs):
                shutil.rmtree(self.folder / model / str(new), ignore_errors=True)
            for model in _public(self._configs):
                self._write_config(model, self._configs[model], self.current)
                with suppress(ServerError):
                    control.load(model)
            self._forget([*_ensembles(configs), *_steps(configs)], new, control)
            self._moving = False
            raise

    def _forget(self, models: Iterable[str], release: int, control: ModelControl) -> None:
        """Remove what is named after a release; one by one, as Triton looks at all folders each time."""
        for name in (_step_name(model, release) for model in models):
            if (self.folder / name).exists():
                with suppress(ServerError):  # never loaded, or Triton is gone
                    control.unload(name)
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _write(self, models: Iterable[str], configs: _Configs, release: int) -> None:
        """Lay out models of a release. Triton takes no notice before it is told to load something."""
        for model in models:
            target = self._version(configs, model, release)
            if model in _ensembles(configs):
                target.mkdir(parents=True)
            else:
                self._copy(_newest_version(self.source / model), target)
            self._write_config(target.parent.name, configs[model], release)

    def _folders(self, configs: _Configs, release: int) -> frozenset[Path]:
        return frozenset(self._version(configs, model, release) for model in configs)

    def _version(self, configs: _Configs, model: str, release: int) -> Path:
        """Folder of a model's files: a public model has a version for each release, a step is a model of its own."""
        if model in _public(configs):
            return self.folder / model / str(release)
        return self.folder / _step_name(model, release) / "1"

    def _write_config(self, name: str, config: ModelConfig, release: int) -> None:
        written = ModelConfig()
        written.CopyFrom(config)
        written.name = name
        for step in written.ensemble_scheduling.step:
            step.model_name, step.model_version = _step_name(step.model_name, release), 1
        content = text_format.MessageToString(written).encode()
        write_whole(self.folder / name / "config.pbtxt", lambda file: file.write(content))

    def _copy(self, version: Path, target: Path) -> None:
        """Copy a step's files, and beside them what holds learned numbers: as the manifest of `source` says."""
        shutil.copytree(version, target, ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
        learned = []
        for file in sorted(self.source.rglob("*.onnx")):
            copy = target / file.relative_to(version if file.is_relative_to(version) else self.source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                copy.write_bytes(read_verified(file, self.source))
            except ManifestError as error:
                raise ServerError(str(error)) from error
            learned.append(copy)
        if learned:
            write_manifest(target, learned)


def _step_name(model: str, release: int) -> str:
    return f"{model}-r{release}"


def _ensembles(configs: _Configs) -> list[str]:
    return [model for model, config in configs.items() if config.platform == "ensemble"]


def _steps(configs: _Configs) -> list[str]:
    return sorted(set(configs) - set(_public(configs)))


def _public(configs: _Configs) -> list[str]:
    """Models that callers name: all but the steps of ensembles."""
    steps = {step.model_name for config in configs.values() for step in config.ensemble_scheduling.step}
    return [model for model in configs if model not in steps]


def _read_configs(source: Path) -> _Configs:
    configs = {}
    for path in sorted(source.glob("*/config.pbtxt")):
        try:
            configs[path.parent.name] = text_format.Parse(path.read_text(), ModelConfig())
        except text_format.ParseError as error:
            raise ServerError(f"{path} is not a model configuration: {error}") from error
    return configs


def _newest_version(model: Path) -> Path:
    versions = [path for path in model.glob("[0-9]*") if path.is_dir() and path.name.isdecimal()]
    if not versions:
        raise ServerError(f"{model} has no version: wanted a folder named by a number, with the model in it")
    return max(versions, key=lambda path: int(path.name))
