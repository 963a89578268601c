# SPDX-License-Identifier: Apache-2.0
"""Features to one member's parameters."""

from pathlib import Path

from sigmahat_kernels.members import Member
from sigmahat_kernels.triton import PythonModel


class TritonPythonModel(PythonModel):
    def load(self, version_directory: Path) -> None:
        self.member = Member(version_directory / "model.onnx")

    def answer(self, tensors, parameters):
        return {"PARAMETERS": self.member(tensors["FEATURES"])}
