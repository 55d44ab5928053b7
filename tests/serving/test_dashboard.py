"""The Grafana dashboard asks only for metrics that replicas export."""

from __future__ import annotations

import json
import re
from pathlib import Path

from loraland.serving.metrics import exported_names

PLACE = Path(__file__).resolve().parents[2] / "serve_apps" / "grafana" / "lora_land.json"
WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LANGUAGE = {
    "sum", "max", "by", "rate", "topk", "histogram_quantile", "le", "base", "found", "model",
    "tier", "adapter", "label_values", "m",
}  # fmt: skip


def names_in(query):
    """What a PromQL query names that is neither language, label nor the value of a matcher."""
    return set(WORDS.findall(re.sub(r"\"[^\"]*\"|\[\d+m\]", "", query))) - LANGUAGE


def queries():
    board = json.loads(PLACE.read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return panels + [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]


def test_every_query_names_metrics_that_exist():
    known = exported_names()
    for query in queries():
        assert names_in(query), query
        assert names_in(query) <= known, query


def test_the_board_shows_what_is_known():
    asked = set().union(*map(names_in, queries()))
    for part in ("ttft_ms_bucket", "inter_token_ms_bucket", "queue_ms_bucket"):
        assert f"ray_loraland_answer_{part}" in asked
    assert {"ray_loraland_engine_working_set", "ray_loraland_adapter_tier"} <= asked


def test_panels_do_not_lie_on_each_other_and_have_names_of_their_own():
    panels = json.loads(PLACE.read_text())["panels"]
    for field in ("id", "title"):
        assert len({panel[field] for panel in panels}) == len(panels)
    taken = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
