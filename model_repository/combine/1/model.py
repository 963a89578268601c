# SPDX-License-Identifier: Apache-2.0
"""The members' answers into one."""

import numpy as np

from sigmahat_kernels.combine import check_rows, publish, published_tensors, weigh
from sigmahat_kernels.metrics import INTENSITY, UNCERTAINTY, UNIVERSES
from sigmahat_kernels.status import Status
from sigmahat_kernels.triton import PythonModel


class TritonPythonModel(PythonModel):
    def answer(self, tensors, parameters):
        weighted = tensors.get("WEIGHTED")  # from the engine of all members
        members = [tensor for name, tensor in tensors.items() if name.startswith("MEMBER_")]
        check_rows(members or [weighted], tensors["ROW_STATUS"], tensors["ROW_ASSET"])
        if weighted is None:
            weighted = weigh(members)
        combined = publish(weighted, tensors["ROW_STATUS"])
        status = tensors["ROW_STATUS"][:, 0]
        self.observe(combined, status)
        return {
            **published_tensors(combined),
            "STATUS": status,
            "STATUS_ASSET": tensors["ROW_ASSET"][:, 0],
            "PARAMETERS_INTERNAL": combined.parameters,
            "BLOCK_INTENSITY_INTERNAL": combined.block_intensity,
            "STATUS_INTERNAL": status,
        }

    def observe(self, combined, status):
        for code, n in zip(*np.unique(status, return_counts=True), strict=True):
            self.meters.add(UNIVERSES, n, status=Status(code).name)
        good = status == Status.GOOD
        self.meters.observe(INTENSITY, combined.intensity[good])
        for kind, values in zip(("aleatoric", "epistemic"), combined.uncertainty[good].T, strict=True):
            self.meters.observe(UNCERTAINTY, values, kind=kind)
