"""Free-form dates in words and numbers, to be rewritten as ISO 8601.

Every form is unambiguous under the prompt's one convention: in numbers, the day stands before the
month. The date itself decides the split, so a test date was never seen in training in any form.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, timedelta

from loraland.tasks.generated.stream import Generator
from loraland.tasks.task import Row

FIRST, LAST = date(1950, 1, 1), date(2049, 12, 31)

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
WEEKDAYS = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = (
    "-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
_ORDINALS = (
    "-", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
    "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
    "seventeenth", "eighteenth", "nineteenth", "twentieth",
)  # fmt: skip


def ordinal(day: int) -> str:
    """The day with its ending: 1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def ordinal_words(day: int) -> str:
    """The day (1 to 31) in words: first, twentieth, twenty-first, thirty-first."""
    if day <= 20:
        return _ORDINALS[day]
    tens, unit = divmod(day, 10)
    return f"{_TENS[tens]}-{_ORDINALS[unit]}" if unit else "thirtieth"


def number_words(number: int) -> str:
    """A number from 0 to 99 in words."""
    if number < 20:
        return _UNITS[number]
    tens, unit = divmod(number, 10)
    return f"{_TENS[tens]}-{_UNITS[unit]}" if unit else _TENS[tens]


def year_words(year: int) -> str:
    """A year from 1900 to 2099 in words: nineteen oh five, two thousand and nine, twenty twelve."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return "two thousand" + (f" and {_UNITS[rest]}" if rest else "")
    if rest == 0:
        return f"{number_words(century)} hundred"
    return f"{number_words(century)} {'oh ' if rest < 10 else ''}{number_words(rest)}"


def _month(day: date) -> str:
    return MONTHS[day.month - 1]


# Names of months and days come from the lists above, not from strftime, which follows the locale.
FORMS: tuple[Callable[[date], str], ...] = (
    lambda d: f"{d.day} {_month(d)} {d.year}",
    lambda d: f"{_month(d)} {d.day}, {d.year}",
    lambda d: f"{ordinal(d.day)} {_month(d)} {d.year}",
    lambda d: f"the {ordinal(d.day)} of {_month(d)} {d.year}",
    lambda d: f"{_month(d)} {ordinal(d.day)}, {d.year}",
    lambda d: f"{d.day} {_month(d)[:3]} {d.year}",
    lambda d: f"{_month(d)[:3]}. {d.day}, {d.year}",
    lambda d: f"{d.day}-{_month(d)[:3]}-{d.year}",
    lambda d: f"{d.year}, {_month(d)} {d.day}",
    lambda d: f"{WEEKDAYS[d.weekday()]}, {d.day} {_month(d)} {d.year}",
    lambda d: f"{WEEKDAYS[d.weekday()]} {_month(d)} {ordinal(d.day)}, {d.year}",
    lambda d: f"{d.day}/{d.month}/{d.year}",
    lambda d: f"{d.day:02}.{d.month:02}.{d.year}",
    lambda d: f"the {ordinal_words(d.day)} of {_month(d)}, {d.year}",
    lambda d: f"{_month(d)} the {ordinal_words(d.day)}, {d.year}",
    lambda d: f"{d.day} {_month(d)} {year_words(d.year)}",
)


def draw(rng: random.Random) -> Row:
    """One row: `text`, a date in one of FORMS; `iso`, the same as YYYY-MM-DD."""
    day = FIRST + timedelta(days=rng.randrange((LAST - FIRST).days + 1))
    return {"text": rng.choice(FORMS)(day), "iso": day.isoformat()}


GENERATOR = Generator("dates", draw, key=lambda row: str(row["iso"]))
