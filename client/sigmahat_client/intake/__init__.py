# SPDX-License-Identifier: Apache-2.0
"""What people send -> plain tensors, checked: containers, rows and dates, universes, unusable assets."""

from sigmahat_client.intake.encoding import encode
from sigmahat_client.intake.job import CHUNK_CELLS, Job, chunk_tensors, chunks, shared_tensors

__all__ = ["CHUNK_CELLS", "Job", "chunk_tensors", "chunks", "encode", "shared_tensors"]
