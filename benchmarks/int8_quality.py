"""What int8 base layers on a CPU cost in quality and save in time, on real tasks with adapters.

    LORALAND_DATA=FOLDER python -m benchmarks.int8_quality --adapters STORAGE \
        --tasks viggo wikisql bc5cdr [--parts products agreement scores] [--cpu-time] [--out FILE]

`products`: milliseconds of each matrix product, and of all linear layers of the base in one pass.
`agreement`: base and adapter read the gold texts of held-out items; how often the likeliest next
token is that of fp32, and the Kullback-Leibler divergence from fp32 in nats per answer token, for
each way of rounding. `scores`: the tasks' own scores in fp32 and int8 on the same items, with the
paired difference. Prints one JSON line. One thread unless `--threads` says otherwise; `--cpu-time`
counts the thread's own time, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loraland.adapters.card import Card
from loraland.adapters.registry import Registry
from loraland.bases.calibration import input_peaks
from loraland.bases.expansion import expand_for_inference
from loraland.bases.int8 import Int8Linear, Scheme, quantise_for_inference
from loraland.bases.int8_products import PRODUCTS, ProductName, best_product, weight_levels
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.bases.products import InferenceLinear
from loraland.engine.batched import BatchedEngine
from loraland.engine.canary import COARSE
from loraland.engine.settings import EngineLimits
from loraland.engine.text import stop_token_ids
from loraland.errors import InvalidConfiguration
from loraland.evaluation.answering import answer
from loraland.evaluation.samples import Sample
from loraland.evaluation.statistics import mean_interval, paired_interval
from loraland.lora.bank import LoraBank
from loraland.lora.rows import Rows
from loraland.lora.weights import linears_of, read_adapter
from loraland.matrix.provenance import git_state, hardware, package_versions
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split
from loraland.training.examples import Example, encode

BASE = "smollm2-135m"
SHAPES = {  # (in, out) of the layers in one block; the head is 576 -> 49,152
    "q_proj": (576, 576), "k_proj": (576, 192), "v_proj": (576, 192), "o_proj": (576, 576),
    "gate_proj": (576, 1536), "up_proj": (576, 1536), "down_proj": (1536, 576),
}  # fmt: skip
HEAD = (576, 49_152)
BLOCKS, HEAD_ROWS = 30, 32
ROWS = (1, 8, 32, 128, 512)
PROMPT_TAIL = 24  # tokens of the prompt that agreement looks at beside the answer

Clock = Callable[[], float]
Replace = Callable[[LoadedBase], object]


# Products


class PerTensor(nn.Module):
    """The naive way: one scale for all of the inputs, found at each call; one per weight row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scales = linear.weight.detach().abs().amax(1).clamp(min=1e-30) / weight_levels("fbgemm")
            zeros = torch.zeros(len(scales), dtype=torch.long)
            whole = torch.quantize_per_channel(
                linear.weight.detach(), scales.double(), zeros, 0, torch.qint8
            )
        before, torch.backends.quantized.engine = torch.backends.quantized.engine, "fbgemm"
        self._packed = torch.ops.quantized.linear_prepack(whole, None)
        torch.backends.quantized.engine = before

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        result: Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, False)
        return result


class Bf16(nn.Module):
    """Weights and inputs in bf16, which CPUs with AVX512-BF16 or AMX multiply directly."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("small", linear.weight.detach().bfloat16())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out), the result rounded to bf16."""
        return nn.functional.linear(inputs.bfloat16(), self.small).float()  # type: ignore[arg-type]


def makers() -> dict[str, Callable[[nn.Linear], nn.Module]]:
    """How each candidate is made of a linear layer; those that this machine has."""
    found: dict[str, Callable[[nn.Linear], nn.Module]] = {
        "fp32": lambda layer: layer,
        "fp32 oneDNN": InferenceLinear,
        "bf16": Bf16,
    }
    for name in PRODUCTS:
        if name == "plain" or not _works(name):
            continue
        bare = Scheme(smoothing=None, exact_channels=0)
        found[f"int8 {name}, scale per token"] = partial(_int8, scheme=bare, product=name)
        found[f"int8 {name}, smoothed, 8 exact"] = partial(_int8, scheme=Scheme(), product=name)
    if _works("fbgemm"):
        found["int8 fbgemm, scale per tensor"] = PerTensor
    return found


def _int8(layer: nn.Linear, scheme: Scheme, product: ProductName) -> nn.Module:
    peaks = torch.linspace(1, 2, layer.in_features)
    return Int8Linear(layer, peaks, scheme, product)


def _works(name: ProductName) -> bool:
    try:
        return weight_levels(name) > 0
    except InvalidConfiguration:
        return False


def _plain_linear(shape: tuple[int, int]) -> nn.Linear:
    return nn.Linear(*shape, bias=False).requires_grad_(False)


@torch.inference_mode()
def measure_products(repeats: int, clock: Clock) -> dict[str, Any]:
    """Milliseconds by shape, rows and candidate; and of a whole pass, where no cache holds all."""
    blocks = [{n: _plain_linear(s) for n, s in SHAPES.items()} for _ in range(BLOCKS)]
    head = _plain_linear(HEAD)
    single: dict[str, dict[str, float]] = {}
    whole: dict[str, dict[str, float]] = {}
    for name, make in makers().items():
        made = [[make(layer) for layer in block.values()] for block in blocks]
        made_head = make(head)
        for rows in ROWS:
            inputs = {width: torch.randn(rows, width) for width in (576, 1536)}

            def blocks_pass(
                made: list[list[nn.Module]] = made, inputs: dict[int, Tensor] = inputs
            ) -> None:
                for block in made:
                    for layer in block:
                        layer(inputs[layer.in_features])  # type: ignore[index]

            ends = inputs[576][:HEAD_ROWS]
            ms = _fastest(blocks_pass, repeats, clock)
            head_ms = _fastest(partial(made_head, ends), repeats, clock)
            whole.setdefault(f"{rows} rows", {})[name] = round(ms + head_ms, 2)
            cell = single.setdefault(f"576 -> 49152, {len(ends)} rows", {})
            cell[name] = round(min(head_ms, cell.get(name, head_ms)), 4)
            for layer, shape in ((0, "576 -> 576"), (1, "576 -> 192"), (4, "576 -> 1536")):
                cell = single.setdefault(f"{shape}, {rows} rows", {})
                cell[name] = _fastest(partial(made[7][layer], inputs[576]), 3 * repeats, clock)
            cell = single.setdefault(f"1536 -> 576, {rows} rows", {})
            cell[name] = _fastest(partial(made[7][6], inputs[1536]), 3 * repeats, clock)
        print(name, {rows: times[name] for rows, times in whole.items()}, file=sys.stderr)
    return {"all_layers_ms": whole, "one_layer_ms": single}


def _fastest(call: Callable[[], object], repeats: int, clock: Clock) -> float:
    call()
    times = []
    for _ in range(repeats):
        begun = clock()
        call()
        times.append((clock() - begun) * 1000)
    return round(min(times), 4)


# Agreement


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


def attempts() -> dict[str, Replace]:
    """The ways of computing that are compared, by name."""
    whole = quantise_for_inference
    return {
        "bf16": partial(_replace_all, make=Bf16),
        "scale per tensor": partial(_replace_all, make=PerTensor),
        "scale per token": partial(whole, scheme=Scheme(None, 0)),
        "8 exact": partial(whole, scheme=Scheme(None, 8)),
        "smoothed 0.3": partial(whole, scheme=Scheme(0.3, 0)),
        "smoothed 0.5": partial(whole, scheme=Scheme(0.5, 0)),
        "smoothed 0.7": partial(whole, scheme=Scheme(0.7, 0)),
        "smoothed 0.5, 8 exact (default)": whole,
        "smoothed 0.5, 16 exact": partial(whole, scheme=Scheme(0.5, 16)),
        "default, head in fp32": partial(whole, keep={"lm_head"}),
        "default, down_proj in fp32": partial(
            whole, keep={f"model.layers.{n}.mlp.down_proj" for n in range(BLOCKS)}
        ),
        "default, weights in 7 bits": partial(whole, scheme=Scheme(weight_levels=63)),
    }


def _replace_all(base: LoadedBase, make: Callable[[nn.Linear], nn.Module]) -> None:
    for path, module in list(base.model.named_modules()):
        if type(module) is nn.Linear:
            base.model.set_submodule(path, make(module))


@contextmanager
def replaced(base: LoadedBase, replace: Replace) -> Iterator[None]:
    """The base with other linear layers until the block ends."""
    own = {path: m for path, m in base.model.named_modules() if type(m) is nn.Linear}
    try:
        replace(base)
        yield
    finally:
        for path, module in own.items():
            base.model.set_submodule(path, module)


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


# Scores


async def ask(
    base: LoadedBase, subjects: Sequence[Subject], items: int
) -> dict[str, tuple[list[Sample], float]]:
    """The graded answers of each adapter to held-out items, and the seconds they took."""
    engine = BatchedEngine.of(base, EngineLimits(rows=32, pass_tokens=512), tolerance=COARSE)
    stops = stop_token_ids(base.tokenizer, base.model)
    found = {}
    try:
        for subject in subjects:
            task = get_task(subject.name)
            split = load_split(task, "test", limit=items)
            asked = [task.for_split("test").item(row) for row in split.rows]
            await engine.load(subject.name, subject.folder)
            begun = time.perf_counter()
            samples = await answer(engine, base.tokenizer, stops, task, asked, subject.name)
            found[subject.name] = (samples, time.perf_counter() - begun)
            print(subject.name, "asked", file=sys.stderr, flush=True)
        return found
    finally:
        await engine.close()


def measure_scores(base: LoadedBase, subjects: Sequence[Subject], items: int) -> dict[str, Any]:
    """The scores in fp32 and in int8 on the same items, the paired difference with its interval."""
    exact = asyncio.run(ask(base, subjects, items))
    with replaced(base, quantise_for_inference):
        rounded = asyncio.run(ask(base, subjects, items))
    found: dict[str, Any] = {}
    for name in exact:
        (theirs, their_s), (ours, our_s) = exact[name], rounded[name]
        our_scores, their_scores = ([s.score for s in samples] for samples in (ours, theirs))
        found[name] = {
            "items": len(ours),
            "metric": get_task(name).metric,
            "fp32": mean_interval(their_scores)._asdict(),
            "int8": mean_interval(our_scores)._asdict(),
            "int8_minus_fp32": paired_interval(our_scores, their_scores)._asdict(),
            "same_output": sum(a.output == b.output for a, b in zip(ours, theirs, strict=True)),
            "fp32_s": round(their_s, 1),
            "int8_s": round(our_s, 1),
        }
    return found


# The run


def subjects_of(
    base: LoadedBase, storage: Storage, tasks: Sequence[str], texts: int, into: Path
) -> list[Subject]:
    """The newest adapter of each task, and gold texts of its test split."""
    registry, found = Registry(storage), []
    for name in tasks:
        resolved = registry.resolve(f"{BASE}/{name}")
        card = registry.card(resolved)
        if card.base_fingerprint != base.fingerprint:
            raise InvalidConfiguration(f"{resolved} was trained on another base than {BASE}")
        if card.precision != base.precision:
            raise InvalidConfiguration(
                f"{resolved} was trained in {card.precision}, this run has {base.precision}"
            )
        split = load_split(get_task(name), "test", limit=2 * texts)
        encoded = [encode(item, base.tokenizer) for item in split.items()]
        examples = [e for e in encoded if isinstance(e, Example) and e.prompt_tokens > 1]
        folder = registry.fetch(resolved, into / name)
        found.append(Subject(name, folder, card, examples[:texts]))
    return found


def measure(given: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """The parts that were asked for."""
    found: dict[str, Any] = {"product": best_product(), "levels": weight_levels(best_product())}
    if "products" in given.parts:
        found["products"] = measure_products(given.repeats, clock)
    if not {"agreement", "scores"} & set(given.parts):
        return found
    base = load_base(find_base(BASE), given.precision, "cpu")
    expand_for_inference(base)
    with tempfile.TemporaryDirectory() as place:
        storage = Storage.open(given.adapters)
        subjects = subjects_of(base, storage, given.tasks, given.texts, Path(place))
        found["adapters"] = {s.name: s.folder.name for s in subjects}
        if "agreement" in given.parts:
            found["peak_over_median"] = measure_peaks(base)
            found["canary_difference"] = measure_canaries(base, subjects)
            found["agreement"] = measure_agreement(base, subjects, given.attempts)
        if "scores" in given.parts:
            found["scores"] = measure_scores(base, subjects, given.items)
    return found


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    every = ["products", "agreement", "scores"]
    parser.add_argument("--parts", nargs="+", choices=every, default=every)
    parser.add_argument("--adapters", help="storage with adapters of the base, at one precision")
    parser.add_argument("--tasks", nargs="+", default=["viggo", "wikisql", "bc5cdr"])
    parser.add_argument("--precision", default="nf4", help="that the adapters were trained at")
    parser.add_argument("--texts", type=int, default=40, help="gold texts per task")
    parser.add_argument("--items", type=int, default=100, help="scored items per task")
    parser.add_argument("--attempts", nargs="*", default=[], help="of agreement; default all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    given = parser.parse_args()
    if given.adapters is None and given.parts != ["products"]:
        parser.error("--adapters is needed for agreement and scores")
    if given.cpu_time and given.threads != 1:
        parser.error("--cpu-time counts one thread; leave --threads at 1")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    clock = time.thread_time if given.cpu_time else time.perf_counter
    line = json.dumps(
        {
            "benchmark": "int8_quality",
            "date": datetime.now(UTC).date().isoformat(),
            "commit": git_state(),
            "hardware": hardware(),
            "threads": given.threads,
            "clock": clock.__name__,
            "versions": package_versions(),
            **measure(given, clock),
        }
    )
    if given.out is not None:
        given.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
