"""An engine's counters and its adapters' places as Ray metrics, where Prometheus finds them.

Told tables of numbers by the replica, every few seconds. Knows no engine and no requests.
"""

from __future__ import annotations

from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge

from loraland.engine.protocol import Stats
from loraland.engine.tiers import Resident, Tier

# Of `Stats`: what is of the moment, and what only grows.
_NOW = {
    "waiting": "Requests that wait.",
    "running": "Requests in the batch.",
    "free_blocks": "Blocks of the KV cache that can be had.",
    "blocks": "Blocks of the KV cache.",
    "slots": "Adapters that fit on the device beside the base.",
    "working_set": "Adapters asked for in the last minute. Above the slots, misses are due.",
}
_GROWING = {
    "finished": "Requests that ended.",
    "prompt_tokens": "Tokens of prompts.",
    "reused_tokens": "Tokens of prompts that the prefix cache saved.",
    "generated_tokens": "Tokens of answers.",
    "passes": "Forward passes.",
    "pass_tokens": "Tokens computed in them; with passes, how full batches are.",
    "preemptions": "Rows that gave their blocks to older ones.",
    "hits": "First tokens of requests whose adapter was on the device.",
    "misses": "First tokens of requests whose adapter was not.",
    "hit_ttft_ms": "Milliseconds to these first tokens, summed over the hits.",
    "miss_ttft_ms": "Milliseconds to these first tokens, summed over the misses.",
}
_ADAPTER = {
    "leases": "Requests under way with this adapter.",
    "size_bytes": "Bytes of this adapter in its tier.",
    "load_ms": "Milliseconds of its last load into a slot.",
    "read_ms": "Milliseconds of its last load into host memory.",
    "hits": "Requests that found it on the device.",
    "misses": "Requests that did not.",
    "evictions": "Times that it left a slot for another.",
}


class EngineMetrics:
    """The metrics of one replica's engine; `loraland_engine_*` and `loraland_adapter_*`."""

    def __init__(self, base: str) -> None:
        """`base` is on every series."""
        tags = ("base",)
        self._now = {
            name: Gauge(f"loraland_engine_{name}", text, tags) for name, text in _NOW.items()
        }
        self._growing = {
            name: Counter(f"loraland_engine_{name}_total", text, tags)
            for name, text in _GROWING.items()
        }
        each = ("base", "adapter")
        self._adapter = {
            name: Gauge(f"loraland_adapter_{name}", text, each) for name, text in _ADAPTER.items()
        }
        text = "1 in the tier where the adapter is, 0 in the others."
        self._tier = Gauge("loraland_adapter_tier", text, (*each, "tier"))
        for metric in (*self._now.values(), *self._growing.values(), *self._adapter.values(),
                       self._tier):  # fmt: skip
            metric.set_default_tags({"base": base})
        self._told = dict.fromkeys(_GROWING, 0.0)
        self._known: set[str] = set()

    def tell(self, stats: Stats, residents: Iterable[Resident]) -> None:
        """Set everything to what holds now; adapters that are gone go to zero."""
        for name, gauge in self._now.items():
            gauge.set(getattr(stats, name))
        for name, counter in self._growing.items():
            value = float(getattr(stats, name))
            if value > self._told[name]:
                counter.inc(value - self._told[name])
                self._told[name] = value
        held = {resident.version: resident for resident in residents}
        for version in self._known | held.keys():
            self._tell_adapter(version, held.get(version))
        self._known = set(held)

    def _tell_adapter(self, version: str, resident: Resident | None) -> None:
        tags = {"adapter": version}
        for name, gauge in self._adapter.items():
            gauge.set(0 if resident is None else getattr(resident, name), tags)
        for tier in Tier:
            there = resident is not None and resident.tier is tier
            self._tier.set(int(there), {**tags, "tier": tier.value})
