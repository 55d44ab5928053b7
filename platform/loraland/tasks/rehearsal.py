"""Made-up rows in the shape of every task's own, for rehearsals of the machinery without its data.

Short, seeded, with the task's columns and labels and answers that its grader reads. They say
nothing about how well a task can be learned, and are read only where a cell asks for them. Pure:
no files, no torch.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from loraland.errors import UnknownTask, did_you_mean
from loraland.tasks.generated import get_generator
from loraland.tasks.generated.stream import Generator
from loraland.tasks.task import Row, SplitName, Task, as_text

Draw = Callable[[random.Random], Row]

_DRAWS: dict[str, Draw] = {}

_NAMES = ("Ada", "Bo", "Cleo", "Dag", "Eve", "Finn", "Gry", "Hal", "Ines", "Jun", "Kai", "Lou")
_TOWNS = ("Arden", "Brune", "Corvo", "Delft", "Elmby", "Fjord", "Gale", "Hythe", "Isola", "Jutta")
_THINGS = ("lamp", "boat", "kite", "drum", "coat", "map", "bell", "cart", "vase", "rope", "clock")
_COLOURS = ("red", "blue", "green", "black", "white", "brown", "grey", "pink", "gold", "teal")
_GOOD = ("great", "lovely", "bright", "superb", "warm", "charming")
_BAD = ("dull", "awful", "clumsy", "bleak", "tedious", "sour")


def rehearsed(task: Task) -> Task:
    """The task as a rehearsal judges it.

    Itself, but for a metric that cannot be computed from text alone: ROUGE takes the place of
    running programs.
    """
    return replace(task, metric="rouge") if task.metric == "humaneval" else task


def rehearsal_rows(task: Task, split: SplitName, seed: int = 0) -> Iterator[Row]:
    """Rows of one split without end, the same for a seed; no row of one split is in the other.

    They have the columns of both splits (Task.for_split). Generated tasks give what they always
    give. Raises UnknownTask for a task outside the catalogue.
    """
    if task.generator is not None:
        return get_generator(task.generator).rows(split, seed)
    if task.name not in _DRAWS:
        raise UnknownTask(
            f"no rehearsal rows are known for task '{task.name}'; "
            f"{did_you_mean(task.name, _DRAWS)} Add how to draw one in tasks/rehearsal.py"
        )

    def key(row: Row) -> str:
        return "\n".join(as_text(row[column]) for column in task.inputs)

    return Generator(f"rehearsal/{task.name}", _DRAWS[task.name], key).rows(split, seed)


def _draw(function: Draw) -> Draw:
    _DRAWS[function.__name__.removeprefix("_")] = function
    return function


def _thing(rng: random.Random) -> str:
    """One of about a thousand things, such as "red kite 7"."""
    return f"{rng.choice(_COLOURS)} {rng.choice(_THINGS)} {rng.randrange(2, 99)}"


def _title(rng: random.Random) -> str:
    """The name of a place or a work, such as "Red Kite"."""
    return f"{rng.choice(_COLOURS)} {rng.choice(_THINGS)}".title()


# Classic NLP


@_draw
def _bc5cdr(rng: random.Random) -> Row:
    drug = rng.choice(("aspirin", "codeine", "insulin", "lithium", "heparin"))
    kind, organ = rng.choice(("acute", "chronic", "mild")), rng.choice(("nephritis", "asthma"))
    tags = {"B-Chemical": [drug], "B-Disease": [kind], "I-Disease": [organ], "I-Chemical": []}
    sentence = f"{rng.randrange(2, 99)} patients on {drug} had {kind} {organ} ."
    return {"tokens_concatenated": sentence, "collected_tags": str(tags)}


@_draw
def _conllpp(rng: random.Random) -> Row:
    person, town = rng.choice(_NAMES), rng.choice(_TOWNS)
    club = f"{_title(rng)} Club"
    found = {"person": [person], "organization": [club], "location": [town], "miscellaneous": []}
    return {"input": f"{person} of {club} plays in {town} .", "output": json.dumps(found)}


@_draw
def _e2e_nlg(rng: random.Random) -> Row:
    name = f"The {_title(rng)}"
    kind, food = rng.choice(("pub", "cafe")), rng.choice(("Thai", "French", "Indian", "English"))
    return {
        "meaning_representation": f"name[{name}], eatType[{kind}], food[{food}]",
        "human_reference": f"{name} is a {kind} with {food} food.",
    }


def _news(rng: random.Random) -> Row:
    thing, town = _thing(rng), rng.choice(_TOWNS)
    return {
        "headline": f"{town} firm ships {thing}",
        "content": f"A firm in {town} has begun to ship its {thing}.",
    }


_DRAWS |= {"tldr_content_gen": _news, "tldr_headline_gen": _news}


@_draw
def _viggo(rng: random.Random) -> Row:
    name, year = _title(rng), 1980 + rng.randrange(40)
    return {
        "meaning_representation": f"inform(name[{name}], release_year[{year}])",
        "target": f"{name} came out in {year}.",
    }


@_draw
def _webnlg(rng: random.Random) -> Row:
    town, person, people = rng.choice(_TOWNS), rng.choice(_NAMES), rng.randrange(100, 9999)
    return {
        "modified_triple_set": f"{town} | leader | {person}\n{town} | population | {people}",
        "lex": f"{town}, led by {person}, has {people} people.",
    }


# Coding


@_draw
def _magicoder(rng: random.Random) -> Row:
    lang, number = rng.choice(("python", "rust", "java")), rng.randrange(2, 9999)
    return {
        "lang": lang,
        "problem": f"Write a function f that adds {number} to its argument x.",
        "solution": f"fn f: return x + {number}",
        "prompt": f'def f(x):\n    """x and {number} together."""\n',
        "canonical_solution": f"    return x + {number}\n",
    }


@_draw
def _wikisql(rng: random.Random) -> Row:
    table, town = f"{rng.randrange(1, 3)}-{rng.randrange(100, 999)}-1", rng.choice(_TOWNS)
    return {
        "table": f"table: {table}\ncolumns: Player, Town, Points",
        "question": f"Who plays for {town}?",
        "sql": f"SELECT Player FROM {table} WHERE Town = '{town}'",
    }


# Knowledge


@_draw
def _boolq(rng: random.Random) -> Row:
    thing, town = _thing(rng), rng.choice(_TOWNS)
    asked = town if rng.random() < 0.5 else rng.choice(_TOWNS)
    return {
        "passage": f"The {thing} was made in {town}.",
        "question": f"was the {thing} made in {asked.lower()}",
        "answer": str(asked == town),
    }


@_draw
def _dbpedia(rng: random.Random) -> Row:
    kinds = {
        "Company": "sells shoes", "Artist": "paints", "Athlete": "runs races", "Village": "lies in",
        "Animal": "eats grass", "Plant": "has leaves", "Album": "has ten songs", "Film": "is shown",
    }  # fmt: skip
    title, (label, does) = _thing(rng).title(), rng.choice(list(kinds.items()))
    return {"title": title, "content": f"{title} {does}.", "label": label}


@_draw
def _customer_support(rng: random.Random) -> Row:
    wishes = {
        "replace card": "I lost my card", "transfer money": "please move money",
        "check balance": "how much have I got", "pay bill": "I want to pay a bill",
        "order checks": "I need checks",
    }  # fmt: skip
    task, wish = rng.choice(list(wishes.items()))
    return {"text": f"hello {rng.choice(_NAMES)} {wish} {_thing(rng)}", "task": task}


@_draw
def _glue_qnli(rng: random.Random) -> Row:
    thing, other, town = _thing(rng), _thing(rng), rng.choice(_TOWNS)
    label = rng.randrange(2)
    sentence = f"The {(thing, other)[label]} is in {town}."
    return {"question": f"Where is the {thing}?", "sentence": sentence, "label": label}


@_draw
def _glue_stsb(rng: random.Random) -> Row:
    thing, other, label = _thing(rng), _thing(rng), rng.randrange(0, 51) / 10
    second = thing if label > 2.5 else other
    return {"sentence1": f"A {thing}.", "sentence2": f"One {second}.", "label": label}


@_draw
def _legal(rng: random.Random) -> Row:
    kinds = {
        "notices": "All notices are sent to", "severability": "If a part is void,",
        "governing law": "The law holds of", "assignment": "No right may be assigned to",
    }  # fmt: skip
    kind, begins = rng.choice(list(kinds.items()))
    clause = f"{begins} {rng.choice(_TOWNS)}, {_thing(rng)}."
    return {"clause_text": clause, "clause_type": kind}


@_draw
def _reuters(rng: random.Random) -> Row:
    topics = rng.sample(("wheat", "corn", "gold", "crude", "sugar", "tin"), 2)
    words = " and ".join(topics)
    return {
        "title": f"{words.upper()} UP",
        "text": f"Prices of {words} rose by {rng.randrange(2, 999)} points.",
        "topics": ", ".join(topics),
    }


def _choices(rng: random.Random, marks: str) -> tuple[str, str]:
    """(a sum to be done with its numbered choices, the mark of the right one)."""
    first, second = rng.randrange(2, 99), rng.randrange(2, 99)
    right = rng.randrange(len(marks))
    sums = [first + second + place - right for place in range(len(marks))]
    listed = "\n".join(f"{mark}: {value}" for mark, value in zip(marks, sums, strict=True))
    return f"What is {first} + {second}?\n\n{listed}", marks[right]


@_draw
def _mmlu(rng: random.Random) -> Row:
    question, answer = _choices(rng, "0123")
    return {"prompt": question, "completion": answer}


# Math


@_draw
def _gsm8k(rng: random.Random) -> Row:
    name, first, second = rng.choice(_NAMES), rng.randrange(2, 99), rng.randrange(2, 99)
    total = first + second
    return {
        "question": f"{name} has {first} nuts and finds {second} more. How many are there?",
        "answer": f"{first} + {second} = {total}\n#### {total}",
    }


# Reasoning


@_draw
def _winogrande(rng: random.Random) -> Row:
    first, second = rng.sample(_THINGS, 2)
    answer, many = rng.randrange(1, 3), rng.randrange(2, 99)
    word = "heavy" if answer == 1 else "small"
    sentence = f"{many} of the {first} hid the {second} as the _ was {word}."
    return {"sentence": sentence, "option1": first, "option2": second, "answer": answer}


@_draw
def _arc_combined(rng: random.Random) -> Row:
    question, answer = _choices(rng, "ABCDE")
    return {"realized_prompt": question, "answerKey": answer}


@_draw
def _glue_cola(rng: random.Random) -> Row:
    words, label = ["The", *_thing(rng).split(), "is", "new"], rng.randrange(2)
    return {"sentence": " ".join(words if label else words[::-1]) + ".", "label": label}


@_draw
def _glue_mnli(rng: random.Random) -> Row:
    thing, other, label = _thing(rng), _thing(rng), rng.randrange(3)
    second = (f"There is a {thing}.", f"There is a {other}.", f"There is no {thing}.")[label]
    return {"premise": f"A {thing} stands here.", "hypothesis": second, "label": label}


def _pair(first: str, second: str) -> Draw:
    """Two sentences about one thing (1) or about two (0), in the columns of that name."""

    def draw(rng: random.Random) -> Row:
        thing, other, label = _thing(rng), _thing(rng), rng.randrange(2)
        said = (other, thing)[label]
        return {first: f"Where is the {thing}?", second: f"The {said} is where?", "label": label}

    return draw


_DRAWS |= {
    "glue_mrpc": _pair("sentence1", "sentence2"),
    "glue_qqp": _pair("question1", "question2"),
    "glue_wnli": _pair("sentence1", "sentence2"),
}


@_draw
def _glue_sst2(rng: random.Random) -> Row:
    label = rng.randrange(2)
    return {"sentence": f"a {rng.choice((_BAD, _GOOD)[label])} {_thing(rng)}", "label": label}


@_draw
def _covid(rng: random.Random) -> Row:
    labels = ("Extremely Negative", "Negative", "Neutral", "Positive", "Extremely Positive")
    place = rng.randrange(5)
    word = ("awful", "bad", "here", "good", "great")[place]
    return {
        "OriginalTweet": f"Shops are {word}, I got a {_thing(rng)}",
        "TweetAt": f"{rng.randrange(1, 29):02}-03-2020",
        "Location": rng.choice((*_TOWNS, None)),
        "Sentiment": labels[place],
    }


@_draw
def _hellaswag(rng: random.Random) -> Row:
    endings = [f"{verb} the {_thing(rng)}." for verb in ("lifts", "paints", "sells", "hides")]
    return {
        "ctx": f"{rng.choice(_NAMES)} finds a {_thing(rng)} and",
        "endings": str(endings),
        "label": rng.randrange(4),
    }


@_draw
def _hellaswag_processed(rng: random.Random) -> Row:
    thing = _thing(rng)
    return {
        "ctx": f"{rng.choice(_NAMES)} sees a {thing} and",
        "correct_ending": f"buys the {thing}.",
    }


@_draw
def _jigsaw(rng: random.Random) -> Row:
    is_toxic = rng.random() < 0.5
    comment = f"{rng.choice(_BAD if is_toxic else _GOOD)} {_thing(rng)}, {rng.choice(_NAMES)}"
    return {"comment_text": comment, "is_toxic": "yes" if is_toxic else "no"}


@_draw
def _drop(rng: random.Random) -> Row:
    name, town, yards = rng.choice(_NAMES), rng.choice(_TOWNS), rng.randrange(2, 999)
    return {
        "passage": f"{name} threw a pass of {yards} yards in {town}.",
        "question": f"How many yards did {name} throw?",
        "answer": str(yards),
    }
