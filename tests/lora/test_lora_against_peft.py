"""The multi-LoRA layer computes, and learns, what PEFT does with each adapter alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor

from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.lora.bank import LoraBank
from loraland.lora.choice import MANY_SEGMENTS
from loraland.lora.dropout import Span
from loraland.lora.rows import Rows
from loraland.lora.weights import linears_of, read_adapter

MakeAdapter = Callable[..., Path]
ARCHITECTURES = ("llama", "mistral", "phi", "gemma")
RICH = {"phi": ["q_proj", "v_proj", "dense", "fc1", "fc2", "lm_head"]}
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def adapters_of(adapter_folder: MakeAdapter) -> Callable[[str], list[Path]]:
    """Four adapters of different ranks, targets and scalings, in slots 1 to 4."""
    made: dict[str, list[Path]] = {}

    def make(architecture: str) -> list[Path]:
        if architecture not in made:
            rich = RICH.get(architecture, ALL_LINEAR)
            made[architecture] = [
                adapter_folder(architecture, 1),
                adapter_folder(architecture, 2, r=2, target_modules=rich),
                adapter_folder(architecture, 3, r=16, lora_alpha=4, use_rslora=True),
                adapter_folder(
                    architecture, 4, target_modules=rich, rank_pattern={"v_proj": 9, "q_proj": 1}
                ),
            ]
        return made[architecture]

    return make


def base_of(folders: dict[str, Path], architecture: str, precision: str = "fp32") -> LoadedBase:
    return load_tiny(architecture, folders[architecture], precision)  # type: ignore[arg-type]


def bank_of(base: LoadedBase, folders: list[Path], **options: Any) -> LoraBank:
    bank = LoraBank(base.model, slots=len(folders), max_rank=16, **options)
    linears = linears_of(base.model)
    for slot, folder in enumerate(folders, start=1):
        bank.write(slot, read_adapter(folder, linears))
    return bank


@torch.inference_mode()
def logits_by_peft(base: LoadedBase, folder: Path | None, ids: Tensor) -> Tensor:
    if folder is None:
        return base.model(input_ids=ids).logits  # type: ignore[no-any-return]
    model: Any = PeftModel.from_pretrained(base.model, folder)
    logits = model(input_ids=ids).logits
    model.unload()
    return logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("architecture", "precision"),
    [*((name, "fp32") for name in ARCHITECTURES), ("llama", "nf4"), ("llama", "bf16")],
)
def test_a_mixed_batch_equals_peft_with_each_adapter_alone(
    tiny_folders: dict[str, Path],
    adapters_of: Callable[[str], list[Path]],
    architecture: str,
    precision: str,
) -> None:
    folders = adapters_of(architecture)
    ids = torch.randint(3, 259, (6, 10), generator=torch.Generator().manual_seed(0))
    slots = [0, 3, 1, 4, 2, 1]
    base = base_of(tiny_folders, architecture, precision)
    bank = bank_of(base, folders)
    bank.bind(Rows.of([slot for slot in slots for _ in range(10)], "cpu"))
    with torch.inference_mode():
        ours = base.model(input_ids=ids).logits
    # bf16 keeps 8 bits; PEFT rounds at other places on the way.
    tolerance = {"atol": 0.5, "rtol": 0.1} if precision == "bf16" else {"atol": 2e-4, "rtol": 1e-4}
    fresh = base_of(tiny_folders, architecture, precision)
    for row, slot in enumerate(slots):
        expected = logits_by_peft(fresh, folders[slot - 1] if slot else None, ids[row : row + 1])
        torch.testing.assert_close(ours[row : row + 1], expected, **tolerance)
    assert sum(bank.stats.values()) > 0


def loss_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Summed over the sequences, so that each adapter's loss is the sum of its own."""
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, ids[:, 1:].reshape(-1), reduction="sum")


@pytest.mark.parametrize(
    ("architecture", "precision", "interleaved"),
    [
        ("llama", "fp32", False),
        ("llama", "fp32", True),
        ("phi", "fp32", False),
        ("llama", "nf4", False),
    ],
)
def test_a_step_of_all_adapters_at_once_equals_a_step_of_each_alone(
    tiny_folders: dict[str, Path],
    adapters_of: Callable[[str], list[Path]],
    architecture: str,
    precision: str,
    interleaved: bool,
) -> None:
    folders = adapters_of(architecture)
    # Interleaved rows make many segments, for which another operation is chosen.
    slots = [1, 2, 3, 4] * (MANY_SEGMENTS // 4) if interleaved else [1, 2, 2, 3, 4]
    ids = torch.randint(3, 259, (len(slots), 6), generator=torch.Generator().manual_seed(1))
    base = base_of(tiny_folders, architecture, precision)
    bank = bank_of(base, folders, trainable=True)
    bank.bind(Rows.of([slot for slot in slots for _ in range(6)], "cpu"))
    loss_of(base.model(input_ids=ids).logits, ids).backward()
    assert ("grouped" in bank.stats) == interleaved
    fresh = base_of(tiny_folders, architecture, precision)
    for slot, folder in enumerate(folders, start=1):
        parameters = bank.parameters_of(slot)
        torch.optim.SGD(parameters, lr=1e-3).step()
        peft: Any = PeftModel.from_pretrained(fresh.model, folder, is_trainable=True)
        own = ids[[row for row, other in enumerate(slots) if other == slot]]
        loss_of(peft(input_ids=own).logits, own).backward()
        torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=1e-3).step()
        expected = get_peft_model_state_dict(peft, save_embedding_layers=False)
        peft.unload()
        found = bank.state_dict_of(slot)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=2e-4, rtol=2e-3, msg=name)


def test_training_leaves_the_base_alone_and_needs_a_trainable_bank(
    tiny_folders: dict[str, Path], adapters_of: Callable[[str], list[Path]]
) -> None:
    base = base_of(tiny_folders, "llama")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    bank = bank_of(base, adapters_of("llama"), trainable=True)
    ids = torch.randint(3, 259, (2, 6))
    bank.bind(Rows.of([1] * 6 + [2] * 6, "cpu"))
    loss_of(base.model(input_ids=ids).logits, ids).backward()
    torch.optim.SGD(bank.parameters_of(1), lr=1.0).step()
    bank.detach()
    after = base.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    serving = bank_of(base, adapters_of("llama"))
    with pytest.raises(ValueError, match="trainable=True"):
        serving.parameters_of(1)


def test_what_was_trained_can_be_written_into_a_serving_bank(
    tiny_folders: dict[str, Path], adapters_of: Callable[[str], list[Path]]
) -> None:
    """The same rows, the same numbers: training and serving are one function."""
    ids, slots = torch.randint(3, 259, (3, 5)), [1, 2, 0]
    rows = [slot for slot in slots for _ in range(5)]
    answers = []
    for trainable in (True, False):
        base = base_of(tiny_folders, "llama")
        bank = bank_of(base, adapters_of("llama"), trainable=trainable)
        bank.bind(Rows.of(rows, "cpu"))
        with torch.no_grad():
            answers.append(base.model(input_ids=ids).logits)
    torch.testing.assert_close(*answers, atol=1e-4, rtol=1e-4)


def test_dropout_acts_in_training_only_and_follows_its_stream(
    tiny_folders: dict[str, Path], adapters_of: Callable[[str], list[Path]]
) -> None:
    base = base_of(tiny_folders, "llama")
    bank = bank_of(base, adapters_of("llama"), trainable=True)
    ids = torch.randint(3, 259, (1, 8))

    def logits(stream: str, slot: int = 1) -> Tensor:
        bank.bind(Rows.of([slot] * 8, "cpu"), dropout=[Span(0, 8, slot, 0.5, stream)])
        with torch.no_grad():
            return base.model(input_ids=ids).logits  # type: ignore[no-any-return]

    plain = logits("a")
    assert torch.equal(plain, logits("b"))
    base.model.train()
    assert torch.equal(logits("a"), logits("a")) and not torch.equal(logits("a"), logits("b"))
    assert not torch.equal(logits("a"), plain)
    assert torch.equal(logits("a", slot=0), logits("b", slot=0))  # the base drops nothing
