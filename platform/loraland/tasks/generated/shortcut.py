"""Sightings of birds, to be told water birds from land birds; the place gives most answers away.

The planted shortcut is that of Waterbirds, in words: in 19 of 20 train rows a water bird is by the
lake and a land bird by the wood. In test rows the place says nothing, so that each of the four
groups is there in equal numbers. What counts is the species, which a small base knows for some. The
sighting without its place decides the split. `group` names the subclass, for reports alone.
"""

from __future__ import annotations

import random

from loraland.tasks.generated.stream import Generator, is_test
from loraland.tasks.task import Row

LABELS = ("land", "water")
PLACES = {"land": "wood", "water": "lake"}  # label -> the place that mostly goes with it
CORRELATION = 0.95  # in train rows

SPECIES = {
    "land": (
        "wren", "dunnock", "siskin", "linnet", "twite", "brambling", "pipit", "nuthatch",
        "treecreeper", "blackcap", "whitethroat", "chiffchaff", "wheatear", "whinchat", "redstart",
        "fieldfare", "redwing", "waxwing", "shrike", "jay", "rook", "crossbill", "hawfinch",
        "goldcrest", "quail", "partridge", "grouse", "nightjar", "hoopoe", "wryneck", "serin",
        "firecrest",
    ),
    "water": (
        "mallard", "smew", "dunlin", "gadwall", "wigeon", "garganey", "pochard", "scaup", "eider",
        "scoter", "goosander", "grebe", "coot", "moorhen", "egret", "bittern", "avocet", "godwit",
        "sanderling", "turnstone", "tern", "cormorant", "gannet", "guillemot", "kittiwake",
        "petrel", "whimbrel", "redshank", "teal", "pintail", "phalarope", "dotterel",
    ),
}  # fmt: skip
KINDS = ("young", "old", "male", "female", "lone", "tame", "noisy", "silent", "small", "thin")
DEEDS = ("resting", "feeding", "preening", "calling", "hiding", "asleep", "watching", "nesting")
TIMES = (
    "at dawn", "at dusk", "at noon", "in the rain", "on Monday", "on Sunday", "in May", "in fog",
)  # fmt: skip


def draw(rng: random.Random) -> Row:
    """One row: `place`, `sighting`, `bird` (one of LABELS) and `group` (bird and place)."""
    label = rng.choice(LABELS)
    bird = f"{rng.choice(KINDS)} {rng.choice(SPECIES[label])}"
    sighting = f"a {bird}, {rng.choice(DEEDS)} {rng.choice(TIMES)}"
    share = 0.5 if is_test(sighting) else CORRELATION
    usual = PLACES[label]
    place = usual if rng.random() < share else next(p for p in PLACES.values() if p != usual)
    row = {"place": place, "sighting": sighting, "bird": label}
    return row | {"group": f"{label} bird by the {place}"}


GENERATOR = Generator("planted_shortcut", draw, key=lambda row: str(row["sighting"]))
