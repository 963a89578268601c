# SPDX-License-Identifier: Apache-2.0
"""Processes that train one network together, as torchrun starts them; a process alone is the first of one."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from sigmahat_trainer.processes import end_with_parent

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: the first draws the samples meanwhile. torchrun ends a group that broke."""

CPU = torch.device("cpu")


class TooFewGpusError(ValueError):
    """torchrun started more processes on this node than it has GPUs."""


def training_device(number: int = 0) -> torch.device:
    """Where this process trains: under torchrun on the GPU of its LOCAL_RANK, else on the GPU `number`, counted round.

    The CPU where torch finds no GPU.
    """
    if not torch.cuda.is_available():
        return CPU
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", number)) % torch.cuda.device_count())


def generator_of(device: torch.device) -> torch.Generator:
    """What everything random on a device is drawn from, unless told otherwise."""
    return torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator


@contextmanager
def group() -> Iterator[None]:
    """Join the processes that torchrun started (environment: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), if any.

    They must see the same files, and run on processors of one kind, so that the same step has the same outcome in each.
    On a node with GPUs each has one of its own (LOCAL_RANK): sums of what lies there are NCCL's, all else is gloo's.

    Raises
    ------
    TooFewGpusError
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if dist.is_torchelastic_launched():
        end_with_parent()
    device = training_device()
    backend = "gloo"
    if device.type == "cuda":
        wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if wanted > there:
            raise TooFewGpusError(
                f"torchrun started {wanted} processes on a node with {there} GPUs: --nproc-per-node {there} is the most"
            )
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def group_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def first_alone() -> Iterator[None]:
    """Let the first process do something before the others do it, who then find it done."""
    if not is_first():
        meet()
    yield
    if is_first():
        meet()


def meet() -> None:
    """Wait until all processes are here; on the host, so that no GPU is kept busy by waiting."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))


def own_share(costs: Sequence[float]) -> set[int]:
    """Which pieces of work are this process's: the dearest goes to whoever has least so far, then the next.

    Longest processing time first (Graham 1969, SIAM J. Applied Mathematics 17(2)): at most 4/3 of the best possible.
    """
    loads = [(0.0, rank) for rank in range(group_size())]
    owners = {}
    for k in sorted(range(len(costs)), key=lambda k: -costs[k]):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + costs[k], rank))
        owners[k] = rank
    own = dist.get_rank() if dist.is_initialized() else 0
    return {k for k, rank in owners.items() if rank == own}


def add_up(tensor: Tensor) -> Tensor:
    """The sum over all processes, the same in each; not differentiable, and where `tensor` is."""
    total = tensor.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total
