"""NF4 weights written out for inference on a CPU: the same numbers, held in fp32.

On a CPU each forward pass of a 4-bit layer dequantises the whole weight again, which costs several
times the product itself when few tokens are decoded. The expanded layer multiplies by the very same
dequantised values.
"""

from __future__ import annotations

import logging
from typing import Any

import bitsandbytes
import psutil
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn
from transformers import PreTrainedModel

from loraland.bases.loading import LoadedBase

logger = logging.getLogger(__name__)


def expand_for_inference(base: LoadedBase) -> None:
    """Replace the 4-bit layers of a CPU base by plain ones with equal weights.

    Takes 4 bytes per parameter instead of about a half; changes nothing on a GPU, at another
    precision, or where memory does not suffice. The precision of the base keeps its name, because
    what it computes is what it computed before.
    """
    if base.precision != "nf4" or base.device.type != "cpu":
        return
    layers = _four_bit_layers(base.model)
    needed = sum(4 * layer.in_features * layer.out_features for _, _, layer in layers)
    if needed > psutil.virtual_memory().available:
        logger.info(
            "base %s stays in 4 bits: %.1f GB more do not fit", base.entry.name, needed / 1e9
        )
        return
    for parent, name, layer in layers:
        setattr(parent, name, _expanded(layer))


def _four_bit_layers(model: PreTrainedModel) -> list[tuple[nn.Module, str, Any]]:
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, bitsandbytes.nn.Linear4bit)
    ]


def _expanded(layer: Any) -> nn.Linear:
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)  # (out, in)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight.to(torch.float32), requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.data.to(torch.float32), requires_grad=False)
    return plain.eval()
