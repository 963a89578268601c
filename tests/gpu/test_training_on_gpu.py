# SPDX-License-Identifier: Apache-2.0
"""A step of training on a GPU against the same on the CPU."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs sigmahat[train]")
pytestmark = pytest.mark.gpu

DRAWN = ("total", "qlike")
"""Losses that hang on random portfolios, which each device draws for itself."""


@pytest.fixture
def steps(cupy: ModuleType) -> ModuleType:
    """The benchmark of training, whose samples these are."""
    if not torch.cuda.is_available():
        pytest.skip("needs a torch that finds the CUDA device")
    return pytest.importorskip("benchmarks.speed.gpu_training", reason="needs sigmahat[train]")


def test_losses_and_their_gradient(steps: ModuleType) -> None:
    batch = steps.draw_batch(steps.Problem((8, 50, 120), 48, 1))
    config = steps.TrainConfig(qlike_weight=0.0)
    found = []
    for device in (steps.CPU, steps.training_device()):
        logits = steps.constant_logits(steps.STARTING_CONSTANTS).to(device).repeat(48, 1).requires_grad_()
        losses = steps.batch_losses(logits, logits[0].detach(), batch, config, np.random.default_rng(0))
        losses.total.backward()
        assert losses.total.device == device
        found.append((losses, logits.grad.cpu().numpy()))
    (on_host, expected), (on_device, gradient) = found
    for name, value in on_host._asdict().items():
        if name not in DRAWN:
            np.testing.assert_allclose(
                float(getattr(on_device, name)), float(value), rtol=1e-4, atol=1e-5, err_msg=name
            )
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_two_runs_have_the_same_bits(steps: ModuleType) -> None:
    """As processes that share a step must."""
    batch = steps.draw_batch(steps.Problem((8, 50), 32, 1))
    constants, device = steps.constant_logits(steps.STARTING_CONSTANTS), steps.training_device()
    first, second = (torch.stack(steps.losses_of(batch, constants, steps.TrainConfig(), device)) for _ in range(2))
    assert torch.equal(first, second)
