"""Bases of a real shape with random weights, made where they run: for measurements of speed."""

from __future__ import annotations

import bitsandbytes
import torch
from torch import nn
from transformers import AutoModelForCausalLM, MistralConfig, PreTrainedModel

MISTRAL_7B = MistralConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=32_768,
    sliding_window=None,
)
TINY = MistralConfig(
    vocab_size=259,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=2048,
    sliding_window=None,
)


def random_base(config: MistralConfig, precision: str, device: torch.device) -> PreTrainedModel:
    """A frozen model in eval mode. `precision` is bf16 or nf4, as `load_base` means them: NF4
    computes in bf16 on a GPU and in fp32 on a CPU, and leaves embeddings and head alone.
    """
    half = precision == "bf16" or device.type == "cuda"
    dtype = torch.bfloat16 if half else torch.float32
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if precision == "nf4":
        _quantise(model, dtype, device)
    model.eval().requires_grad_(False)
    return model


def _quantise(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> None:
    for path, linear in list(model.model.named_modules(prefix="model")):
        if isinstance(linear, nn.Linear):
            packed = bitsandbytes.nn.Linear4bit(
                linear.in_features, linear.out_features, bias=False, compute_dtype=dtype,
                compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            packed.weight = bitsandbytes.nn.Params4bit(
                linear.weight.data.cpu(), requires_grad=False, compress_statistics=True,
                quant_type="nf4", module=packed,
            ).to(device)  # fmt: skip
            packed.support_avx512bf16_for_cpu = False  # as `load_base` says why
            model.set_submodule(path, packed)
    model.is_loaded_in_4bit = True  # PEFT asks


def bytes_per_step(model: PreTrainedModel) -> int:
    """Of the weights that a pass of few tokens reads: all but the rows of the embedding that no
    token has, and the statistics of quantised weights with them.
    """
    table = model.get_input_embeddings()
    total = 0
    for module in model.modules():
        if module is table:
            continue
        for weight in module.parameters(recurse=False):
            total += weight.nbytes
            state = getattr(weight, "quant_state", None)
            if state is not None:
                total += state.absmax.nbytes
                total += state.state2.absmax.nbytes if state.nested else 0
    return total
