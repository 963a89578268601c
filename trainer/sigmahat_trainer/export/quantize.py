# SPDX-License-Identifier: Apache-2.0
"""Int8 by explicit quantisation: which layers, their scales, and the Q/DQ nodes that an ONNX file carries.

Activations are symmetric int8 with one scale a tensor, from the 99.99 % quantile of their absolute value; weights are
symmetric int8 with one scale an output channel; biases stay float. Quantised is every Linear except the last one of
each head. The input's BatchNorm and Clip stay float, and so do the attention's products and its softmax.
"""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from sigmahat_trainer.model.network import MemberNetwork, ResidualBlock

QUANTILE = 0.9999

_SMALLEST_SCALE = 1e-8

Mode = Literal["off", "calib", "quant", "export"]


class QLinear(nn.Linear):
    """A Linear whose input and weights pass through int8.

    mode "off" is the float layer; "calib" the same, remembering its inputs; "quant" rounds to int8 and back, with a
    straight-through gradient; "export" holds the weights as int8 and can only be traced by `torch.onnx.export`.
    """

    scale: Tensor
    int8_weight: Tensor
    int8_weight_scale: Tensor
    int8_weight_zero: Tensor
    zero: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("scale", torch.ones(()))
        self.mode: Mode = "off"
        self.seen: list[Tensor] = []

    def weight_scale(self) -> Tensor:
        """Of shape (out_features,): the largest absolute weight of a channel becomes 127."""
        return self.weight.detach().abs().amax(dim=1).clamp_min(_SMALLEST_SCALE) / 127

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "export":
            return nn.functional.linear(self._export_input(x), self._export_weight(), self.bias)
        if self.mode == "quant":
            return nn.functional.linear(self._round_input(x), self._round_weight(), self.bias)
        if self.mode == "calib":
            self.seen.append(x.detach().abs().flatten())
        return nn.functional.linear(x, self.weight, self.bias)

    def finish_calibration(self) -> None:
        """Set the scale from the inputs seen, and start rounding."""
        values = torch.cat(self.seen)
        rank = max(1, round(values.numel() * QUANTILE))
        self.scale.copy_(values.kthvalue(rank).values.clamp_min(_SMALLEST_SCALE * 127) / 127)
        self.seen, self.mode = [], "quant"

    def freeze(self) -> None:
        """Hold the weights as int8, ready for export."""
        scale = self.weight_scale()
        self.register_buffer("int8_weight", (self.weight.detach() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("int8_weight_scale", scale)
        self.register_buffer("int8_weight_zero", torch.zeros(self.out_features, dtype=torch.int8))
        self.register_buffer("zero", torch.zeros((), dtype=torch.int8))
        self.mode = "export"

    def _round_input(self, x: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.int32, device=x.device)
        return torch.fake_quantize_per_tensor_affine(x, self.scale, zero, -128, 127)

    def _round_weight(self) -> Tensor:
        scale = self.weight_scale()
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(self.weight, scale, zero, 0, -127, 127)

    def _export_input(self, x: Tensor) -> Tensor:
        symbolic = torch.onnx.ops.symbolic
        rounded = symbolic("QuantizeLinear", (x, self.scale, self.zero), dtype=torch.int8, shape=x.shape)
        return symbolic("DequantizeLinear", (rounded, self.scale, self.zero), dtype=x.dtype, shape=x.shape)

    def _export_weight(self) -> Tensor:
        return torch.onnx.ops.symbolic(
            "DequantizeLinear",
            (self.int8_weight, self.int8_weight_scale, self.int8_weight_zero),
            {"axis": 0},
            dtype=self.int8_weight_scale.dtype,
            shape=self.int8_weight.shape,
        )


@torch.no_grad()
def quantize(network: MemberNetwork, calibration_features: Tensor) -> MemberNetwork:
    """A copy of `network`, in eval mode, whose layers round to int8 with scales from `calibration_features`.

    The features have shape (n, n_features). A thousand rows of the training data are enough; a hundred are not, because
    the scale is an extreme quantile.
    """
    if calibration_features.ndim != 2 or calibration_features.shape[1] != network.n_features:
        raise ValueError(
            f"calibration_features must have shape (n, {network.n_features}), got {tuple(calibration_features.shape)}"
        )
    if not len(calibration_features) or not calibration_features.isfinite().all():
        raise ValueError("calibration_features must have at least one row, and finite values only")
    quantised = copy.deepcopy(network).eval()
    for block in quantised.residual_blocks:
        _fold_batch_norm(cast(ResidualBlock, block))
    _replace_linears(quantised, keep=set(quantised.output_layers().values()))
    layers = quantised_layers(quantised)
    for layer in layers:
        layer.mode = "calib"
    quantised(calibration_features.to(quantised.median.device))
    for layer in layers:
        layer.finish_calibration()
    return quantised


def freeze(network: MemberNetwork) -> MemberNetwork:
    """A copy of `network`, in eval mode, that `torch.onnx.export` can trace: its int8 layers hold int8 weights."""
    frozen = copy.deepcopy(network).eval()
    for layer in quantised_layers(frozen):
        layer.freeze()
    return frozen


def half_body(frozen: MemberNetwork) -> MemberNetwork:
    """Turn what lies between the Clip and the last activations of a frozen network to float16, in place.

    The input's scaling, BatchNorm and Clip stay float32, because raw features span more than float16 holds, and so do
    the last activations. Int8 products stay int8: only what stands between them is halved.
    """
    for block in frozen.residual_blocks:
        if isinstance(block.norm_1, nn.BatchNorm1d):
            _fold_batch_norm(cast(ResidualBlock, block))
    for part in (frozen.extraction, frozen.attention, frozen.residual_blocks, frozen.heads):
        part.half()
    return frozen


def quantised_layers(network: nn.Module) -> list[QLinear]:
    """The int8 layers of a network: none unless it comes from `quantize`."""
    return [module for module in network.modules() if isinstance(module, QLinear)]


def _fold_batch_norm(block: ResidualBlock) -> None:
    # Else the BatchNorm would stand between the integer product and its ELU, and keep the two from being one kernel.
    block.dense_1 = fuse_linear_bn_eval(block.dense_1, block.norm_1)
    block.dense_2 = fuse_linear_bn_eval(block.dense_2, block.norm_2)
    block.norm_1 = block.norm_2 = nn.Identity()  # type: ignore[assignment]


def _replace_linears(module: nn.Module, keep: set[nn.Linear]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if child not in keep:
                setattr(module, name, QLinear(child))
        else:
            _replace_linears(child, keep)
