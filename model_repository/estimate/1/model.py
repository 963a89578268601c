# SPDX-License-Identifier: Apache-2.0
"""Returns to parameters and covariance matrices, on a CPU: all steps in one process."""

from sigmahat_kernels.cost import check_cost, features_cost, matrices_cost
from sigmahat_kernels.manifest import MANIFEST
from sigmahat_kernels.metrics import observe_answers, observe_warnings
from sigmahat_kernels.pipeline import Pipeline, published_outputs
from sigmahat_kernels.request import read_request
from sigmahat_kernels.sliced import SlicedModel, Work


class TritonPythonModel(SlicedModel):
    def load(self, version_directory):
        # A release has its own members beside this file; else they are those of the repository.
        served_alone = (version_directory / MANIFEST).exists()
        self.pipeline = Pipeline(version_directory if served_alone else version_directory.parents[1])

    def plan(self, tensors, parameters, outputs):
        covariance = "COVARIANCE" in outputs

        def read():
            return read_request(**{name.lower(): tensor for name, tensor in tensors.items()})

        def answer(pause):
            request = read()
            classic = parameters.get("classic", False)
            answers = self.pipeline.estimate(
                request, covariance=covariance, classic=classic, pause=pause, measure=self.measure
            )
            observe_answers(self.meters, answers.combined, answers.status)
            observe_warnings(self.meters, answers.warnings.of_universe)
            return published_outputs(answers, request.universes)

        request = read()
        n_universes = len(request.universes)
        cost = check_cost(features_cost(request), n_universes)
        return Work(cost + (matrices_cost(request) if covariance else 0.0), n_universes, answer)
