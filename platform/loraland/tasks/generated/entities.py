"""Short business news, from which persons, organizations and places are to be listed as JSON.

Names are put together from parts, so new ones never end; a list may be empty or hold two names, in
the order in which the text has them. The whole text decides the split.
"""

from __future__ import annotations

import json
import random
import re

from loraland.tasks.generated.stream import Generator
from loraland.tasks.task import Row

KINDS = ("person", "organization", "place")

FIRST_NAMES = (
    "Maria", "Ivan", "Chen", "Aisha", "Tom", "Lena", "Omar", "Priya", "Jonas", "Elif", "Carlos",
    "Nora", "Kofi", "Yuki", "Anna", "David", "Fatima", "Piotr", "Grace", "Hugo", "Ines", "Mikael",
    "Sara", "Victor", "Zoe", "Ravi", "Ruth", "Emil",
)  # fmt: skip
LAST_NAMES = (
    "Lopez", "Petrov", "Wang", "Khan", "Baker", "Schmidt", "Haddad", "Nair", "Berg", "Demir",
    "Silva", "Larsen", "Mensah", "Tanaka", "Novak", "Cohen", "Ali", "Kowalski", "Okafor", "Moreau",
    "Costa", "Virtanen", "Rossi", "Fischer", "Murphy", "Reddy", "Weber", "Lindqvist", "Ortega",
    "Dubois", "Stone", "Marsh", "Keller", "Byrne",
)  # fmt: skip
ORG_STARTS = (
    "Northwind", "Bluestone", "Halden", "Vertex", "Solano", "Redwood", "Kestrel", "Orbit",
    "Marlow", "Pinecrest", "Quanta", "Silverline", "Tidewater", "Umbra", "Westgate", "Aurora",
    "Brightwell", "Cobalt", "Driftwood", "Evergreen", "Fairmont",
)  # fmt: skip
ORG_ENDS = (
    "Labs", "Group", "Foods", "Logistics", "Bank", "Energy", "Motors", "Insurance", "Media",
    "Systems", "Textiles", "Steel", "Pharma", "Partners", "Airlines", "Robotics", "Capital",
)  # fmt: skip
PLACES = (
    "Lisbon", "Nairobi", "Osaka", "Denver", "Krakow", "Lima", "Oslo", "Dublin", "Hanoi", "Geneva",
    "Toronto", "Lagos", "Mumbai", "Porto", "Seattle", "Tallinn", "Vienna", "Zagreb", "Austin",
    "Bergen", "Cairo", "Dakar", "Helsinki", "Izmir", "Jakarta", "Leeds", "Madrid", "Quito", "Riga",
    "Santiago", "New Delhi", "Cape Town", "Hong Kong", "San Diego",
)  # fmt: skip
ROLES = (
    "chief executive",
    "head of sales",
    "finance chief",
    "lead engineer",
    "chair",
    "spokesperson",
)
WHENS = (
    "on Monday",
    "last week",
    "in March",
    "yesterday",
    "this spring",
    "after long talks",
    "in 2021",
)
MONEY = (
    "$3 million",
    "12 million euros",
    "$450,000",
    "80 million pounds",
    "half a billion dollars",
)

# {person}, {organization} and {place} are entities, {other_...} a second one of the kind; the
# rest is filler.
TEMPLATES = (
    "{person} joined {organization} in {place} {when}.",
    "{organization} named {person} as its {role} {when}.",
    "{organization} will open an office in {place}, said {person}.",
    "{organization} bought {other_organization} for {money}.",
    "{person} and {other_person} left {organization} {when}.",
    "{organization} moved its plant from {place} to {other_place} {when}.",
    "The {role} of {organization}, {person}, spoke in {place}.",
    "{person} met {other_person} in {place} {when}.",
    "Staff of {organization} went on strike in {place} {when}.",
    "{when_first}, {person} sold a share of {organization} for {money}.",
    "A court in {place} fined {organization} {money}.",
    "{organization} and {other_organization} plan a joint site near {place}.",
    "{person}, once {role} at {organization}, now runs {other_organization}.",
    "Flights between {place} and {other_place} stopped {when}.",
    "{organization} raised {money} {when}.",
    "Profits at {organization} fell {when}, {role} {person} said in {place}.",
    "{person} was seen in {place} {when}.",
    "From {place}, {person} leads the {other_place} team of {organization}.",
)

_SLOT = re.compile(r"\{(\w+)\}")


def draw(rng: random.Random) -> Row:
    """One row: `text`, a sentence; `entities`, JSON with a list of names for each of KINDS."""
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def fill(match: re.Match[str]) -> str:
        kind = match.group(1).removeprefix("other_")
        if kind not in found:
            return _filler(rng, kind)
        name = _name(rng, kind)
        while name in found[kind]:
            name = _name(rng, kind)
        found[kind].append(name)
        return name

    text = _SLOT.sub(fill, rng.choice(TEMPLATES))
    return {"text": text, "entities": json.dumps(found)}


def _name(rng: random.Random, kind: str) -> str:
    if kind == "person":
        return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"
    if kind == "organization":
        return f"{rng.choice(ORG_STARTS)} {rng.choice(ORG_ENDS)}"
    return rng.choice(PLACES)


def _filler(rng: random.Random, slot: str) -> str:
    if slot == "when_first":
        when = rng.choice(WHENS)
        return when[0].upper() + when[1:]
    return rng.choice({"when": WHENS, "role": ROLES, "money": MONEY}[slot])


GENERATOR = Generator("entities", draw, key=lambda row: str(row["text"]))
