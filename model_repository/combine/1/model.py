# SPDX-License-Identifier: Apache-2.0
"""The members' answers into one."""

from sigmahat_kernels.combine import check_rows, publish, published_tensors, weigh
from sigmahat_kernels.metrics import observe_answers
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
        observe_answers(self.meters, combined, status)
        return {
            **published_tensors(combined),
            "STATUS": status,
            "STATUS_ASSET": tensors["ROW_ASSET"][:, 0],
            "PARAMETERS_INTERNAL": combined.parameters,
            "BLOCK_INTENSITY_INTERNAL": combined.block_intensity,
            "STATUS_INTERNAL": status,
        }
