"""Random models of a few thousand parameters in the catalogue's architectures, speaking bytes.

For tests and for rehearsals of the machinery at full width: they load, train and serve as real ones
do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from loraland.bases.catalogue import Precision
from loraland.bases.loading import LoadedBase, base_from_folder, load_folder

Architecture = Literal["llama", "mistral", "phi", "gemma"]

SPECIAL = ["<pad>", "<s>", "</s>"]  # ids 0, 1, 2; the 256 bytes follow
VOCABULARY = len(SPECIAL) + 256

_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "phi": PhiConfig,
    "gemma": GemmaConfig,
}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<s>{{ message['role'] }}: {{ message['content'] }}</s>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


def write_tiny(architecture: Architecture, folder: Path, seed: int = 0, chat: bool = True) -> Path:
    """Write a random model and its tokenizer as `from_pretrained` reads them.

    The same bytes for a seed.
    """
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(_config(architecture))
    finally:
        torch.set_rng_state(generator_state)
    model.save_pretrained(folder)
    _byte_tokenizer(chat).save_pretrained(folder)
    return folder


def load_tiny(
    architecture: Architecture, folder: Path, precision: Precision = "fp32", seed: int = 0
) -> LoadedBase:
    """Load `tiny-<architecture>` on the CPU, from a folder that is written when it has no model."""
    if not (folder / "config.json").is_file():
        write_tiny(architecture, folder, seed)
    entry = base_from_folder(folder, f"tiny-{architecture}")
    return load_folder(folder, entry, precision, torch.device("cpu"))


def _config(architecture: Architecture) -> PreTrainedConfig:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        # Wide enough that greedy choices are not ties.
        "initializer_range": 0.2,
    }
    if architecture == "phi":
        shape |= {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}
        del shape["head_dim"]
    return _CONFIGS[architecture](**shape)


def _byte_tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer
