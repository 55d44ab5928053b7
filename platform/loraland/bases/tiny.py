"""Random models of a few thousand parameters in the catalogue's architectures, speaking bytes.

For tests and for rehearsals of the machinery at full width: they load, train and serve as real ones
do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, cast

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

from loraland import settings
from loraland.bases.catalogue import Base, Precision
from loraland.bases.loading import LoadedBase, base_from_folder, load_folder
from loraland.local_copy import local_copy

Architecture = Literal["llama", "mistral", "phi", "gemma"]

SPECIAL = ["<pad>", "<s>", "</s>"]  # ids 0, 1, 2; the 256 bytes follow
VOCABULARY = len(SPECIAL) + 256
CONTEXT_TOKENS = 512
FORMAT = 1  # raise when a base of the same name would be written differently

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


def folder(base: Base) -> Path:
    """The model of a base `tiny-...` in the cache, written on first use; its name is its seed."""
    seed = int.from_bytes(hashlib.sha256(base.name.encode()).digest()[:4], "big")
    architecture = cast(Architecture, base.architecture)

    def fill(place: Path) -> None:
        write_tiny(architecture, place, seed, base.chat, base.context_tokens)

    copy = settings.cache_folder() / "tiny" / f"{base.name}-{FORMAT}"
    return local_copy(copy, is_good=Path.is_dir, fill=fill)


def write_tiny(
    architecture: Architecture,
    folder: Path,
    seed: int = 0,
    chat: bool = True,
    context_tokens: int = CONTEXT_TOKENS,
) -> Path:
    """Write a random model and its tokenizer as `from_pretrained` reads them.

    The same bytes for a seed.
    """
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        model = AutoModelForCausalLM.from_config(_config(architecture, context_tokens))
    finally:
        torch.set_rng_state(generator_state)
    model.save_pretrained(folder)
    byte_tokenizer(chat, context_tokens).save_pretrained(folder)
    return folder


def load_tiny(
    architecture: Architecture, folder: Path, precision: Precision = "fp32", seed: int = 0
) -> LoadedBase:
    """Load `tiny-<architecture>` on the CPU, from a folder that is written when it has no model."""
    if not (folder / "config.json").is_file():
        write_tiny(architecture, folder, seed)
    entry = base_from_folder(folder, f"tiny-{architecture}")
    return load_folder(folder, entry, precision, torch.device("cpu"))


def _config(architecture: Architecture, context_tokens: int) -> PreTrainedConfig:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": context_tokens,
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


def byte_tokenizer(chat: bool, context_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer with a token per byte and the special ones; its end token is `</s>`."""
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
        model_max_length=context_tokens,
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer
