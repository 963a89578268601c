# SPDX-License-Identifier: Apache-2.0
"""A member of the ensemble on a CPU: its INT8 Q/DQ graph in ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sigmahat_kernels.features import FEATURE_NAMES
from sigmahat_kernels.manifest import read_manifest, read_verified
from sigmahat_kernels.parameters import N_PARAMETERS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MEMBER_FILES = {"int8": "model.onnx", "int8-fp16": "model_int8_fp16.onnx", "fp16": "model_fp16.onnx"}
"""Precision -> file in a member's version folder. The first runs everywhere; the others are for engines on a GPU: the
same int8 products with float16 between them, and float16 throughout."""

MEAN_LIMIT, P99_LIMIT = 0.01, 0.03
"""What int8, or another order of rounding, may change in an answer, in its unit: on average and in the worst hundredth.
A maximum would only measure that single values fall to the other side of a rounding."""


class MemberError(RuntimeError):
    """A member's file cannot be used with these kernels."""


def member_folders(model_repository: Path) -> dict[str, Path]:
    """Members by name, `member_1` and so on in order, with the folders of their files.

    As many as the manifest names, so that one whose folder is gone is missed where it is opened.

    Raises
    ------
    ManifestError
        If there is no manifest.
    MemberError
        If there is no member, or the manifest names none.
    """
    if not (model_repository / "member_1").is_dir():
        raise MemberError(
            f"no member at {model_repository / 'member_1'}: run `sigmahat export` or check out the committed files"
        )
    n_members = sum(name.endswith(f"/{MEMBER_FILES['int8']}") for name in read_manifest(model_repository))
    if not n_members:
        raise MemberError(f"the manifest of {model_repository} names no member: run `sigmahat export`")
    return {f"member_{k}": model_repository / f"member_{k}" / "1" for k in range(1, n_members + 1)}


def session_on_cpu(model: bytes | str | os.PathLike[str]) -> InferenceSession:
    """An ONNX file, or its content, in ONNX Runtime: on one thread, to the same answers on every processor.

    Q/DQ pairs stay as they are written, products of what int8 can hold in float32. Fused into ONNX Runtime's own int8
    products they saturate on x86 processors without VNNI (two products of 8 bits each are added up in 16), which moves
    single answers by 0.2 and says nothing; with VNNI they are no faster.

    Raises
    ------
    ModuleNotFoundError
        If onnxruntime is not installed; says what to type.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "estimating in this process needs onnxruntime, which is not installed: pip install 'sigmahat[local]'",
            name=error.name,
        ) from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns that it has no float16 kernel to fold a constant with
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = model if isinstance(model, bytes) else os.fspath(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class Member:
    """Runs one ``model.onnx``; safe to call from several threads.

    Parameters
    ----------
    path : Path
        File written by ``sigmahat export``: ``member_k/VERSION/model.onnx`` of a model repository, which holds the
        manifest too.

    Raises
    ------
    ModuleNotFoundError
        If onnxruntime is not installed; says what to type.
    ManifestError
        If the file is not the one that was exported.
    MemberError
        If the file was trained on other features, or answers another layout, than these kernels publish.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        if not path.is_file():
            raise MemberError(f"no member at {path}: run `sigmahat export` or check out the committed file")
        content = read_verified(path, path.parents[2])
        self._session = session_on_cpu(content)
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        wanted, got = ",".join(FEATURE_NAMES), self.metadata.get("features", "")
        if got != wanted:
            differing = sorted(set(got.split(",")) ^ set(FEATURE_NAMES))
            raise MemberError(
                f"{path} was trained on another list of features; differing: {differing or 'their order'}"
            )
        (output,) = self._session.get_outputs()
        if output.shape[-1] != N_PARAMETERS:
            raise MemberError(f"{path} answers {output.shape[-1]} parameters, these kernels read {N_PARAMETERS}")

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Answer features of shape (n, N_FEATURES) float32 with parameters of shape (n, N_PARAMETERS) float32.

        A NaN row comes back as plausible numbers (INT8 rounds NaN away): the caller masks by status.
        """
        return self._session.run(None, {"FEATURES": np.ascontiguousarray(features, np.float32)})[0]
