# SPDX-License-Identifier: Apache-2.0
"""Parameters and returns to covariance matrices."""

from sigmahat_kernels.assemble import assemble
from sigmahat_kernels.parameters import split_parameters
from sigmahat_kernels.request import check_steps, read_request
from sigmahat_kernels.triton import PythonModel


class TritonPythonModel(PythonModel):
    def answer(self, tensors, parameters):
        heads = split_parameters(tensors.pop("PARAMETERS_INTERNAL"))
        block_intensity = tensors.pop("BLOCK_INTENSITY_INTERNAL")
        status = tensors.pop("STATUS_INTERNAL")
        classic = parameters.get("classic", False)
        request = read_request(**{name.lower(): self.to_device(name, tensor) for name, tensor in tensors.items()})
        check_steps(request, status, parameters=heads.memory, block_intensity=block_intensity)
        return {"COVARIANCE": assemble(request, heads, status, block_intensity=block_intensity, classic=classic)}
