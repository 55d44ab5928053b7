"""Puts a base into memory: finds its folder, checks that it fits, loads it frozen at a precision.

Every base is read from a local folder of safetensors: the embedded copy, a snapshot of the hub, a
random model of a rehearsal, or a folder that the user names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bitsandbytes
import psutil
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from loraland.adapters.names import is_part
from loraland.bases import embedded
from loraland.bases.catalogue import Base, Precision, get_base
from loraland.bases.fingerprint import fingerprint
from loraland.errors import BaseUnavailable, InvalidConfiguration, NotEnoughMemory

# Bytes per parameter while loading. NF4 with double quantisation is 0.52 for the linear layers;
# embeddings and norms stay in the compute type, and the largest shard is read before it is
# quantised.
BYTES_PER_PARAMETER = {"fp32": 4.0, "bf16": 2.0, "nf4": 0.9}

_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A frozen base in memory."""

    entry: Base
    model: PreTrainedModel  # in eval mode, no parameter requires a gradient
    tokenizer: PreTrainedTokenizerBase  # with a pad token
    fingerprint: str  # of the weights as published, whatever the precision here
    precision: Precision

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.device)


def load_base(
    base: str | Base, precision: Precision = "fp32", device: str | None = None
) -> LoadedBase:
    """Load a base of the catalogue, frozen.

    Weights go to the first CUDA device when there is one, unless `device` says otherwise. NF4 uses
    double quantisation and computes in bf16 on a GPU, in fp32 on a CPU. Raises UnknownBase,
    BaseUnavailable, NotEnoughMemory, InvalidConfiguration.
    """
    entry = get_base(base) if isinstance(base, str) else base
    if precision not in BYTES_PER_PARAMETER:
        raise InvalidConfiguration(
            f"precision '{precision}' is not known; possible: {', '.join(BYTES_PER_PARAMETER)}"
        )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_memory(entry, precision, place)
    return load_folder(find_folder(entry), entry, precision, place)


def load_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """The tokenizer of a base alone, with a pad token. Raises BaseUnavailable."""
    return _read_tokenizer(find_folder(base))


def load_folder(
    folder: Path, entry: Base, precision: Precision, device: torch.device
) -> LoadedBase:
    """Load a base from a local folder of safetensors. Raises BaseUnavailable."""
    compute = (
        torch.bfloat16 if precision == "bf16" or _half_on(device, precision) else torch.float32
    )
    options: dict[str, Any] = {
        "dtype": compute,
        "device_map": {"": device},
        "local_files_only": True,
    }
    if precision == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **options)
        tokenizer = _read_tokenizer(folder)
    except (OSError, ValueError) as error:
        raise BaseUnavailable(
            f"base '{entry.name}' cannot be read from {folder}: {error}"
        ) from error
    model.eval().requires_grad_(False)
    _keep_one_arithmetic(model)
    return LoadedBase(entry, model, tokenizer, fingerprint(folder), precision)


def base_from_folder(folder: Path, name: str | None = None) -> Base:
    """A catalogue entry for a local folder with config, tokenizer and safetensors.

    Raises BaseUnavailable.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BaseUnavailable(f"{folder} is not a model folder: {error}") from error
    name = name or folder.name.lower()
    if not is_part(name):
        raise BaseUnavailable(
            f"the folder's name '{name}' cannot be the name of a base; "
            "rename it to letters, digits, '.', '_' and '-'"
        )
    return Base(
        name=name,
        hub_id=name,
        architecture=config.model_type,
        parameters=max(1, sum(file.stat().st_size for file in folder.glob("*.safetensors")) // 4),
        context_tokens=config.max_position_embeddings,
        chat=_read_tokenizer(folder).chat_template is not None,
        folder=str(folder),
    )


def find_base(text: str) -> Base:
    """A base by its name in the catalogue, or by the path of a local model folder.

    Raises UnknownBase, BaseUnavailable.
    """
    is_path = "/" in text or text.startswith(".")
    return base_from_folder(Path(text).expanduser().resolve()) if is_path else get_base(text)


def find_folder(base: Base) -> Path:
    """The local folder of a base; downloads a hub snapshot when needed. Raises BaseUnavailable."""
    if base.folder is not None:
        return Path(base.folder)
    if base.embedded:
        return embedded.folder()
    if base.tiny:
        from loraland.bases import tiny  # which loads its models through this module

        return tiny.folder(base)
    return _hub_snapshot(base)


def check_memory(base: Base, precision: Precision, device: torch.device) -> None:
    """Raises NotEnoughMemory when the weights alone would not fit into what is free now."""
    needed = int(base.parameters * BYTES_PER_PARAMETER[precision])
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else psutil.virtual_memory().available
    )
    if needed > free:
        smaller = [p for p, size in BYTES_PER_PARAMETER.items() if base.parameters * size < free]
        raise NotEnoughMemory(
            f"base '{base.name}' needs about {needed / 1e9:.1f} GB in {precision}, {device} has "
            f"{free / 1e9:.1f} GB free; "
            + (
                f"use precision {smaller[-1]}"
                if smaller
                else "use a larger machine or a smaller base"
            )
        )


def _keep_one_arithmetic(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking NF4 weights at the first evaluation.

    It does so on CPUs with AVX512-BF16. The repacked product computes in bf16 whatever the compute
    type, passes no gradient on (training after an evaluation would be silently wrong), and is not
    undone: a resumed run would differ from a whole one.
    """
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _half_on(device: torch.device, precision: Precision) -> bool:
    return precision == "nf4" and device.type == "cuda"


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BaseUnavailable(f"no tokenizer can be read from {folder}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _hub_snapshot(base: Base) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base.hub_id, allow_patterns=_HUB_FILES))
    except GatedRepoError as error:
        raise BaseUnavailable(
            f"the hub gives '{base.hub_id}' only to accounts that accepted its licence "
            f"({base.licence}); accept it at https://huggingface.co/{base.hub_id}, then set "
            "HF_TOKEN or type `hf auth login`"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaseUnavailable(
            f"base '{base.name}' is not in the local cache and the hub could not be asked for "
            f"'{base.hub_id}' ({type(error).__name__}); check the network and HF_HUB_OFFLINE, "
            "or use the embedded base smollm2-135m, which needs no hub"
        ) from error
