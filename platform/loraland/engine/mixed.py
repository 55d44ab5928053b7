"""One base with many PEFT adapters, run as batches whose rows use different adapters or none.

Slow and plain on purpose: PEFT's own mixed batches, a left-padded prompt, transformers' cache.
Knows tensors and PEFT folders; nothing of requests, leases or event loops. Not thread-safe: one
thread calls all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from loraland.errors import AdapterRejected

logger = logging.getLogger(__name__)

BASE_ROW = "__base__"  # PEFT's word for a row without an adapter

# Fields of a LoRA config that a mixed batch honours, or that change nothing at inference. All other
# fields must have their default: they change the base, or mixed batches ignore or refuse them.
SERVED_FIELDS = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out",
    "base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version",
    "inference_mode", "auto_mapping", "megatron_core", "init_lora_weights", "loftq_config",
    "runtime_config",
}  # fmt: skip
PLAIN_STARTS = (True, False, "gaussian")  # other starts (PiSSA, OLoRA, ...) rewrite the base


class Held(NamedTuple):
    """An adapter inside the model."""

    name: str  # what PEFT calls it: a version would not do, module names have no dots
    size_bytes: int


class MixedModel:
    """The base and its adapters."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._base = model
        self._peft: PeftModel | None = None
        self._made = 0
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])

    def add(self, folder: Path) -> Held:
        """Put a PEFT folder into the model under a new name.

        Raises AdapterRejected, and then the model is as it was.
        """
        config = read_config(folder)
        self._made += 1
        name = f"adapter{self._made:08d}"  # of one width, so that no name is the start of another
        try:
            result = self._inject(folder, config, name)
            size_bytes = self._check(name, result)
        except Exception as error:
            self.remove(name)
            if isinstance(error, AdapterRejected):
                raise
            raise AdapterRejected(
                f"adapter in {folder.name} does not fit this base: {type(error).__name__}: {error}"
            ) from error
        return Held(name, size_bytes)

    def remove(self, name: str) -> None:
        """Take an adapter out; layers without any adapter become the base's own layers again."""
        for path, module in list(self._base.named_modules()):
            if isinstance(module, LoraLayer):
                module.set_adapter([])
                module.delete_adapter(name)
                if not module.lora_A:
                    self._base.set_submodule(path, module.get_base_layer())
        if self._peft is not None:
            self._forget(self._peft, name)

    def _forget(self, peft: PeftModel, name: str) -> None:
        """Keep PEFT's own list true: it needs an active adapter even where rows name theirs."""
        peft.peft_config.pop(name, None)
        if not peft.peft_config:
            self._peft = None
            self._base.__dict__.pop("peft_config", None)
        elif peft.active_adapter == name:
            peft.set_adapter(next(iter(peft.peft_config)), inference_mode=True)

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str | None]) -> MixedBatch:
        """Prefill prompts in one batch; row i uses adapter `adapters[i]`, None is the base."""
        return MixedBatch(self, prompts, [name or BASE_ROW for name in adapters])

    def forward(self, adapters: list[str], **inputs: Any) -> Any:
        """One forward pass of the base with an adapter per row."""
        if self._peft is None:
            return self._base(**inputs)
        return self._peft(adapter_names=adapters, **inputs)

    def _inject(self, folder: Path, config: LoraConfig, name: str) -> Any:
        if self._peft is None:
            try:
                self._peft = PeftModel(self._base, config, adapter_name=name)
            except Exception:
                # PEFT leaves its mark before it fails, and takes the next try for a second one.
                self._base.__dict__.pop("peft_config", None)
                raise
        device = str(self._base.device)
        result = self._peft.load_adapter(str(folder), name, torch_device=device)
        self._peft.eval()
        return result

    def _check(self, name: str, result: Any) -> int:
        """The bytes of an adapter's weights. Raises AdapterRejected when they are not whole."""
        lost = [key for key in result.missing_keys if name in key]
        weights = [p for path, p in self._base.named_parameters() if name in path.split(".")]
        if lost or result.unexpected_keys or not weights:
            keys = ", ".join([*lost, *result.unexpected_keys][:3]) or "no LoRA weight at all"
            raise AdapterRejected(
                f"the adapter's weights do not match its config and this base: {keys}"
            )
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise AdapterRejected(
                "the adapter has weights that are NaN or infinite; train it again"
            )
        return sum(weight.numel() * weight.element_size() for weight in weights)


class MixedBatch:
    """Rows under way: their cache, and the logits for the next token of each."""

    logits: torch.Tensor  # (rows, vocabulary)

    def __init__(
        self, model: MixedModel, prompts: Sequence[Sequence[int]], adapters: list[str]
    ) -> None:
        self._model, self._adapters = model, adapters
        width = max(len(prompt) for prompt in prompts)
        device = model._base.device
        ids = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
        self._mask = torch.zeros_like(ids)  # (rows, cached positions): 0 where padded
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
            self._mask[row, width - len(prompt) :] = 1
        self._cache: Any = None
        self._forward(ids, (self._mask.cumsum(1) - 1).clamp(min=0))

    @torch.inference_mode()
    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Keep the rows given, in order, append a token to each, and compute what follows."""
        if len(rows) < len(self._adapters):
            kept = torch.tensor(rows, device=self._mask.device)
            self._cache.batch_select_indices(kept)
            self._mask = self._mask[kept]
            self._adapters = [self._adapters[row] for row in rows]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(rows), 1)], 1)
        ids = torch.tensor(tokens, device=self._mask.device).unsqueeze(1)
        self._forward(ids, self._mask.sum(1, keepdim=True) - 1)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> None:
        output = self._model.forward(
            self._adapters,
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        self.logits = output.logits[:, -1]


def read_config(folder: Path) -> LoraConfig:
    """The config of a plain LoRA folder. Raises AdapterRejected for what cannot be served."""
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise AdapterRejected(
                f"{folder.name} has no {file}; give a folder as PEFT's save_pretrained writes it"
            )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterRejected(
            f"{folder.name}/adapter_config.json cannot be read: {error}"
        ) from error
    if not isinstance(config, LoraConfig):
        raise AdapterRejected(f"{folder.name} is a {config.peft_type} adapter; only LoRA is served")
    usual = LoraConfig().to_dict()
    odd = [
        f"{field}={value!r}"
        for field, value in config.to_dict().items()
        if field not in SERVED_FIELDS and value and value != usual.get(field)
    ]
    if config.init_lora_weights not in PLAIN_STARTS:
        odd.append(f"init_lora_weights={config.init_lora_weights!r}")
    if odd:
        raise AdapterRejected(f"{folder.name} uses {', '.join(odd)}; only plain LoRA is served")
    config.inference_mode = True
    return config
