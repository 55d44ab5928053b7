"""An engine's counters and its adapters' places as Ray metrics, where Prometheus finds them.

Told tables of numbers by the replica, every few seconds. Knows no engine and no requests.
"""

from __future__ import annotations

from collections.abc import Iterable

from ray.util.metrics import Counter, Gauge, Histogram

from loraland.engine.protocol import Stats
from loraland.engine.tiers import Resident, Tier
from loraland.serving.orders import End
from loraland.serving.timing import Found

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
    "failed_passes": "Forward passes that raised; the requests in them ended.",
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
# Milliseconds: from a step on a GPU to a queue that a client gives up in.
_BUCKETS_MS = [2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 120_000]
_TIMES = {
    "ttft_ms": ("From an order at its replica to its first text; `found`: hit, miss or base.",
                ("base", "found")),
    "inter_token_ms": ("Mean time between two tokens of an answer.", ("base",)),
    "queue_ms": ("From the submission of an answer to its first pass.", ("base",)),
}  # fmt: skip
_TOKENS = {
    "prompt_tokens": "Tokens of prompts, by the model that was asked.",
    "generated_tokens": "Tokens of answers, by the model that gave them.",
}


def exported_names() -> set[str]:
    """Every metric of a replica as Prometheus knows it: behind `ray_`, histograms in their parts.

    By this tests hold dashboards to what there is.
    """
    names = {f"loraland_engine_{name}" for name in _NOW}
    names |= {f"loraland_engine_{name}_total" for name in _GROWING}
    names |= {f"loraland_adapter_{name}" for name in (*_ADAPTER, "tier")}
    names |= {f"loraland_model_{name}_total" for name in _TOKENS}
    parts = ("bucket", "sum", "count")
    names |= {f"loraland_answer_{name}_{part}" for name in _TIMES for part in parts}
    return {f"ray_{name}" for name in names}


class AnswerMetrics:
    """What clients wait for, as histograms, and tokens by model; a `timing.Meter`."""

    def __init__(self, base: str) -> None:
        """`base` is on every series."""
        self._times = {
            name: Histogram(f"loraland_answer_{name}", text, _BUCKETS_MS, tags)
            for name, (text, tags) in _TIMES.items()
        }
        self._tokens = {
            name: Counter(f"loraland_model_{name}_total", text, ("base", "model"))
            for name, text in _TOKENS.items()
        }
        for metric in (*self._times.values(), *self._tokens.values()):
            metric.set_default_tags({"base": base})

    def first_token(self, found: Found, ms: float) -> None:
        """See `Meter.first_token`."""
        self._times["ttft_ms"].observe(ms, {"found": found})

    def answer(self, model: str, end: End, between_ms: float | None) -> None:
        """See `Meter.answer`."""
        self._times["queue_ms"].observe(end["queue_ms"])
        if between_ms is not None:
            self._times["inter_token_ms"].observe(between_ms)
        for name, tokens in (("prompt_tokens", end["prompt_tokens"]),
                             ("generated_tokens", end["generated_tokens"])):  # fmt: skip
            if tokens:
                self._tokens[name].inc(tokens, {"model": model})


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
