# SPDX-License-Identifier: Apache-2.0
"""The members' answers into one."""

from sigmahat_kernels.combine import combine, published_tensors
from sigmahat_kernels.triton import PythonModel


class TritonPythonModel(PythonModel):
    def answer(self, tensors, parameters):
        members = [tensors[f"MEMBER_{k}"] for k in (1, 2, 3)]
        combined = combine(members, tensors["ROW_STATUS"])
        status = tensors["ROW_STATUS"][:, 0]
        return {
            **published_tensors(combined),
            "STATUS": status,
            "STATUS_ASSET": tensors["ROW_ASSET"][:, 0],
            "PARAMETERS_INTERNAL": combined.parameters,
            "BLOCK_INTENSITY_INTERNAL": combined.block_intensity,
            "STATUS_INTERNAL": status,
        }
