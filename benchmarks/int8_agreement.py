"""How far int8 bases agree with fp32 on gold texts, each read with the adapter of its task."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.int8_candidates import attempts, replaced
from loraland.adapters.card import Card
from loraland.bases.calibration import input_peaks
from loraland.bases.int8 import quantise_for_inference
from loraland.bases.loading import LoadedBase
from loraland.engine.canary import COARSE
from loraland.lora.bank import LoraBank
from loraland.lora.rows import Rows
from loraland.lora.weights import linears_of, read_adapter
from loraland.training.examples import Example

PROMPT_TAIL = 24  # tokens of the prompt that agreement looks at beside the answer


class Subject(NamedTuple):
    """One adapter, and the gold texts of its task."""

    name: str
    folder: Path
    card: Card
    examples: list[Example]


class Reading(NamedTuple):
    """What a model expects at the last tokens of one text."""

    likeliest: Tensor  # (tail + answer,)
    answers: Tensor  # (answer, vocabulary) log-probabilities in fp16
    gold: Tensor  # (answer,) log-probabilities of the gold tokens


@contextmanager
def adapted(base: LoadedBase, subjects: Sequence[Subject]) -> Iterator[LoraBank]:
    """The base with the subjects' adapters in slots 1, 2, ... until the block ends."""
    bank = LoraBank(base.model, slots=len(subjects), max_rank=64)
    try:
        for slot, subject in enumerate(subjects, 1):
            bank.write(slot, read_adapter(subject.folder, linears_of(base.model)))
        yield bank
    finally:
        bank.detach()


@torch.inference_mode()
def read(base: LoadedBase, bank: LoraBank, slot: int, example: Example) -> Reading:
    """What base and adapter expect at the end of the prompt and in the answer."""
    count = len(example.supervised)
    kept = count + min(PROMPT_TAIL, example.prompt_tokens - 1)
    ids = torch.tensor([example.ids[:-1]])
    logits = _logits(base, bank, slot, ids, kept)
    answers = logits[-count:].log_softmax(-1)
    gold = answers.gather(1, torch.tensor(example.supervised)[:, None])[:, 0]
    return Reading(logits.argmax(-1), answers.half(), gold)


def _logits(base: LoadedBase, bank: LoraBank, slot: int, ids: Tensor, kept: int) -> Tensor:
    """The last `kept` logits of one text, (kept, vocabulary)."""
    bank.bind(Rows.of([slot] * ids.shape[1], "cpu"), Rows.of([slot] * kept, "cpu"))
    output = base.model(input_ids=ids, use_cache=False, logits_to_keep=kept)
    bank.bind(None)
    logits: Tensor = output.logits[0].float()
    return logits


def read_all(base: LoadedBase, subjects: Sequence[Subject]) -> dict[str, list[Reading]]:
    """All gold texts, each with its own adapter."""
    with adapted(base, subjects) as bank:
        return {
            subject.name: [read(base, bank, slot, example) for example in subject.examples]
            for slot, subject in enumerate(subjects, 1)
        }


def compare(ours: Sequence[Reading], exact: Sequence[Reading]) -> dict[str, float]:
    """Agreement and divergence over all texts of one task."""
    pairs = list(zip(ours, exact, strict=True))
    same = [one.likeliest == other.likeliest for one, other in pairs]
    answer_sizes = [len(other.gold) for _, other in pairs]
    in_answer = torch.cat([s[-n:] for s, n in zip(same, answer_sizes, strict=True)])
    in_prompt = torch.cat([s[:-n] for s, n in zip(same, answer_sizes, strict=True)])
    divergence = torch.cat([_divergence(one.answers, other.answers) for one, other in pairs])
    gold = torch.cat([one.gold - other.gold for one, other in pairs])
    return {
        "top1_answer": round(float(in_answer.float().mean()), 4),
        "top1_prompt": round(float(in_prompt.float().mean()), 4),
        "divergence": round(float(divergence.mean()), 5),
        "gold_logprob_change": round(float(gold.mean()), 5),  # nats per answer token
        "answer_tokens": len(in_answer),
    }


def _divergence(ours: Tensor, exact: Tensor) -> Tensor:
    return (exact.float().exp() * (exact.float() - ours.float())).sum(-1)


def measure_agreement(
    base: LoadedBase, subjects: Sequence[Subject], wanted: Sequence[str]
) -> dict[str, Any]:
    """Each attempt beside fp32, task by task."""
    exact = read_all(base, subjects)
    found: dict[str, Any] = {}
    for name, replace in attempts().items():
        if wanted and name not in wanted:
            continue
        with replaced(base, replace):
            ours = read_all(base, subjects)
        found[name] = {task: compare(ours[task], exact[task]) for task in ours}
        print(name, found[name], file=sys.stderr, flush=True)
    return found


@torch.inference_mode()
def measure_canaries(base: LoadedBase, subjects: Sequence[Subject]) -> dict[str, Any]:
    """How far the canary logits are from the card's, and how large the adapter's effect is."""

    def worst() -> dict[str, float]:
        with adapted(base, subjects) as bank:
            return {s.name: _canary(base, bank, slot, s) for slot, s in enumerate(subjects, 1)}

    exact = worst()
    with replaced(base, quantise_for_inference):
        rounded = worst()
    return {
        s.name: {
            "fp32": round(exact[s.name], 4),
            "int8": round(rounded[s.name], 4),
            "allowed_coarse": round(COARSE.allowed(s.card.canary), 4),
        }
        for s in subjects
        if s.card.canary is not None
    }


def _canary(base: LoadedBase, bank: LoraBank, slot: int, subject: Subject) -> float:
    canary = subject.card.canary
    if canary is None:
        return 0.0
    logits = _logits(base, bank, slot, torch.tensor([canary.prompt_ids]), 1)[0]
    return float((logits[canary.top_ids] - torch.tensor(canary.logits)).abs().max())


def measure_peaks(base: LoadedBase) -> dict[str, Any]:
    """How uneven the inputs are: largest channel peak over the median one, by kind of layer."""
    layers = {p: m for p, m in base.model.named_modules() if type(m) is nn.Linear}
    peaks = input_peaks(base.model, base.tokenizer, layers)
    ratios: dict[str, list[float]] = {}
    for path, peak in peaks.items():
        kind = path.rpartition(".")[2]
        ratios.setdefault(kind, []).append(float(peak.max() / peak.median()))
    return {
        kind: {"median": round(statistics.median(found), 1), "worst": round(max(found), 1)}
        for kind, found in ratios.items()
    }
