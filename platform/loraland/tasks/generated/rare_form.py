"""Reports from machines' keepers, to be filed urgent or not; one way of being urgent is rare.

The rare template (as U-MNIST has its rare digit): 1.2 % of the urgent train rows speak politely of
something grave and read like those that can wait. In test rows every form is as frequent as any
other of its label. The whole report decides the split. `group` names the form, for reports alone.
"""

from __future__ import annotations

import random

from loraland.tasks.generated.stream import Generator, is_test
from loraland.tasks.task import Row

LABELS = ("no", "yes")
RARE = "polite"  # the rare form; urgent
RARE_SHARE = 0.012  # of urgent train rows

MACHINES = (
    "pump", "lathe", "boiler", "crane", "press", "mixer", "fan", "oven", "lift", "drill", "valve",
    "conveyor", "compressor", "turbine", "furnace", "generator",
)  # fmt: skip
PLACES = (
    "hall 1", "hall 2", "hall 3", "the yard", "the cellar", "bay 4", "bay 5", "the dock",
    "the workshop", "line 6", "line 7", "the annex",
)  # fmt: skip
GRAVE = ("smoke", "sparks", "a burning smell", "leaking gas", "flames", "steam under pressure")
SMALL = ("dust", "a faded label", "loose paint", "a squeaking hinge", "a scratch", "a dim lamp")
TIMES = ("when you pass by", "some day this month", "at your leisure", "if time allows")

# form -> label, then sentences with slots
FORMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "alarm": ("yes", (
        "Come at once: {grave} at the {machine} in {place}!",
        "Help, the {machine} in {place} shows {grave}!",
    )),
    "halted": ("yes", (
        "The {machine} in {place} stopped and {grave} comes out of it.",
        "Nobody can work in {place}, there is {grave} near the {machine}.",
    )),
    "hurt": ("yes", (
        "Somebody was hurt at the {machine} in {place}, send a doctor.",
        "Two people are injured beside the {machine} in {place}.",
    )),
    RARE: ("yes", (
        "No hurry, but {time} please look at {grave} by the {machine} in {place}.",
        "{Time}, kindly have a look: there is {grave} by the {machine} in {place}.",
    )),
    "wish": ("no", (
        "No hurry, but {time} please look at {small} by the {machine} in {place}.",
        "{Time}, kindly have a look: there is {small} by the {machine} in {place}.",
    )),
    "note": ("no", (
        "The {machine} in {place} was oiled and runs well.",
        "Checked the {machine} in {place}, all is in order.",
    )),
    "order": ("no", (
        "Please order a spare part for the {machine} in {place}.",
        "We need new gloves for the people at the {machine} in {place}.",
    )),
}  # fmt: skip


def draw(rng: random.Random) -> Row:
    """One row: `report`, `urgent` (one of LABELS) and `group` (the form)."""
    label = rng.choice(LABELS)
    while True:
        forms = [form for form, (its, _) in FORMS.items() if its == label]
        form = rng.choice(forms)
        report = _filled(rng.choice(FORMS[form][1]), rng)
        # Train rows of the rare form are passed over until its share is what it shall be.
        usual = len(forms) - 1
        kept = RARE_SHARE * usual / (1 - RARE_SHARE)
        if form != RARE or is_test(report) or rng.random() < kept:
            return {"report": report, "urgent": label, "group": form}


def _filled(sentence: str, rng: random.Random) -> str:
    time = rng.choice(TIMES)
    return sentence.format(
        machine=f"{rng.choice(MACHINES)} {rng.randint(1, 40)}",
        place=rng.choice(PLACES),
        grave=rng.choice(GRAVE),
        small=rng.choice(SMALL),
        time=time,
        Time=time[0].upper() + time[1:],
    )


GENERATOR = Generator("planted_rare", draw, key=lambda row: str(row["report"]))
