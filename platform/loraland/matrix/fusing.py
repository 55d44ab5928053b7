"""Decides how many cells of a group are trained at a time, once, and keeps to it.

    spaces/<name>/fuse/<base>-<digest>.json    of a space; the digest over what the choice rests on

How the last digit of a sum is rounded depends on who is trained beside whom, and a probe that is
repeated may choose otherwise: a group that is started again takes the number it began with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt

from loraland.adapters.card import utc_now
from loraland.bases.loading import LoadedBase
from loraland.matrix import provenance
from loraland.storage import Storage
from loraland.training.fused_member import FusedMember
from loraland.training.gain import SIZES, Gain, measure_gain


class Choice(BaseModel):
    """How many cells are trained at a time, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    slots: PositiveInt
    members: PositiveInt  # cells that there were to choose for
    note: str  # what was measured
    rests_on: dict[str, str]
    made: str  # ISO 8601, UTC


def choose(
    base: LoadedBase,
    members: Sequence[FusedMember],
    *,
    load_s: float,
    storage: Storage,
    space: str | None,
) -> Choice:
    """What was chosen for this base in this space, and otherwise what a probe finds now.

    A choice that was made for fewer cells than could be trained at a time now is made again. Of two
    groups that choose at once both take what the first has stored. `load_s` is what loading the
    base took, which each cell by itself would do again. Without a space nothing is remembered.
    Raises what a member's training raises.
    """
    rests_on = {
        "base": base.fingerprint,
        "precision": base.precision,
        "hardware": provenance.hardware(),
        "threads": str(torch.get_num_threads()) if base.device.type == "cpu" else "any",
    }
    enough = min(len(members), max(SIZES))
    path = None if space is None else _path(space, base, rests_on)
    if path is not None and (known := _read(storage, path, enough)) is not None:
        return known
    gain = measure_gain(base, members)
    choice = Choice(
        slots=gain.slots,
        members=len(members),
        note=_note(gain, members, load_s),
        rests_on=rests_on,
        made=utc_now(),
    )
    if path is None:
        return choice
    if (first := _read(storage, path, enough)) is not None:
        return first
    storage.write_json(path, choice.model_dump(mode="json"))
    return choice


def times_as_fast(gain: Gain, members: Sequence[FusedMember], load_s: float) -> float:
    """The group against its cells one after the other in trials of their own, loads counted."""
    tokens = sum(_tokens(member) for member in members)
    together = gain.fused_tps.get(gain.slots, gain.plain_tps)
    alone_s = len(members) * load_s + tokens / gain.plain_tps
    return alone_s / (load_s + tokens / together)


def _tokens(member: FusedMember) -> float:
    """Tokens that a member is trained on when it does not stop early."""
    recipe, lengths = member.recipe, [len(example.ids) for example in member.training]
    return recipe.updates(len(lengths)) * recipe.examples_per_update * fmean(lengths)


def _note(gain: Gain, members: Sequence[FusedMember], load_s: float) -> str:
    many = f"the base is loaded once in {load_s:.1f} s and not {len(members)} times"
    whole = times_as_fast(gain, members, load_s)
    return f"{gain}; {many}: {whole:.1f} times as fast in all as cells by themselves"


def _path(space: str, base: LoadedBase, rests_on: dict[str, str]) -> str:
    stamp = json.dumps(rests_on, sort_keys=True).encode()
    digest = hashlib.sha256(stamp).hexdigest()[:12]
    return f"spaces/{space}/fuse/{base.entry.name}-{digest}.json"


def _read(storage: Storage, path: str, enough: int) -> Choice | None:
    """A choice that was made for enough cells; one that cannot be read is made again."""
    try:
        found = Choice.model_validate_json(storage.read(path))
    except (FileNotFoundError, ValueError):
        return None
    return found if found.members >= enough else None
