"""What people see of the report's study: claims, marginals, heuristics, correlations, forecasts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from loraland.analysis.claims import TOLERANCE, BaseCheck, Claim
from loraland.analysis.correlation import (
    QUALITIES,
    Correlation,
    least_significant,
    printed_discoveries,
)
from loraland.analysis.heuristics import NAMES, Heuristics
from loraland.analysis.marginals import Marginal
from loraland.analysis.outlook import LEVEL, Assessment, Outlook
from loraland.analysis.prediction import Quality

FAILED_RUNS = "19 of the 310 runs ended at chance or in one answer, 18 of them on Gemma"


def claim_table(found: Iterable[Claim]) -> Table:
    """Printed numbers beside recomputed ones, with the reasons."""
    table = _table("headline", "printed", "recomputed", "agrees")
    table.title = "The LoRA Land report (arXiv 2405.00732), computed again from its Table 12"
    last = ""
    for claim in found:
        reason = "as above" if claim.why and claim.why == last else claim.why
        last = claim.why
        why = f"\n[dim]{reason}[/]" if reason else ""
        table.add_row(
            f"{claim.name} [dim]({claim.source})[/]{why}",
            f"{claim.printed:.{claim.decimals}f}",
            f"{claim.recomputed:.0f}" if claim.is_count else f"{claim.recomputed:.4f}",
            "[green]yes[/]" if claim.agrees else "[red]no[/]",
        )
    return table


def base_check_table(checks: Iterable[BaseCheck]) -> Table:
    """Table 4 base by base: recomputed, and as printed below."""
    table = _table("base", "base", "adapter", "lift", "to GPT-4", "> base", "> GPT-4", "nearly")
    table.title = "Table 4: recomputed, and printed below"
    table.caption = (
        f"nearly: less than {TOLERANCE:.3f} below GPT-4 counted as above; gives the printed counts"
    )
    for one in checks:
        numbers = (
            (one.untuned, one.printed.untuned),
            (one.tuned, one.printed.tuned),
            (one.lift, one.printed.lift),
            (one.over_gpt4, one.printed.over_gpt4),
        )
        table.add_row(
            one.base,
            *(f"{here:.4f}\n[dim]{_number(there, '.3f')}[/]" for here, there in numbers),
            f"{one.above_base}\n[dim]{_number(one.printed.above_base, 'd')}[/]",
            f"{one.above_gpt4}\n[dim]{_number(one.printed.above_gpt4, 'd')}[/]",
            str(one.above_gpt4_tolerant),
        )
    return table


def marginal_table(lines: Sequence[Marginal], by: str) -> Table:
    """Means by base, task or category."""
    # Bases and tasks have equally many cells each: no column for that.
    counted = len({line.cells for line in lines[:-1]}) > 1
    columns = ("base", "adapter", "lift", "to GPT-4", "> base", "> GPT-4")
    table = _table(by, *(("cells", *columns) if counted else columns))
    table.caption = (
        "lift with its 95% interval over tasks; the report has one run per cell, so that nothing "
        "is known of seeds"
    )
    for line in lines:
        has_interval = line.lift_low is not None
        spread = f"\n[dim]{line.lift_low:+.2f}..{line.lift_high:+.2f}[/]" if has_interval else ""
        table.add_row(
            line.name,
            *((str(line.cells),) if counted else ()),
            f"{line.untuned:.3f}",
            f"{line.tuned:.3f}",
            f"{line.lift:+.3f}{spread}",
            f"{line.over_gpt4:+.3f}",
            str(line.above_base),
            str(line.above_gpt4),
        )
    return table


def heuristics_lines(found: Heuristics, source: str) -> list[str]:
    """What was measured, and how."""
    return [
        f"{found.measured} of {found.train_examples} examples of {source}; "
        f"{found.answers} different answers",
        "similarity: ROUGE-L F of input and output; compressibility: zlib bytes / bytes",
    ]


def heuristics_table(found: Heuristics, title: str) -> Table:
    """The heuristics of one task."""
    table = _table("heuristic", "mean", "std", "p95")
    table.title = title
    for name in ("input_length", "output_length", "example_length"):
        spread = getattr(found, name)
        table.add_row(f"{name.replace('_', ' ')} in {found.unit}", *(f"{x:.1f}" for x in spread))
    for name in ("similarity", "compressibility"):
        table.add_row(name, *(f"{x:.3f}" for x in getattr(found, name)))
    return table


def correlation_table(found: Sequence[Correlation]) -> Table:
    """Heuristics by quality: Spearman's rho of ours, and the report's below."""
    tasks = max(one.tasks for one in found)
    table = _table("heuristic", *(name.replace("_", " ") for name in QUALITIES))
    table.title = f"Spearman's rho over {tasks} tasks, and the report's over 31 below"
    table.caption = (
        "*: the report's value lies outside our 95% interval; of one pair by itself, |rho| from "
        f"{least_significant(tasks):.2f} on is significant at 5% with {tasks} tasks, from "
        f"{least_significant(31):.2f} on with 31"
    )
    by_pair = {(one.first, one.second): one for one in found}
    for name in NAMES:
        table.add_row(
            name.replace("_", " "), *(_pair(by_pair[quality, name]) for quality in QUALITIES)
        )
    return table


def correlation_lines(
    found: Sequence[Correlation], holding: Sequence[Correlation], tasks: Sequence[str]
) -> list[str]:
    """What may be said of a table of correlations."""
    tested = [one for one in found if one.meets_printed is not None]
    met = sum(bool(one.meets_printed) for one in tested)
    printed = printed_discoveries()
    return [
        f"counted on {len(tasks)} tasks: {', '.join(tasks)}",
        f"{met} of {len(tested)} printed values lie within our 95% intervals",
        f"{len(holding)} of our {len(found)} pairs survive a correction for so many looks "
        f"(Benjamini-Hochberg, 5%); of the report's {len(printed)} do, none of them with lift",
    ]


def _pair(one: Correlation) -> str:
    ours = "-" if math.isnan(one.rho) else f"{one.rho:+.2f}"
    if one.meets_printed is False:
        ours = f"[red]*{ours}[/]"
    return f"{ours}\n[dim]{_number(one.printed, '+.2f')}[/]"


def assessment_table(found: Sequence[Assessment]) -> Table:
    """How well left-out tasks are foretold."""
    table = _table("known of the task", "RMSE", "of the mean", "R2 of score", "RMSE", "R2 of lift")
    table.title = "Score and lift of a task that was left out: ridge regression on the others"
    table.caption = "below R2 and RMSE: 95% intervals over tasks; R2 is against the mean predictor"
    for one in found:
        table.add_row(
            one.known,
            _rmse(one.score),
            f"{one.score.mean_rmse:.3f}",
            _r2(one.score),
            _rmse(one.lift),
            _r2(one.lift),
        )
    return table


def honest_words(found: Sequence[Assessment]) -> list[str]:
    """What so few tasks allow to be said, with the numbers at hand."""
    sure = [one.known for one in found if one.score.r2_low > 0]
    widest = max(one.score.r2_high - one.score.r2_low for one in found)
    better = "; ".join(sure) if sure else "none"
    return [
        "cells of one task share all but their base, so that there are as many observations as "
        f"tasks; intervals of R2 are up to {widest:.1f} wide",
        f"foretell the score better than the mean of other tasks, at 95%: {better}",
        f"{FAILED_RUNS}: no property of a task foretells those",
        "features were chosen before any fit, but with the report's Figure 8 in sight, and the "
        "method was changed three times after a first table was seen: read R2 as too high rather "
        "than too low",
        "the intervals know nothing of other recipes, seeds, or bases outside the report's 2.5 to "
        "8.5 billion parameters",
    ]


def outlook_table(found: Outlook, published: Mapping[str, float], title: str) -> Table:
    """What a task can expect on each base; `published` are the report's scores of it, by base."""
    columns = ("adapter", "lift over base") + (("in the report",) if published else ())
    table = _table("base", *columns)
    table.title = title
    for one in found.expected:
        table.add_row(
            one.base,
            f"{one.score:.2f} [dim]{one.score_low:.2f}..{one.score_high:.2f}[/]",
            f"{one.lift:+.2f} [dim]{one.lift_low:+.2f}..{one.lift_high:+.2f}[/]",
            *((_number(published.get(one.base), ".3f"),) if published else ()),
        )
    return table


def outlook_lines(found: Outlook) -> list[str]:
    """What a forecast stands on, and how little that is."""
    traits = found.traits
    answers = f"{traits.labels} possible answers" if traits.labels else "open answers"
    given = "" if found.base_score is None else f", base's score {found.base_score:.3f}"
    lines = [
        f"known of the task: {traits.p95_tokens:.0f} tokens at the 95th percentile, "
        f"{traits.train_examples} train examples, {answers} of at most {traits.answer_tokens} "
        f"tokens{given}",
        f"{LEVEL:.0%} intervals (jackknife+ over tasks), learned from {found.tasks} tasks of the "
        "report, which say little of another: `loraland forecast` shows how little",
    ]
    if found.beyond:
        names = ", ".join(name.removeprefix("log ") for name in found.beyond)
        lines.append(f"outside what those tasks cover, so extrapolated: {names}")
    return lines


def neighbour_table(found: Outlook) -> Table:
    """The report's tasks that look most alike."""
    table = _table("most alike in the report", "distance", "bases", "adapters", "best adapter")
    for one in found.nearest:
        table.add_row(
            one.task,
            f"{one.distance:.2f}",
            f"{one.untuned:.3f}",
            f"{one.tuned:.3f}",
            f"{one.best:.3f}",
        )
    return table


def _table(first: str, *rest: str) -> Table:
    # Right padding alone and no edges: all but the widest two fit into 80 columns.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in rest:
        table.add_column(name, justify="right")
    return table


def _rmse(one: Quality) -> str:
    return f"{one.rmse:.3f}\n[dim]{one.rmse_low:.2f}..{one.rmse_high:.2f}[/]"


def _r2(one: Quality) -> str:
    colour = "green" if one.r2_low > 0 else "red" if one.r2_high < 0 else "yellow"
    return f"[{colour}]{one.r2:+.2f}[/]\n[dim]{one.r2_low:+.2f}..{one.r2_high:+.2f}[/]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
