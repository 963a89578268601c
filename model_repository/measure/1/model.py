# SPDX-License-Identifier: Apache-2.0
"""Parameters, returns and portfolios to risk: the covariance matrices stay here."""

from sigmahat_kernels.cost import check_cost, risk_cost
from sigmahat_kernels.parameters import split_parameters
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import check_steps, read_request
from sigmahat_kernels.risk import measure_portfolios, published_risk
from sigmahat_kernels.triton import PythonModel


class TritonPythonModel(PythonModel):
    def answer(self, tensors, parameters):
        heads = split_parameters(tensors.pop("PARAMETERS_INTERNAL"))
        block_intensity = tensors.pop("BLOCK_INTENSITY_INTERNAL")
        status = tensors.pop("STATUS_INTERNAL")
        positions = tensors.pop("WEIGHTS", None), tensors.pop("PORTFOLIOS", None)
        classic = parameters.get("classic", False)
        minimum_variance = parameters.get("minimum_variance", False)
        request = read_request(**{name.lower(): self.to_device(name, tensor) for name, tensor in tensors.items()})
        check_steps(request, status, parameters=heads.memory, block_intensity=block_intensity)
        portfolios = read_portfolios(request, *positions)
        cost = risk_cost(request, portfolios.number, minimum_variance=minimum_variance)
        check_cost(cost, len(request.universes))
        risk = measure_portfolios(
            request,
            heads,
            status,
            portfolios,
            minimum_variance=minimum_variance,
            block_intensity=block_intensity,
            classic=classic,
        )
        return published_risk(risk)
