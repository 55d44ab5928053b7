"""Puts a fresh LoRA adapter into a base, and writes a trained one as PEFT does.

Shared by the loops, so that they start from the same weights and leave the same folder. Knows
nothing of data, updates or devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from loraland.adapters.folder import canonicalise_config
from loraland.bases.loading import LoadedBase
from loraland.training.checkpoint import Tensors
from loraland.training.recipe import ALL_LINEAR, Recipe

_NAME = "default"  # PEFT's name for the only adapter; files leave it out


def add_adapter(base: LoadedBase, recipe: Recipe, seed: int) -> PeftModel:
    """The base with a new adapter, which alone requires gradients; its weights follow `seed`."""
    torch.manual_seed(seed)
    targets = recipe.targets if recipe.targets == ALL_LINEAR else list(recipe.targets)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base.model, config)
    config.base_model_name_or_path = base.entry.hub_id
    if recipe.gradient_checkpointing:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter], recipe: Recipe
) -> torch.optim.Optimizer:
    """The recipe's optimiser; its rate is set anew at each update."""
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def trainable(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by the names that PEFT gives them in files, in the model's order."""
    return {
        name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def write_adapter(model: PeftModel, weights: Tensors, folder: Path) -> None:
    """Write these weights, named as in files, as PEFT writes the adapter of this model."""
    named = {_in_model(name): tensor for name, tensor in weights.items()}
    model.save_pretrained(folder, state_dict=named, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card; ours is card.json
    canonicalise_config(folder)


def remove_adapter(base: LoadedBase, model: PeftModel, recipe: Recipe) -> None:
    """Take the adapter out of the base and leave that as `load_base` gave it."""
    model.unload()
    if recipe.gradient_checkpointing:
        base.model.gradient_checkpointing_disable()
    base.model.eval().requires_grad_(False)


def _in_model(name: str) -> str:
    module, weight = name.rsplit(".", 1)
    return f"{module}.{_NAME}.{weight}"
