"""What people see of an outside endpoint: what asking it will take, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from loraland.evaluation.endpoint import Endpoint
    from loraland.evaluation.endpoint_budget import Estimate
    from loraland.evaluation.endpoint_run import Report


def estimate_lines(endpoint: Endpoint, found: Estimate) -> list[str]:
    """What asking takes, a line each."""
    lines = [
        f"{endpoint.name}: {endpoint.model} at {endpoint.url}, {endpoint.api}",
        f"{found.requests} requests to send, {found.answered} more are answered in storage",
        f"about {found.input_tokens} tokens of prompts (one for 4 bytes) and at most "
        f"{found.most_output_tokens} of answers",
    ]
    if found.usd is not None:
        lines.append(
            f"about {found.usd:.4f} USD if every answer is as long as it may be; at most "
            f"{found.most_usd:.4f} (a token for each byte), without retries"
        )
        lines.append(f"{found.spent.usd:.4f} of {endpoint.max_usd} USD are spent")
    if endpoint.max_total_tokens is not None:
        lines.append(f"{found.spent.tokens} of {endpoint.max_total_tokens} tokens are spent")
    if found.within_caps is False:
        lines.append("the most that this may cost is above a cap, which may end it early")
    return lines


def report_table(endpoint: Endpoint, report: Report) -> Table:
    """The tasks that have samples."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=endpoint.name)
    for name in ("task", "score", "failed", "answered by", "tokens", "USD"):
        table.add_column(name, justify="left" if name in ("task", "answered by") else "right")
    for one in report.judged:
        stamp = one.stamp["endpoint"]
        table.add_row(
            one.task,
            f"{one.score.mean:.3f}\n[dim]{one.score.low:.2f}..{one.score.high:.2f}[/]",
            f"{one.failures} of {one.items}",
            Text("\n".join(stamp["models"])),  # from outside: no markup
            str(stamp["input_tokens"] + stamp["output_tokens"]),
            "" if stamp["usd"] is None else f"{stamp['usd']:.4f}",
        )
    table.caption = "95% intervals; failed: too long, or refused; they count as wrong"
    return table


def spent_line(endpoint: Endpoint, report: Report) -> str:
    """What a run sent and spent."""
    spent, everything = report.spent, report.spent_in_all
    if endpoint.max_usd is None:
        return f"{report.requests} requests, {spent.tokens} tokens; {everything.tokens} in all"
    return (
        f"{report.requests} requests, {spent.tokens} tokens, {spent.usd:.4f} USD; "
        f"in all {everything.usd:.4f} of {endpoint.max_usd} USD"
    )
