"""Decides whether an adapter folder may be served, and by which base.

Holds what was found in the folder against its card and the base. All reasons against an adapter
are given together. Knows nothing of the registry, of devices or of Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loraland.adapters.card import Card
from loraland.adapters.folder import read_card, read_config
from loraland.adapters.inspection import AdapterFacts, Limits, LoraModule, inspect, some
from loraland.adapters.lora_config import config_problems, targeted_modules
from loraland.errors import AdapterRejected

__all__ = ["AdapterFacts", "Limits", "Linears", "LoraModule", "admit", "card_mismatches", "examine"]

Linears = Mapping[str, tuple[int, int]]  # module of the base -> (in_features, out_features)


def examine(
    folder: Path,
    limits: Limits | None = None,
    *,
    name: str | None = None,
    linears: Linears | None = None,
) -> AdapterFacts:
    """The facts of an adapter folder. Raises AdapterRejected with everything that is wrong with it.

    `name` is what messages call the adapter; the folder's name by default. `linears`, where given,
    are those of a base, and the adapter's shapes must fit them.
    """
    facts, problems = inspect(folder, limits or Limits())
    if facts is not None and linears is not None:
        problems += _base_mismatches(folder, facts, linears)
    if facts is None or problems:
        raise AdapterRejected(_message(name or folder.name, problems))
    return facts


def admit(
    folder: Path,
    *,
    base: str,
    base_fingerprint: str,
    limits: Limits | None = None,
    precision: str | None = None,
    linears: Linears | None = None,
) -> AdapterFacts:
    """Examine a folder and its card for a replica that serves `base`.

    `precision` and `linears`, where given, are those of the base: an adapter meets the arithmetic
    that it was trained on, and its shapes fit the linear layers. Raises AdapterRejected with
    everything that is wrong.
    """
    name = folder.name
    facts, problems = inspect(folder, limits or Limits())
    try:
        card = read_card(folder)
        name = str(card.name)
        problems += card_mismatches(
            card, facts, base=base, base_fingerprint=base_fingerprint, precision=precision
        )
    except AdapterRejected as error:
        problems.append(f"is without a usable card: {error.message}")
    if facts is not None and linears is not None:
        problems += _base_mismatches(folder, facts, linears)
    if facts is None or problems:
        raise AdapterRejected(_message(name, problems))
    return facts


def card_mismatches(
    card: Card,
    facts: AdapterFacts | None,
    *,
    base: str,
    base_fingerprint: str,
    precision: str | None = None,
) -> list[str]:
    """Why an adapter with this card may not be served by this base; empty when it may."""
    found = []
    if card.base != base:
        found.append(
            f"was trained on {card.base} (fingerprint {card.base_fingerprint[:12]}), "
            f"this replica serves {base} (fingerprint {base_fingerprint[:12]})"
        )
    elif card.base_fingerprint != base_fingerprint:
        found.append(
            f"was trained on other weights of {base} (fingerprint {card.base_fingerprint[:12]}) "
            f"than this replica serves (fingerprint {base_fingerprint[:12]}); "
            "retrain it or serve those weights"
        )
    if card.base == base and precision not in (None, card.precision):
        found.append(
            f"was trained on {base} in {card.precision}, this replica holds it in {precision}; "
            f"set precision {card.precision} for that base in the serving configuration, "
            f"or train again in {precision}"
        )
    if facts is not None and facts.version != card.version:
        found.append(
            f"has content {facts.version}, its card says {card.version}: "
            "a file was changed or damaged; fetch it again"
        )
    return found


def _base_mismatches(folder: Path, facts: AdapterFacts, linears: Linears) -> list[str]:
    return [*_shape_mismatches(facts, linears), *_uncovered(folder, facts, linears)]


def _uncovered(folder: Path, facts: AdapterFacts, linears: Linears) -> list[str]:
    """What the configuration adapts and the weights do not: it would silently stay the base."""
    try:
        config = read_config(folder)
    except AdapterRejected:
        return []  # told by the inspection
    if config_problems(config):
        return []
    targeted = targeted_modules(config, linears)
    names = {*config.get("target_modules", ())}
    foreign = sorted(n for n in names if not targeted_modules({"target_modules": [n]}, linears))
    return some("targets what is no linear layer of the base", foreign) + some(
        "targets layers that it has no weights for", sorted(targeted - facts.modules.keys())
    )


def _shape_mismatches(facts: AdapterFacts, linears: Linears) -> list[str]:
    absent = [module for module in facts.modules if module not in linears]
    unfit = [
        f"{name} is {module.in_features} -> {module.out_features}, "
        f"the base's is {linears[name][0]} -> {linears[name][1]}"
        for name, module in facts.modules.items()
        if name in linears and linears[name] != (module.in_features, module.out_features)
    ]
    return some("adapts layers that the base does not have", absent) + some(
        "has layers of another shape than the base", unfit
    )


def _message(name: str, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"adapter '{name}' {problems[0]}"
    lines = "".join(f"\n- it {problem}" for problem in problems)
    return f"adapter '{name}' is refused for {len(problems)} reasons:{lines}"
