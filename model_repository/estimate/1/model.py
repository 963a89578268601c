# SPDX-License-Identifier: Apache-2.0
"""Returns to parameters, covariance matrices and the risk of portfolios, on a CPU: all steps in one process."""

from sigmahat_kernels.cost import check_cost, features_cost, matrices_cost, risk_cost
from sigmahat_kernels.manifest import MANIFEST
from sigmahat_kernels.metrics import observe_answers, observe_warnings
from sigmahat_kernels.pipeline import Pipeline, published_outputs
from sigmahat_kernels.portfolios import read_portfolios
from sigmahat_kernels.request import read_request
from sigmahat_kernels.risk import PUBLISHED_RISK
from sigmahat_kernels.sliced import SlicedModel, Work


class TritonPythonModel(SlicedModel):
    def load(self, version_directory):
        # A release has its own members beside this file; else they are those of the repository.
        served_alone = (version_directory / MANIFEST).exists()
        self.pipeline = Pipeline(version_directory if served_alone else version_directory.parents[1])

    def plan(self, tensors, parameters, outputs):
        covariance, risk = "COVARIANCE" in outputs, not set(PUBLISHED_RISK).isdisjoint(outputs)
        classic = parameters.get("classic", False)
        minimum_variance = risk and parameters.get("minimum_variance", False)

        def read():
            given = {name.lower(): tensor for name, tensor in tensors.items()}
            positions = given.pop("weights", None), given.pop("portfolios", None)
            request = read_request(**given)
            return request, read_portfolios(request, *positions) if risk else None

        def answer(pause):
            request, portfolios = read()
            answers = self.pipeline.estimate(
                request,
                covariance=covariance,
                portfolios=portfolios,
                minimum_variance=minimum_variance,
                classic=classic,
                pause=pause,
                measure=self.measure,
            )
            observe_answers(self.meters, answers.combined, answers.status)
            observe_warnings(self.meters, answers.warnings.of_universe)
            return published_outputs(answers, request.universes)

        request, portfolios = read()
        n_universes = len(request.universes)
        cost = check_cost(features_cost(request), n_universes)
        if covariance:
            cost += matrices_cost(request)
        if portfolios is not None:
            of_risk = risk_cost(request, portfolios.number, minimum_variance=minimum_variance)
            cost += check_cost(of_risk, n_universes)
        return Work(cost, n_universes, answer)
