# SPDX-License-Identifier: Apache-2.0
"""Returns to features and status."""

import numpy as np

from sigmahat_kernels.cost import check_cost, features_cost
from sigmahat_kernels.metrics import observe_warnings
from sigmahat_kernels.oddities import published_warnings
from sigmahat_kernels.pipeline import features_and_status
from sigmahat_kernels.request import read_request
from sigmahat_kernels.solvers import choose_solver
from sigmahat_kernels.triton import PythonModel


class TritonPythonModel(PythonModel):
    def load(self, version_directory):
        solver = choose_solver(self.to_device("PANEL", np.zeros((1, 1), np.float32)))  # compiles the kernels of a GPU
        self.log(f"spectra by {solver.name}")

    def answer(self, tensors, parameters):
        request = read_request(**{name.lower(): self.to_device(name, tensor) for name, tensor in tensors.items()})
        check_cost(features_cost(request), len(request.universes))
        table, row_status, row_asset = features_and_status(request)
        # All members read them: on a GPU they go there once.
        features = self.to_device("FEATURES", table.features)
        warnings = published_warnings(table.warnings, request.universes)
        observe_warnings(self.meters, warnings["WARNINGS"])
        return {"FEATURES": features, "ROW_STATUS": row_status, "ROW_ASSET": row_asset, **warnings}
