# SPDX-License-Identifier: Apache-2.0
"""What people send -> plain tensors, checked: containers, rows and dates, universes, unusable assets, portfolios."""

from sigmahat_client.intake.encoding import encode
from sigmahat_client.intake.job import CHUNK_CELLS, Job, chunk_tensors, chunks, shared_tensors
from sigmahat_client.intake.periods import periods_of
from sigmahat_client.intake.portfolios import Positions, read_portfolios

__all__ = [
    "CHUNK_CELLS",
    "Job",
    "Positions",
    "chunk_tensors",
    "chunks",
    "encode",
    "periods_of",
    "read_portfolios",
    "shared_tensors",
]
