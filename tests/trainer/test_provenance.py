# SPDX-License-Identifier: Apache-2.0
"""Which source a digest of the code covers, and what a result says of where it was made."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from sigmahat_trainer import provenance as module
from sigmahat_trainer.provenance import code_digest, provenance


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package: `start` imports `used` inside a function and `used` imports `deep.below`; nobody imports `other`."""
    folder = tmp_path / "sigmahat_toy"
    (folder / "deep").mkdir(parents=True)
    sources = {
        "__init__": "",
        "start": "import json\ndef run():\n    from sigmahat_toy import used\n",
        "used": "import sigmahat_toy.deep.below\n",
        "deep/__init__": "",
        "deep/below": "VALUE = 1\n",
        "other": "VALUE = 2\n",
    }
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield folder
    sys.modules.pop("sigmahat_toy", None)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("start", True), ("used", True), ("deep/below", True), ("__init__", True), ("other", False)],
)
def test_digest_covers_what_a_module_imports_and_nothing_else(toy, name, counts):
    before = code_digest("sigmahat_toy.start")
    assert code_digest("sigmahat_toy.start") == before
    with open(toy / f"{name}.py", "a") as file:
        file.write("# changed\n")
    assert (code_digest("sigmahat_toy.start") != before) == counts


def test_digest_of_the_training_covers_the_kernels_and_that_of_the_samples_not_the_loss(monkeypatch):
    def modules_of(start):
        seen, real = [], module._source
        with monkeypatch.context() as patch:
            patch.setattr(module, "_source", lambda name: seen.append(name) or real(name))
            code_digest(start)
        return set(seen)

    samples, training = modules_of("sigmahat_trainer.data.dataset"), modules_of("sigmahat_trainer.training.member")
    assert {"sigmahat_trainer.data.simulate", "sigmahat_kernels.features", "sigmahat_kernels.spectrum"} <= samples
    assert {
        "sigmahat_trainer.model.loss",
        "sigmahat_trainer.model.network",
        "sigmahat_trainer.data.dataset",
    } <= training
    assert not {"sigmahat_trainer.model.loss", "sigmahat_trainer.training.member"} & samples


def test_one_thread_parses_at_a_time(toy, monkeypatch):
    """Else CPython 3.11 now and then raises SystemError: it counts the depth of a tree for all threads together."""
    inside, most = [], []

    def parse(source):
        inside.append(source)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return ast.parse(source)

    monkeypatch.setattr(module, "ast", SimpleNamespace(**vars(ast) | {"parse": parse}))
    together = threading.Barrier(2)

    def digest():
        together.wait()
        code_digest("sigmahat_toy.start")

    both = [threading.Thread(target=digest) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert len(most) == 2 * 4
    assert max(most) == 1


def test_versions_are_of_what_is_installed(monkeypatch):
    """The speed of serving is measured where there is no torch."""
    real = importlib.metadata.version

    def version(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    assert provenance()["versions"].keys() == {"python", "numpy", "torch"}
    monkeypatch.setattr(module, "version", version)
    versions = provenance()["versions"]
    assert versions.keys() == {"python", "numpy"}
    assert versions["numpy"] == np.__version__
