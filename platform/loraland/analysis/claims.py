"""The report's headlines, each computed again from its own table of 310 scores.

Decides whether a printed number agrees, by rounding alone; the reasons are facts that were looked
for by hand, and the tests hold them to the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean
from typing import NamedTuple

from loraland.analysis.correlation import checkable
from loraland.analysis.marginals import by_base, overall
from loraland.analysis.study import Printed, Study, StudyCell

ROUNDING = 0.0005  # of the table's own scores, which have three decimals
# Table 4 counts an adapter above GPT-4 from less than this below it. Any value in (0.019, 0.020]
# gives every one of its counts; the report says nothing of it.
TOLERANCE = 0.020


class Claim(NamedTuple):
    """A printed number beside the one that its own table gives."""

    name: str
    source: str  # where it is printed
    printed: float
    recomputed: float
    decimals: int  # of the printed number; 0 for a count
    why: str = ""  # why the two differ, or what the number means

    @property
    def agrees(self) -> bool:
        """Whether the difference is no more than the rounding of both; counts must be equal."""
        if self.is_count:
            return self.printed == self.recomputed
        return abs(self.printed - self.recomputed) <= 0.5 * 10.0**-self.decimals + ROUNDING

    @property
    def is_count(self) -> bool:
        """Whether the number counts cells or tasks."""
        return self.decimals == 0


class BaseCheck(NamedTuple):
    """One line of the report's Table 4 beside the same line computed again."""

    base: str
    printed: Printed
    untuned: float
    tuned: float
    lift: float
    over_gpt4: float
    above_base: int
    above_gpt4: int  # strictly
    above_gpt4_tolerant: int  # by Table 4's own rule, as found


def claims(study: Study) -> list[Claim]:
    """Every headline, those of the abstract first."""
    return [*_abstract(study), *_table4(study), *_figure7(study), _figure8(study)]


def above_gpt4(cells: Iterable[StudyCell], study: Study, tolerance: float = 0.0) -> int:
    """Cells with a score above GPT-4's minus `tolerance`, strictly."""
    return sum(study.over_gpt4(cell) > -tolerance for cell in cells)


def best_of_ten(study: Study, value: Callable[[StudyCell], float]) -> float:
    """The mean over tasks of the best value among a task's ten cells."""
    return fmean(max(map(value, study.of_task(task))) for task in study.tasks)


def check_bases(study: Study) -> list[BaseCheck]:
    """Table 4, base by base."""
    return [
        BaseCheck(
            line.name,
            study.table4[line.name],
            line.untuned,
            line.tuned,
            line.lift,
            line.over_gpt4,
            line.above_base,
            line.above_gpt4,
            above_gpt4(study.of_base(line.name), study, TOLERANCE),
        )
        for line in by_base(study)
    ]


def _abstract(study: Study) -> list[Claim]:
    everything = overall(study)
    best, best_untuned = (best_of_ten(study, lambda c: c.tuned), best_of_ten(study, _untuned))
    gpt4 = fmean(study.gpt4.values())
    return [
        Claim(
            "mean lift over the own base",
            "abstract, '34 points'",
            0.34,
            everything.lift,
            2,
            "cannot be had: it is neither the mean nor the median (0.363), nor the mean of the "
            "categories (0.379), the best adapter of each task over its base (0.439), or Table 4's "
            "own (0.387)",
        ),
        Claim(
            "best of ten adapters over GPT-4",
            "abstract, '10 points'",
            0.10,
            best - gpt4,
            2,
            f"the best adapter of each task ({best:.4f}) minus GPT-4 ({gpt4:.4f}), picked on the "
            "rows it is judged on; without covid, reuters, legal and drop it is "
            f"{_without_hard_tasks(study):.4f}",
        ),
        Claim(
            "best adapter over best base, per task",
            "readers' notes, '25 points'",
            0.25,
            best - best_untuned,
            2,
            "picked on the rows it is judged on, like the line above",
        ),
    ]


def _untuned(cell: StudyCell) -> float:
    return cell.untuned


def _without_hard_tasks(study: Study) -> float:
    """The best of ten over GPT-4 without the four tasks that carry most of it."""
    left = [task for task in study.tasks if task not in ("covid", "reuters", "legal", "drop")]
    return fmean(max(c.tuned for c in study.of_task(task)) - study.gpt4[task] for task in left)


def _table4(study: Study) -> list[Claim]:
    everything, printed = overall(study), study.table4["average"]
    stale = (
        "one of its tables is stale: gemma-7b-instruct has 0.656 in Table 4, 0.629 in Table 12; "
        "that is 0.0027 of the mean"
    )
    tolerant = above_gpt4(study.cells, study, TOLERANCE)
    ties = above_gpt4(study.cells, study, ROUNDING)
    wins = best_models(study)
    means = {"gpt-3.5-turbo": study.gpt35, "gpt-4": study.gpt4}
    compared = (
        ("mean score of a base", printed.untuned, everything.untuned, 3, ""),
        ("mean score of an adapter", printed.tuned, everything.tuned, 3, stale),
        ("mean lift over the own base", printed.lift, everything.lift, 3, stale),
        ("mean gap to GPT-4", printed.over_gpt4, everything.over_gpt4, 3, stale),
        ("adapters above their base", printed.above_base, everything.above_base, 0, ""),
        (
            "adapters above GPT-4",
            printed.above_gpt4,
            everything.above_gpt4,
            0,
            f"{everything.above_gpt4} are above, {ties} with ties; the printed number, and each "
            f"base's, comes out if less than {TOLERANCE:.3f} below GPT-4 counts as above: "
            f"{tolerant}",
        ),
        *(
            (f"mean score of {name}", study.table4[name].untuned, fmean(scores.values()), 3, "")
            for name, scores in means.items()
        ),
        *(
            (
                f"tasks that {name} is best on",
                study.table4[name].best_on,
                wins[name],
                0,
                "a tie for the best counts for none here; the report's column adds up to 29",
            )
            for name in ("gpt-4", "mistral-7b", "zephyr-7b-beta", "mistral-7b-instruct")
        ),
    )
    return [
        Claim(name, "Table 4", float(there), float(here), decimals, why)
        for name, there, here, decimals, why in compared
        if there is not None
    ]


def best_models(study: Study) -> dict[str, int]:
    """How many tasks each adapter's base, or an endpoint, is the only best model of."""
    wins = dict.fromkeys([*study.bases, "gpt-3.5-turbo", "gpt-4"], 0)
    for task in study.tasks:
        scores = {cell.base: cell.tuned for cell in study.of_task(task)}
        scores |= {"gpt-3.5-turbo": study.gpt35[task], "gpt-4": study.gpt4[task]}
        best = [name for name, score in scores.items() if score == max(scores.values())]
        if len(best) == 1:
            wins[best[0]] += 1
    return wins


def _figure7(study: Study) -> list[Claim]:
    """Bases tuned for instructions against those that only complete text."""
    printed = {
        False: {"base": (0.214, 0.301), "adapter": (0.683, 0.751)},
        True: {"base": (0.360, 0.505), "adapter": (0.692, 0.749)},
    }
    found = []
    for instructed, numbers in printed.items():
        group = "instruction-tuned bases" if instructed else "completing bases"
        # The printed numbers come out only with phi-2 among the instruction-tuned.
        names = [
            base.name
            for base in study.bases.values()
            if (base.instruction_tuned or base.name == "phi-2") == instructed
        ]
        for what, (mean, best) in numbers.items():
            value = _untuned if what == "base" else _tuned
            cells = [[c for c in study.of_task(t) if c.base in names] for t in study.tasks]
            means = fmean(fmean(map(value, own)) for own in cells)
            bests = fmean(max(map(value, own)) for own in cells)
            why = "phi-2 counted among the instruction-tuned"
            stale = "; the rest is what gemma-7b-instruct differs between tables"
            of_mean = why + stale if instructed and what == "adapter" else why
            found += [
                Claim(f"{group}, mean {what}", "Figure 7", mean, means, 3, of_mean),
                Claim(f"{group}, best {what} per task", "Figure 7", best, bests, 3, why),
            ]
    return found


def _tuned(cell: StudyCell) -> float:
    return cell.tuned


def _figure8(study: Study) -> Claim:
    checks = checkable(study)
    return Claim(
        "correlations of Figure 8 that its tables give",
        "Figure 8",
        len(checks),
        sum(check.agrees for check in checks),
        0,
        "as Spearman's, which the figure does not say; the other heuristics need the rows "
        "(`loraland heuristics`)",
    )
