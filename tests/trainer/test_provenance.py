# SPDX-License-Identifier: Apache-2.0
"""Which source a digest of the code covers."""

from __future__ import annotations

import importlib
import sys

import pytest

from sigmahat_trainer.provenance import code_digest


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


def test_digest_of_the_training_covers_the_kernels_and_that_of_the_windows_not_the_loss(monkeypatch):
    from sigmahat_trainer import provenance

    def modules_of(module):
        seen, real = [], provenance._source
        with monkeypatch.context() as patch:
            patch.setattr(provenance, "_source", lambda name: seen.append(name) or real(name))
            code_digest(module)
        return set(seen)

    windows, training = modules_of("sigmahat_trainer.data.dataset"), modules_of("sigmahat_trainer.training.member")
    assert {"sigmahat_trainer.data.simulate", "sigmahat_kernels.features", "sigmahat_kernels.spectrum"} <= windows
    assert {
        "sigmahat_trainer.model.loss",
        "sigmahat_trainer.model.network",
        "sigmahat_trainer.data.dataset",
    } <= training
    assert not {"sigmahat_trainer.model.loss", "sigmahat_trainer.training.member"} & windows
