"""What people see of a load test: figures as tables, and how it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from loraland.loadtest.against import AgainstBase, Ratio
    from loraland.loadtest.cliff import Point
    from loraland.loadtest.run import Measured
    from loraland.loadtest.summary import Figures, Times

MOST_ADAPTERS = 12  # rows of the table of adapters, those with the most requests


def run_table(runs: Sequence[Measured]) -> Table:
    """Each run with its throughput and latencies."""
    table = _table("run", "requests", "errors", "req/s", "tokens/s", "", "p50", "p95", "p99")
    for run in runs:
        found = run.figures
        lines = list(_latencies(found))
        table.add_row(
            f"{run.name}, round {run.round + 1}",
            str(found.requests),
            str(found.requests - found.answered),
            f"{found.requests_per_s:.2f}",
            f"{found.tokens_per_s:.1f}",
            *("\n".join(column) for column in zip(*lines, strict=True)),
        )
    table.caption = "milliseconds, from when a request was due; docs/loadtest.md defines each"
    return table


def adapter_table(found: Figures, base: str) -> Table:
    """The models with the most requests; adapters without the name of their base."""
    table = _table("model", "asked", "failed", "hits", "misses", "first token", "tokens/s")
    shown = sorted(found.adapters, key=lambda one: (-one.requests, one.model))
    for one in shown[:MOST_ADAPTERS]:
        table.add_row(
            Text(one.model.removeprefix(f"{base}/")),
            str(one.requests),
            str(one.failed),
            str(one.hits),
            str(one.misses),
            "" if one.ttft_p50_ms is None else f"{one.ttft_p50_ms:.0f}",
            "" if one.tokens_per_s is None else f"{one.tokens_per_s:.1f}",
        )
    if len(shown) > MOST_ADAPTERS:
        table.caption = f"and {len(shown) - MOST_ADAPTERS} more; --json has all"
    return table


def cliff_table(points: Sequence[Point]) -> Table:
    """The working sets with their first tokens."""
    table = _table(
        "x slots", "models", "errors", "tokens/s", "hits", "p50/p95", "misses", "p50/p95", "all p50"
    )  # fmt: skip
    for share, adapters, found in points:
        table.add_row(
            f"{share:g}",
            str(adapters),
            str(found.requests - found.answered),
            f"{found.tokens_per_s:.1f}",
            str(found.hits),
            _two(found.ttft_hit),
            str(found.misses),
            _two(found.ttft_miss),
            "" if found.ttft is None else f"{found.ttft.p50_ms:.0f}",
        )
    table.caption = "first token in milliseconds: of hits, of misses, of all"
    return table


def notes(found: Figures) -> Iterator[str]:
    """What a reader of figures must know beside them."""
    for error, count in found.errors.items():
        yield f"{count} x {error}"
    if found.unfinished:
        yield f"{found.unfinished} requests were cut off and are not counted"
    if found.answered and found.full_length < found.answered:
        mean = found.generated_tokens / found.answered
        yield (
            f"{found.answered - found.full_length} of {found.answered} answers ended before their "
            f"longest length; {mean:.1f} tokens on average"
        )
    if (fair := found.fairness) is not None:
        yield (
            f"fairness: the slowest of {fair.adapters} models got {fair.least_over_most:.2f} of "
            f"the fastest's tokens/s; Jain's index {fair.jain:.3f}"
        )
    for limit in found.client.limits:
        yield f"the client was the limit: {limit}"


def against_lines(found: AgainstBase) -> Iterator[str]:
    """The adapters over the base."""
    yield f"share of the base's throughput: {_ratio(found.throughput)}"
    yield f"first token (p50) over the base's: {_ratio(found.ttft)}"
    yield f"time per token (p50) over the base's: {_ratio(found.per_token)}"


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "unknown, for lack of a round in which both answered"
    return f"{ratio.median:.3f}, rounds {ratio.least:.3f} to {ratio.most:.3f} ({len(ratio.rounds)})"


def _latencies(found: Figures) -> Iterator[tuple[str, str, str, str]]:
    rows = (
        ("first token", found.ttft),
        ("- hit", found.ttft_hit),
        ("- miss", found.ttft_miss),
        ("pause", found.pause),
        ("per token", found.per_token),
        ("whole", found.total),
    )
    for name, times in rows:
        if times is not None:
            yield name, f"{times.p50_ms:.0f}", f"{times.p95_ms:.0f}", f"{times.p99_ms:.0f}"
    if found.total is None:
        yield "nothing was answered", "", "", ""


def _two(times: Times | None) -> str:
    return "" if times is None else f"{times.p50_ms:.0f}/{times.p95_ms:.0f}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in (columns[0], "") else "right")
    return table
