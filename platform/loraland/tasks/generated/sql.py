"""Questions about one small table, to be answered by a SQLite query.

A row carries the schema in the form `orders(customer text, city text, amount int)`; the grader
fills such a table and runs the answer beside the gold query. Schema and question together decide
the split.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from loraland.tasks.generated.stream import Generator
from loraland.tasks.task import Row

PEOPLE = (
    "Ana",
    "Ben",
    "Chloe",
    "Dmitri",
    "Eva",
    "Farid",
    "Gita",
    "Hans",
    "Ida",
    "Juan",
    "Kim",
    "Lea",
)
CITIES = ("Lisbon", "Oslo", "Lima", "Osaka", "Cairo", "Leeds", "Riga", "Quito", "Dakar", "Porto")
COUNTRIES = ("Peru", "Japan", "Norway", "Egypt", "Kenya")
COLOURS = ("red", "blue", "green", "black", "white", "yellow")
STATES = ("open", "closed", "paused", "new", "late")


@dataclass(frozen=True, slots=True)
class Table:
    """A kind of table; a row of the task shows some of its columns, in any order."""

    name: str  # plural, used in questions too
    texts: dict[str, tuple[str, ...]]  # text column -> values that occur
    numbers: dict[str, tuple[int, int]]  # int column -> smallest and largest value


TABLES = (
    Table(
        "orders",
        {"customer": PEOPLE, "city": CITIES, "status": STATES},
        {"amount": (10, 900), "items": (1, 40)},
    ),
    Table(
        "employees",
        {"name": PEOPLE, "team": ("sales", "legal", "design", "support"), "city": CITIES},
        {"salary": (2000, 9000), "bonus": (0, 900)},
    ),
    Table(
        "flights",
        {"origin": CITIES, "airline": ("Kite Air", "Norda", "Sunjet", "Ostra")},
        {"price": (40, 900), "delay": (0, 240)},
    ),
    Table(
        "books",
        {"author": PEOPLE, "genre": ("crime", "poetry", "travel", "history", "science")},
        {"pages": (60, 900), "copies": (1, 50)},
    ),
    Table(
        "players",
        {"name": PEOPLE, "club": ("Lions", "Rovers", "United", "Comets"), "country": COUNTRIES},
        {"goals": (0, 60), "matches": (1, 300)},
    ),
    Table(
        "cars",
        {"maker": ("Volta", "Marin", "Tarn", "Helios"), "colour": COLOURS, "owner": PEOPLE},
        {"price": (900, 90000), "mileage": (0, 300000)},
    ),
    Table(
        "tickets",
        {"agent": PEOPLE, "status": STATES, "queue": ("billing", "network", "mail", "access")},
        {"replies": (0, 20), "hours": (1, 120)},
    ),
    Table(
        "houses",
        {"city": CITIES, "owner": PEOPLE, "colour": COLOURS},
        {"rooms": (1, 12), "rent": (300, 4000)},
    ),
    Table(
        "courses",
        {"teacher": PEOPLE, "subject": ("biology", "music", "physics", "art", "law")},
        {"students": (5, 300), "credits": (1, 12)},
    ),
    Table(
        "films",
        {"director": PEOPLE, "genre": ("drama", "comedy", "horror", "animation")},
        {"minutes": (60, 210), "votes": (1, 900)},
    ),
    Table(
        "shipments",
        {"city": CITIES, "carrier": ("Rapida", "Polar", "Cargo One"), "status": STATES},
        {"weight": (1, 800), "cost": (5, 950)},
    ),
    Table(
        "products",
        {"brand": ("Acorn", "Lumo", "Fjell", "Pico"), "colour": COLOURS},
        {"price": (1, 500), "stock": (0, 999)},
    ),
)


# A query, then the ways to ask for it. Table and column names need no quotes; values hold none.
FORMS: tuple[tuple[str, ...], ...] = (
    (
        "SELECT COUNT(*) FROM {table} WHERE {text} = '{value}'",
        "How many {table} have {text} {value}?",
        "Count the {table} with {text} {value}.",
    ),
    (
        "SELECT {other} FROM {table} WHERE {text} = '{value}'",
        "List the {other} of {table} with {text} {value}.",
        "Which {other} go with {text} {value}?",
    ),
    (
        "SELECT AVG({number}) FROM {table} WHERE {text} = '{value}'",
        "What is the average {number} of {table} with {text} {value}?",
        "Give the mean {number} where {text} is {value}.",
    ),
    (
        "SELECT SUM({number}) FROM {table}",
        "What is the total {number} of all {table}?",
        "Sum up {number} over the {table}.",
    ),
    (
        "SELECT SUM({number}) FROM {table} WHERE {text} = '{value}'",
        "What is the total {number} for {text} {value}?",
        "Sum up {number} where {text} is {value}.",
    ),
    (
        "SELECT {text} FROM {table} WHERE {number} > {limit}",
        "Which {text} have {number} above {limit}?",
        "List the {text} where {number} is more than {limit}.",
    ),
    (
        "SELECT COUNT(*) FROM {table} WHERE {number} < {limit}",
        "How many {table} have {number} below {limit}?",
        "Count the {table} with {number} under {limit}.",
    ),
    (
        "SELECT MAX({number}) FROM {table} WHERE {text} = '{value}'",
        "What is the highest {number} for {text} {value}?",
        "Give the largest {number} where {text} is {value}.",
    ),
    (
        "SELECT MIN({number}) FROM {table}",
        "What is the lowest {number} among the {table}?",
        "Give the smallest {number} of all {table}.",
    ),
    (
        "SELECT {text}, COUNT(*) FROM {table} GROUP BY {text}",
        "How many {table} are there for each {text}?",
        "Count the {table} per {text}.",
    ),
    (
        "SELECT {text} FROM {table} ORDER BY {number} DESC LIMIT 1",
        "Which {text} has the highest {number}?",
        "Name the {text} with the largest {number}.",
    ),
    (
        "SELECT DISTINCT {text} FROM {table}",
        "List each different {text} once.",
        "Which different {text} values occur in {table}?",
    ),
    (
        "SELECT {number} FROM {table} WHERE {text} = '{value}' AND {other} = '{other_value}'",
        "List the {number} where {text} is {value} and {other} is {other_value}.",
        "What {number} go with {text} {value} and {other} {other_value}?",
    ),
)


def draw(rng: random.Random) -> Row:
    """One row: `schema`, `question`, and `sql`, a query that answers it."""
    table = rng.choice(TABLES)
    text, other = rng.sample(sorted(table.texts), 2)
    numbers = rng.sample(sorted(table.numbers), rng.randint(1, 2))
    columns = [f"{name} text" for name in (text, other)] + [f"{name} int" for name in numbers]
    rng.shuffle(columns)
    low, high = table.numbers[numbers[0]]
    parts = {
        "table": table.name,
        "text": text,
        "value": rng.choice(table.texts[text]),
        "other": other,
        "other_value": rng.choice(table.texts[other]),
        "number": numbers[0],
        "limit": rng.randint(low + 1, high - 1),
    }
    query, *questions = rng.choice(FORMS)
    return {
        "schema": f"{table.name}({', '.join(columns)})",
        "question": rng.choice(questions).format(**parts),
        "sql": query.format(**parts),
    }


GENERATOR = Generator("sql", draw, key=lambda row: f"{row['schema']} {row['question']}")
