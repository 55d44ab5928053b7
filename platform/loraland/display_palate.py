"""What people see of palates: the palates, a list with its reasons, cards, rankers judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from loraland.palate.adapter_catalogue import AdapterPick
from loraland.palate.model import PalateModel
from loraland.palate.onboarding import Card
from loraland.palate.recommend import Shelf


def palate_table(model: PalateModel, title: str) -> Table:
    """Palates with their words, and what hygiene says."""
    table = _table("palate", "items", "telling words", title=title)
    for palate in sorted(model.palates, key=lambda one: -one.items):
        words = escape(", ".join(palate.terms[:7]))
        table.add_row(f"{palate.id} [bold]{escape(palate.name)}[/]", str(palate.items), words)
    found = model.facts["hygiene"]
    told = [f"{model.facts['items']} items"]
    for name, words in (
        ("kind_nmi", "NMI with varieties"),
        ("critic_nmi", "with tasters"),
        ("colour_purity", "purity of colour"),
        ("silhouette", "silhouette"),
        ("without_price", "without price"),
    ):
        if found.get(name) is not None:
            told.append(f"{words} {found[name]:.2f}")
    table.caption = "; ".join(told + [f"[red]{escape(alarm)}[/]" for alarm in found["alarms"]])
    return table


def shelf_table(shelf: Shelf) -> Table:
    """A list, each item with its reason below."""
    table = _table("item", "points", "price", "value", title=f"palates @{shelf.model_version}")
    for pick in shelf.picks:
        guess = " [dim](a guess)[/]" if pick.is_guess else ""
        why = escape(pick.why.sentence)
        table.add_row(
            f"{escape(pick.title)}{guess}\n[dim]{pick.key} {why}[/]",
            f"{pick.quality:.4g}",
            "" if pick.price is None else f"{pick.price:g}",
            "" if pick.why.percentile is None else f"{pick.why.percentile:.0f}",
        )
    table.caption = "value: per cent of its palate's items that give no more for their price"
    return table


def found_table(model: PalateModel, places: Sequence[int]) -> Table:
    """Items with their keys."""
    table = _table("key", "title", "palate")
    for place in places:
        palate = model.palates[int(model.palate[place])]
        title = escape(model.catalogue.titles[place])
        table.add_row(model.catalogue.keys[place], title, escape(palate.name))
    return table


def card_table(cards: Sequence[Card]) -> Table:
    """Cards to like or not."""
    table = _table("key", "item", "words")
    for card in cards:
        table.add_row(card.key, escape(card.title), escape(", ".join(card.words)))
    return table


def judged_table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Rankers side by side."""
    table = _table("ranker", "nDCG@10", "hit@10", "MRR@10", "value", "price", "cover", title=title)
    for row in rows:
        mean, low, high = row["ndcg@10"]
        table.add_row(
            row["ranker"],
            f"{mean:.3f}\n[dim]{low:.2f}..{high:.2f}[/]",
            f"{row['hit@10'][0]:.2f}",
            f"{row['mrr@10'][0]:.3f}",
            _number(row["value"], "+.2f"),
            _number(row["price"], ".0f"),
            f"{row['coverage']:.1%}",
        )
    table.caption = (
        "95% intervals over people (tasters, where those stand in); value: deviations above the "
        "quality usual for the price, mean of ten"
    )
    return table


def adapter_pick_table(found: Sequence[AdapterPick], quality: str, unit: str) -> Table:
    """Adapters for a text."""
    table = _table("adapter", "nearness", f"{quality}, points", "cost", "shared words")
    for one in found:
        pick = one.pick
        table.add_row(
            one.model,
            f"{one.nearness:.2f}",
            f"{pick.quality:.1f}",
            _number(pick.price, "g"),
            escape(", ".join(pick.why.shared)),
        )
    table.caption = f"cost in {unit}"
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    for at, column in enumerate(columns):
        numeric = at > 0 and column not in ("telling words", "title", "palate", "item", "words")
        table.add_column(column, justify="right" if numeric else "left")
    return table
