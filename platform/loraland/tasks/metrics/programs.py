"""Programs judged by running them against HumanEval's tests: pass@1.

Puts program and tests together; what runs them is told, and lies above this package. Nothing here
compiles or runs an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from loraland.errors import MetricUnavailable
from loraland.tasks.metrics.grade import Grade
from loraland.tasks.task import Item

NEEDED = ("prompt", "test", "entry_point")  # columns of an item
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class Verdict(NamedTuple):
    """How a program with its tests ended."""

    readable: bool  # it is Python
    passed: bool  # it ran to its last line, no test failed


RunProgram = Callable[[str], Verdict]


@dataclass(frozen=True, slots=True)
class ProgramGrader:
    """The answer, put below HumanEval's prompt, passes the item's tests."""

    run: RunProgram

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when all tests pass; unreadable when it is no Python.

        `lenient` reads the first fenced block of an answer, and lets all of a function's body stand
        at the margin. Raises MetricUnavailable for an item without tests.
        """
        require_tests(item)
        code = output.strip()
        verdict = self.run(program(code, item)) if code else Verdict(False, False)
        passed = verdict.passed or self._passes_leniently(code, item)
        secondary = {"lenient": float(passed)}
        return Grade(code if verdict.readable else None, float(verdict.passed), secondary)

    def _passes_leniently(self, code: str, item: Item) -> bool:
        fenced = _FENCE.search(code)
        bare = fenced[1].strip() if fenced else code
        tries = dict.fromkeys((bare, _indented(bare, _depth(item)))) if bare else {}
        return any(self.run(program(each, item)).passed for each in tries if each != code)


def require_tests(item: Item) -> None:
    """Raises MetricUnavailable when the item has not the columns that its tests are made of."""
    if missing := [column for column in NEEDED if not item.row.get(column)]:
        raise MetricUnavailable(
            f"a program is judged by the tests in columns {list(NEEDED)}, and an item lacks "
            f"{missing}; take the test rows of openai/openai_humaneval, with all their columns"
        )


def program(code: str, item: Item) -> str:
    """The whole program: prompt, answer, tests, and the call of the tests.

    `code` is the body of the function, its first line without indentation (answers are stripped),
    or the function anew, which then takes the place of the prompt's.
    """
    prompt, name = str(item.row["prompt"]), str(item.row["entry_point"])
    anew = re.search(rf"^(?:async )?def {re.escape(name)}\b", code, re.MULTILINE)
    answer = f"\n\n{code}" if anew else " " * _depth(item) + code
    return f"{prompt}{answer}\n\n{item.row['test']}\n\ncheck({name})\n"


def _depth(item: Item) -> int:
    """The indentation of the prompt's last line, in spaces: that of the docstring."""
    last = str(item.row["prompt"]).rstrip().rsplit("\n", 1)[-1]
    return len(last) - len(last.lstrip(" "))


def _indented(code: str, depth: int) -> str:
    """A body of which some line stands at the margin, moved in; any other code as it is.

    The first line stays, as answers come without its indentation.
    """
    at_margin = any(line[:1].strip() for line in code.split("\n")[1:])
    return code.replace("\n", "\n" + " " * depth) if at_margin else code


def humaneval_without_runner() -> MetricUnavailable:
    """The error of a metric that needs programs to be run where that is not allowed."""
    return MetricUnavailable(
        "this metric runs programs that a model wrote against HumanEval's tests, and running "
        "generated code is not enabled here; set LORALAND_RUN_CODE=1 to run it confined, or choose "
        "a task with another metric"
    )
