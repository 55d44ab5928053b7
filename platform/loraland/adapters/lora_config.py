"""What PEFT's adapter_config.json may say here, and the rank and scaling it gives to each module.

A plain LoRA on linear layers is a product of two small matrices, which one batched operation can
compute for many adapters. Everything that changes the base, or needs its weights at each step, is
refused with the reason.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard

_PLAIN = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")  # a module name, or the end of one

_REFUSED = {
    "alora_invocation_tokens": "is activated by tokens of the prompt (aLoRA)",
    "arrow_config": "routes between adapters (Arrow)",
    "kasa_config": "adapts singular values of the base (KaSA)",
    "layer_replication": "repeats layers of the base, which all adapters share",
    "lora_bias": "has biases on B, which the batched layer does not add",
    "megatron_config": "is for Megatron's parallel layers",
    "modules_to_save": "brings whole modules of its own, and the base is shared",
    "monteclora_config": "samples its matrices (MonteCLoRA)",
    "target_parameters": "adapts bare parameters; only linear layers are adapted here",
    "trainable_token_indices": "brings rows of the embedding, and the base is shared",
    "use_bdlora": "has block-diagonal matrices (BD-LoRA)",
    "use_dora": "is DoRA, which needs the norms of the base's weights at every step",
    "use_qalora": "pools its inputs in groups (QA-LoRA)",
    "velora_config": "compresses activations (VeLoRA)",
}
# fmt: off
_NEUTRAL = frozenset({  # harmless with any value, or checked below
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_rslora",
})
# fmt: on
# Other ways to start change the base's weights, so that the saved matrices fit no unchanged base.
_STARTS = frozenset({"gaussian", "orthogonal", "eva"})
_MOST = 1 << 20  # of a rank or alpha; anything above is a mistake and could overflow a float


class Expected(NamedTuple):
    """What the configuration says of one module."""

    rank: int
    scaling: float


def config_problems(config: Mapping[str, Any]) -> list[str]:
    """Every reason against a configuration, each as the end of a sentence about the adapter."""
    kind = config.get("peft_type")
    if kind != "LORA":
        return [f"is of PEFT type {kind!r}; only 'LORA' is served"]
    found = [f"{reason} ({key})" for key, reason in _REFUSED.items() if config.get(key)]
    found += [
        f"has a setting that is not known here, {key}={value!r:.60}; its effect cannot be served"
        for key, value in sorted(config.items())
        if value and key not in _NEUTRAL and key not in _REFUSED
    ]
    if config.get("bias", "none") != "none":
        found.append(
            f"trains biases of the base (bias={config['bias']!r}); retrain with bias='none'"
        )
    start = config.get("init_lora_weights")
    if not (start is None or isinstance(start, bool) or str(start) in _STARTS):
        found.append(
            f"started from a changed base (init_lora_weights={start!r:.60}); "
            "convert it to plain LoRA when saving (path_initial_model_for_weight_conversion)"
        )
    return found + _number_problems(config) + _name_problems(config)


def expected_module(config: Mapping[str, Any], module: str) -> Expected | None:
    """Rank and scaling of one module, or None when the configuration does not tell them."""
    rank = _for_module(config.get("rank_pattern"), module, config.get("r"))
    alpha = _for_module(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if not _is_rank(rank) or not _is_alpha(alpha):
        return None
    return Expected(rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def targeted_modules(config: Mapping[str, Any], modules: Iterable[str]) -> set[str]:
    """Which of a base's modules the configuration adapts, as PEFT chooses them.

    The configuration has passed `config_problems`.
    """
    found = {name for name in modules if _ends_with_any(name, config.get("target_modules"))}
    found -= {name for name in found if _ends_with_any(name, config.get("exclude_modules"))}
    layers = config.get("layers_to_transform")
    if layers is None:
        return found
    chosen = {layers} if isinstance(layers, int) else set(layers)
    return {name for name in found if _layer_of(name, config.get("layers_pattern")) in chosen}


def _ends_with_any(name: str, ends: Any) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends or ())


def _layer_of(name: str, pattern: Any) -> int | None:
    """The last number in a module's name, or the last after one of the names in `pattern`."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern or ())
    found = [
        int(part)
        for before, part in itertools.pairwise(name.split("."))
        if part.isdigit() and (not patterns or before in patterns)
    ]
    return found[-1] if found else None


def alpha_of(config: Mapping[str, Any]) -> float:
    """The alpha of modules without one of their own; NaN when none is legal."""
    alpha = config.get("lora_alpha")
    return float(alpha) if _is_alpha(alpha) else math.nan


def _number_problems(config: Mapping[str, Any]) -> list[str]:
    found = []
    for key, pattern, legal, what in (
        ("r", "rank_pattern", _is_rank, "a positive whole number"),
        ("lora_alpha", "alpha_pattern", _is_alpha, "a positive number"),
    ):
        if not legal(config.get(key)):
            found.append(f"has {key}={config.get(key)!r:.60}, which must be {what}")
        own = config.get(pattern) or {}
        if not isinstance(own, dict) or not all(
            _is_plain(name) and legal(value) for name, value in own.items()
        ):
            found.append(f"has {pattern} that is not plain module names with {what} each")
    return found


def _name_problems(config: Mapping[str, Any]) -> list[str]:
    """PEFT runs some names as regular expressions, which an outsider could make run forever."""
    found = []
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        value = config.get(key)
        if not value and key != "target_modules":
            continue
        names = [value] if key == "layers_pattern" and isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(map(_is_plain, names)):
            found.append(f"has {key}={value!r:.60}; write a list of plain module names")
    return found


def _for_module(pattern: Any, module: str, otherwise: Any) -> Any:
    """The first entry of a pattern whose name ends the module's, as PEFT looks it up."""
    for name, value in pattern.items() if isinstance(pattern, dict) else ():
        if module == name or module.endswith(f".{name}"):
            return value
    return otherwise


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and _PLAIN.fullmatch(name) is not None


def _is_rank(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST


def _is_alpha(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST
