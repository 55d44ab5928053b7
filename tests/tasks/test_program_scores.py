"""How an answer becomes a program; what runs it is a stand-in that notes what it was given."""

from __future__ import annotations

import pytest

from loraland.errors import MetricUnavailable
from loraland.tasks.catalogue import get_task
from loraland.tasks.grading import Grade, Verdict, grader_for, require_gradable
from loraland.tasks.metrics.programs import program
from loraland.tasks.task import Item

PROMPT = 'import math\n\n\ndef double(x):\n    """ Twice x.\n    """\n'
TEST = "def check(candidate):\n    assert candidate(2) == 4\n"
ITEM = Item("p:", "return 2 * x", {"prompt": PROMPT, "test": TEST, "entry_point": "double"})


class Interpreter:
    """Runs the test's own programs here, and keeps them."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, text: str) -> Verdict:
        self.seen.append(text)
        try:
            code = compile(text, "<test>", "exec")
        except SyntaxError:
            return Verdict(False, False)
        try:
            exec(code, {})
        except Exception:
            return Verdict(True, False)
        return Verdict(True, True)


def grade(output: str, item: Item = ITEM) -> Grade:
    return grader_for(get_task("magicoder"), Interpreter()).grade(output, item)


@pytest.mark.parametrize(
    "output",
    [
        "return 2 * x",
        "    return 2 * x",
        "y = x\n    return x + y",
        "for y in [x]:\n        return y + y\n    return None",
        "if x:\n        return x + x",
        "return 2 * x\n\n\ndef other(x):\n    return 3 * x",
        "def double(x):\n    return 2 * x",
        "import os\n\ndef helper(x):\n    return x\n\ndef double(x):\n    return helper(x) * 2",
    ],
)
def test_a_body_or_a_whole_function_passes(output: str) -> None:
    assert grade(output) == Grade(output.strip(), 1.0, {"lenient": 1.0})


@pytest.mark.parametrize("output", ["return 3 * x", "return y", "pass", "raise SystemError"])
def test_a_program_that_fails_its_tests_is_readable_and_wrong(output: str) -> None:
    assert grade(output) == Grade(output, 0.0, {"lenient": 0.0})


@pytest.mark.parametrize("output", ["", "  ", "Here is the code:", "return ("])
def test_what_is_no_python_is_unreadable(output: str) -> None:
    assert grade(output) == Grade(None, 0.0, {"lenient": 0.0})


@pytest.mark.parametrize(
    "output",
    [
        "Sure:\n```python\nreturn 2 * x\n```\nDone.",
        "```\ndef double(x):\n    return 2 * x\n```",
        "```python\nreturn 2 * x",
        "y = x\nreturn x + y",  # the whole body at the margin
        "```python\ny = x\nreturn x + y\n```",
    ],
)
def test_fences_and_a_body_at_the_margin_are_read_leniently(output: str) -> None:
    assert grade(output) == Grade(None, 0.0, {"lenient": 1.0})


def test_an_answer_that_passes_is_run_once() -> None:
    interpreter = Interpreter()
    grader_for(get_task("magicoder"), interpreter).grade("return 2 * x", ITEM)
    assert len(interpreter.seen) == 1


def test_tests_come_after_the_answer_and_are_called() -> None:
    text = program("return 2 * x", ITEM)
    assert text == f"{PROMPT}    return 2 * x\n\n{TEST}\n\ncheck(double)\n"


def test_an_item_without_tests_says_where_they_are() -> None:
    bare = Item("p:", "return 1", {"prompt": PROMPT})
    with pytest.raises(MetricUnavailable, match=r"lacks \['test', 'entry_point'\]"):
        grade("return 1", bare)
    with pytest.raises(MetricUnavailable, match="lacks"):
        require_gradable(get_task("magicoder"), [ITEM, bare], Interpreter())
    require_gradable(get_task("magicoder"), [ITEM], Interpreter())
    with pytest.raises(MetricUnavailable, match="LORALAND_RUN_CODE"):
        require_gradable(get_task("magicoder"), [ITEM], None)
