# SPDX-License-Identifier: Apache-2.0
"""Returns to features and status."""

from sigmahat_kernels.pipeline import features_and_status
from sigmahat_kernels.request import read_request
from sigmahat_kernels.triton import PythonModel


class TritonPythonModel(PythonModel):
    def answer(self, tensors, parameters):
        request = read_request(**{name.lower(): self.to_device(name, tensor) for name, tensor in tensors.items()})
        table, row_status, row_asset = features_and_status(request)
        # Three members read them: on a GPU they go there once.
        features = self.to_device("FEATURES", table.features)
        return {"FEATURES": features, "ROW_STATUS": row_status, "ROW_ASSET": row_asset}
