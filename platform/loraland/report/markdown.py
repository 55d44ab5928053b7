"""The report as Markdown: the same figures as tables, and the first broken answers of each cell.

Pure. Text from outside stands in code, in fences longer than any that it holds itself, or with its
marks escaped, so that it stays text wherever the file is rendered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from loraland.evaluation.leaderboard import BASE, Duel, Marginal
from loraland.report.content import CellPage, Content
from loraland.report.excerpt import OUTCOMES, RIGHT, Pair, clipped
from loraland.report.origins import commit_words, data_of_tasks, making, packages_of
from loraland.report.wording import (
    NOTHING,
    SIGNS,
    VERDICTS,
    bounds,
    day,
    p_value,
    plain,
    share,
    signed,
    span,
)

SHOWN = 3  # pairs of answers of a cell
MOST = 600  # characters of one text


def render_markdown(content: Content) -> str:
    """The whole document."""
    parts = [_opening(content)]
    if content.cells:
        parts += [_matrix(content), _means(content), _leaderboard(content)]
        parts += ["## Cells", _on_cells(content), *map(_cell, content.cells)]
    if content.unfinished:
        parts.append(_unfinished(content))
    return "\n\n".join([*parts, _provenance(content)]) + "\n"


def _opening(content: Content) -> str:
    board = content.board
    claims = [f"- {escaped(str(claim))}." for claim in board.claims if board.rows]
    return "\n".join(
        [
            f"# {escaped(content.name)}: {len(board.rows)} of {board.cells} cells",
            *(["", escaped(content.description)] if content.description else []),
            "",
            *(claims or ["No cell is finished, so there is nothing to claim."]),
        ]
    )


def _matrix(content: Content) -> str:
    found = {(cell.row.base, cell.row.task): cell.row.against_base for cell in content.cells}
    states = {(one.base, one.task): one.state for one in content.unfinished}
    rows = [
        [
            task,
            *(_lift(found.get((base, task)), states.get((base, task))) for base in content.bases),
        ]
        for task in content.tasks
    ]
    note = "Lift over the base with its 95 % interval; ▲ better and ▼ worse hold after correction."
    return f"## Matrix\n\n{note}\n\n{_table(['task', *content.bases], rows)}"


def _lift(duel: Duel | None, state: str | None = None) -> str:
    if duel is None:
        return state or NOTHING
    shown = f"{signed(duel.lift.mean)} ({span(duel.lift.low, duel.lift.high)})"
    return f"{shown} {SIGNS[duel.verdict]}".rstrip()


def _means(content: Content) -> str:
    rows = [
        [
            one.kind,
            one.name if one.kind != "all" else "",
            one.cells,
            plain(one.base_score),
            plain(one.score),
            _mean_lift(one),
            one.better,
            one.worse,
        ]
        for one in content.board.marginals
    ]
    head = ["mean over", "", "cells", "base", "adapter", "lift", "better", "worse"]
    return f"## Means\n\n{_table(head, rows)}"


def _mean_lift(one: Marginal) -> str:
    interval = span(one.lift_low, one.lift_high)
    return f"{signed(one.lift)} ({interval})" if interval else signed(one.lift)


def _leaderboard(content: Content) -> str:
    board = content.board
    rivals = [name for name in board.opponents if name != BASE]
    head = ["base", "task", "metric", "score", "base score", "lift", "p", "verdict"]
    head += [f"lift over {name}" for name in rivals] + list(board.overlays)
    head += ["unparsable", "base unparsable", "failed", "tokens", "base tokens", "items", "marks"]
    head += ["secondary scores"]
    rows = [_line(cell, rivals, board.overlays) for cell in content.cells]
    text = f"## Leaderboard\n\n{_table(head, rows)}"
    if board.overlays:
        text += (
            "\n\nColumns named *report* are figures that the LoRA Land report printed, on other "
            "items; they are tested against nothing."
        )
    return text


def _line(cell: CellPage, rivals: Sequence[str], overlays: Sequence[str]) -> list[object]:
    row, duel, shown = cell.row, cell.row.against_base, cell.excerpt
    secondary = cell.record.score.secondary
    return [
        row.base,
        row.task,
        row.metric,
        f"{plain(row.score.mean)} ({bounds(row.score)})",
        f"{plain(duel.score.mean)} ({bounds(duel.score)})",
        _lift(duel),
        p_value(duel.adjusted_p),
        VERDICTS[duel.verdict],
        *(_lift(row.duels.get(name)) for name in rivals),
        *(plain(row.overlays.get(name)) for name in overlays),
        share(row.unparsable, row.items),
        share(row.base_unparsable, row.items),
        row.failures,
        plain(shown.ours.tokens, 1) if shown else NOTHING,
        plain(shown.theirs.tokens, 1) if shown else NOTHING,
        row.items,
        ", ".join(row.marks),
        ", ".join(f"{name} {plain(one.value, 2)}" for name, one in secondary.items()),
    ]


def _on_cells(content: Content) -> str:
    return (
        f"An answer counts as right here from a score of {RIGHT} on. Of each cell up to {SHOWN} "
        "answers are shown, those first that the base had right and the adapter has wrong; "
        f"`loraland report {content.name}` writes them with a browser for more."
    )


def _cell(cell: CellPage) -> str:
    row, card = cell.row, cell.card
    lines = [f"### {escaped(row.base)} on {escaped(row.task)}", "", f"Adapter {code(row.model)}."]
    lines += cell.gaps
    lines += [f"Data gate: {escaped(warning)}" for warning in cell.record.warnings]
    if card is not None and card.curve:
        first, last = card.curve[0], card.curve[-1]
        checked = [p.validation_loss for p in card.curve if p.validation_loss is not None]
        lines.append(
            f"Training loss {plain(first.train_loss)} to {plain(last.train_loss)} in {last.step} "
            "updates"
            + (f", validation {plain(checked[0])} to {plain(checked[-1])}" if checked else "")
            + f"; weights of update {card.best_step}."
        )
    if cell.excerpt is not None:
        counts = ", ".join(f"{cell.excerpt.counts[one]} {words}" for one, words in OUTCOMES.items())
        shown = cell.excerpt.shown[:SHOWN]
        lines += [f"Answers: {counts}; {len(shown)} of {cell.excerpt.total} shown.", ""]
        lines += [text for pair in shown for text in _pair(pair)]
    return "\n".join(lines).rstrip()


def _pair(pair: Pair) -> Iterator[str]:
    ours, theirs = pair
    yield f"**{OUTCOMES[pair.outcome]}**, item {ours.item}"
    for name, text in (
        ("prompt", ours.prompt),
        ("target", ours.target),
        (f"adapter, score {ours.score:.2f}", ours.failure or ours.output),
        (f"base, score {theirs.score:.2f}", theirs.failure or theirs.output),
    ):
        yield f"\n{name}:\n\n{fenced(clipped(text, MOST))}"
    yield ""


def _unfinished(content: Content) -> str:
    rows = [
        [
            one.base,
            one.task,
            one.state,
            one.reason,
            NOTHING if one.attempts is None else one.attempts,
        ]
        for one in content.unfinished
    ]
    return f"## Unfinished\n\n{_table(['base', 'task', 'state', 'reason', 'attempts'], rows)}"


def _provenance(content: Content) -> str:
    made = making(content.cells)
    lines = [
        f"- report: written {day(content.written)} by {packages_of(content.packages)}; code "
        f"{commit_words(content.commit, content.dirty)}"
    ]
    if made.first and made.last:
        lines += [
            f"- cells: finished {day(made.first)} to {day(made.last)}; {made.cards} of "
            f"{len(content.cells)} cards could be read",
            f"- code: {escaped('; '.join(made.commits)) or NOTHING}",
            f"- machines: {escaped('; '.join(made.hardware)) or NOTHING}",
            f"- versions: {escaped('; '.join(made.packages)) or NOTHING}",
        ]
    lines += [
        "- intervals: 95 %; how a figure would move with other items of the same task, and nothing "
        "of other seeds, other training rows or another recipe",
        "- scores: 0 is worst and 1 is best; answers that failed or that the strict parser refuses "
        "count as wrong",
    ]
    rows = [
        [
            one.task,
            one.metric,
            _all(one.items),
            _all(one.sources),
            _all(one.train),
            _all(one.held_out),
        ]
        for one in data_of_tasks(content.cells)
    ]
    head = ["task", "metric", "items", "source", "train rows", "held-out rows"]
    tables = [_table(head, rows)] if rows else []
    return "\n\n".join(["## Provenance", "\n".join(lines), *tables])


def _all(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or NOTHING


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(escaped(str(cell)) for cell in line) + " |" for line in lines
    )


def escaped(text: str) -> str:
    """Text on one line without any mark that Markdown or HTML would act on."""
    one_line = " ".join(text.split())
    plain_text = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~#]|(?<!\w)_|_(?!\w))", r"\\\1", plain_text)


def code(text: str) -> str:
    """Text on one line as code."""
    ticks = "`" * (1 + _longest_run(text))
    return f"{ticks} {' '.join(text.split())} {ticks}"


def fenced(text: str) -> str:
    """Text as a block of code that it cannot leave."""
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}text\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
