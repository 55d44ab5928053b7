"""Slots over a model: what is written is used, by its own rows only, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from loraland.bases.tiny import load_tiny
from loraland.errors import AdapterRejected
from loraland.lora.bank import LoraBank
from loraland.lora.layer import MultiLoraLinear
from loraland.lora.rows import Rows
from loraland.lora.weights import AdapterWeights, LoraPair

PairOf = Callable[[int, int, int, int], LoraPair]


class Two(nn.Module):
    """Two linear layers, the second fed by the first."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).tanh())  # type: ignore[no-any-return]


@pytest.fixture
def model() -> Two:
    torch.manual_seed(0)
    return Two().eval()


@pytest.fixture
def weights_of(pair_of: PairOf) -> Callable[..., AdapterWeights]:
    def make(seed: int, rank: int = 2, layers: tuple[str, ...] = ("up", "down")) -> AdapterWeights:
        shapes = {"up": (8, 12), "down": (12, 8)}
        return AdapterWeights.of({name: pair_of(rank, *shapes[name], seed) for name in layers})

    return make


WeightsOf = Callable[..., AdapterWeights]


def merged(model: Two, weights: AdapterWeights | None, x: Tensor) -> Tensor:
    """The answer of a copy of the model whose weights have the adapter merged in."""
    layers = []
    for name in ("up", "down"):
        layer = model.get_submodule(name)
        base = layer.base if isinstance(layer, MultiLoraLinear) else layer
        weight = base.weight
        if weights and name in weights.modules:
            pair = weights.modules[name]
            weight = weight + pair.scale * pair.b @ pair.a
        layers.append((weight, base.bias))
    (up, up_bias), (down, down_bias) = layers
    return (x @ up.t() + up_bias).tanh() @ down.t() + down_bias


@torch.no_grad()
def answers_are_right(
    model: Two, bank: LoraBank, held: dict[int, AdapterWeights], slots: list[int]
) -> None:
    x = torch.randn(1, len(slots), 8)
    bank.bind(Rows.of(slots, "cpu"))
    y = model(x)[0]
    for token, slot in enumerate(slots):
        expected = merged(model, held.get(slot), x[0, token])
        torch.testing.assert_close(y[token], expected, atol=1e-4, rtol=1e-4)


def test_each_row_gets_its_own_adapter(model: Two, weights_of: WeightsOf) -> None:
    bank = LoraBank(model, slots=4, max_rank=32)
    held = {1: weights_of(1), 2: weights_of(2, rank=20), 4: weights_of(3, layers=("down",))}
    for slot, weights in held.items():
        bank.write(slot, weights)
    answers_are_right(model, bank, held, [1, 2, 0, 4, 4, 1, 0, 2])
    answers_are_right(model, bank, held, [4])
    answers_are_right(model, bank, held, [2] * 40 + [1, 4, 0, 1] + [4] * 33)


def test_decode_rows_between_long_segments_are_right(model: Two, weights_of: WeightsOf) -> None:
    bank = LoraBank(model, slots=3, max_rank=8)
    held = {slot: weights_of(slot) for slot in (1, 2, 3)}
    for slot, weights in held.items():
        bank.write(slot, weights)
    answers_are_right(model, bank, held, [1, 2, *[3] * 40, 1, 0, *[1] * 32, 2, 3, 2])
    assert bank.stats["loop"] > 0 and bank.stats["sampled"] > 0


def test_a_layer_is_replaced_when_an_adapter_first_targets_it(
    model: Two, weights_of: WeightsOf
) -> None:
    bank = LoraBank(model, slots=2, max_rank=8)
    own = model.down
    assert bank.size_bytes == 0
    bank.write(1, weights_of(1, layers=("up",)))
    assert isinstance(model.up, MultiLoraLinear) and model.down is own
    assert (model.up.in_features, model.up.out_features) == (8, 12)


def test_stacks_widen_with_the_ranks_and_keep_what_they_hold(
    model: Two, weights_of: WeightsOf
) -> None:
    bank = LoraBank(model, slots=2, max_rank=32)
    held = {1: weights_of(1, rank=3)}
    bank.write(1, held[1])
    narrow, epoch = bank.size_bytes, bank.epoch
    held[2] = weights_of(2, rank=30)
    bank.write(2, held[2])
    assert bank.size_bytes == 4 * narrow  # from 8 to 32
    assert bank.epoch > epoch
    answers_are_right(model, bank, held, [1, 2, 0, 1])
    assert bank.slot_bytes(1) == 4 * 3 * 2 * (8 + 12) and bank.slot_bytes(
        2
    ) == 10 * bank.slot_bytes(1)


def test_a_slot_is_replaced_whole(model: Two, weights_of: WeightsOf) -> None:
    bank = LoraBank(model, slots=2, max_rank=8)
    bank.write(1, weights_of(1, rank=8))
    held = {1: weights_of(2, rank=2, layers=("down",))}
    bank.write(1, held[1])
    answers_are_right(model, bank, held, [1, 0, 1, 1])


def test_rows_prepared_before_a_write_use_what_was_written(
    model: Two, weights_of: WeightsOf
) -> None:
    bank = LoraBank(model, slots=2, max_rank=8)
    held = {1: weights_of(1), 2: weights_of(2)}
    for slot, weights in held.items():
        bank.write(slot, weights)
    slots = [1, 2, 1, 2, 0]
    answers_are_right(model, bank, held, slots)
    held[1] = weights_of(5, rank=7)
    bank.write(1, held[1])
    answers_are_right(model, bank, held, slots)  # equal rows again: what was prepared is reused


def test_a_cleared_slot_holds_nothing_and_cannot_be_bound(
    model: Two, weights_of: WeightsOf
) -> None:
    bank = LoraBank(model, slots=2, max_rank=8)
    bank.write(1, weights_of(1))
    bank.clear(1)
    assert bank.slot_bytes(1) == 0
    with pytest.raises(ValueError, match=r"rows use slots \[1\], which hold no adapter"):
        bank.bind(Rows.of([0, 1], "cpu"))
    answers_are_right(model, bank, {}, [0, 0])


def test_a_misfit_leaves_the_bank_as_it_was(model: Two, weights_of: WeightsOf) -> None:
    bank = LoraBank(model, slots=2, max_rank=8)
    held = {1: weights_of(1)}
    bank.write(1, held[1])
    down = weights_of(2).modules["down"]
    with pytest.raises(AdapterRejected, match=r"up is 12 -> 8, the model's is 8 -> 12"):
        bank.write(1, AdapterWeights.of({"down": down, "up": down}))
    with pytest.raises(AdapterRejected, match="sideways is 12 -> 8, the model's is absent"):
        bank.write(1, AdapterWeights.of({"sideways": down}))
    with pytest.raises(AdapterRejected, match="rank 9, this bank accepts at most 8"):
        bank.write(1, weights_of(3, rank=9))
    answers_are_right(model, bank, held, [1, 0, 1, 1])


@pytest.mark.parametrize("trainable", [False, True])
def test_a_write_that_fails_half_way_leaves_the_bank_as_it_was(
    model: Two, weights_of: WeightsOf, trainable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = LoraBank(model, slots=2, max_rank=16, trainable=trainable)
    held = {1: weights_of(1, layers=("up",))}
    bank.write(1, held[1])
    before = bank.size_bytes, bank.epoch

    class Meagre(Tensor):
        """A matrix for which there is no memory."""

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function in (Tensor.to, Tensor.mul, Tensor.float):
                raise MemoryError("no memory for this one")
            return super().__torch_function__(function, types, args, kwargs)

    good = weights_of(2, rank=16)
    pair = good.modules["down"]
    bad = LoraPair(pair.a, pair.b.as_subclass(Meagre), pair.scale)
    with pytest.raises(MemoryError):
        bank.write(1, AdapterWeights.of({"up": good.modules["up"], "down": bad}))
    assert (bank.size_bytes, bank.epoch) == before
    answers_are_right(model, bank, held, [1, 0, 1, 1])


def test_slots_outside_the_bank_are_refused(model: Two, weights_of: WeightsOf) -> None:
    bank = LoraBank(model, slots=2, max_rank=8)
    for slot in (0, 3):
        with pytest.raises(ValueError, match="adapters go into 1 to 2"):
            bank.write(slot, weights_of(1))
        with pytest.raises(ValueError, match="adapters go into 1 to 2"):
            bank.clear(slot)


def test_detaching_gives_the_model_its_own_layers_back(model: Two, weights_of: WeightsOf) -> None:
    up, x = model.up, torch.randn(3, 8)
    before = model(x)
    names = list(model.state_dict())
    bank = LoraBank(model, slots=2, max_rank=8)
    bank.write(1, weights_of(1))
    bank.bind(Rows.of([1, 0, 1], "cpu"))
    with torch.inference_mode():
        assert not torch.equal(model(x), before)
    bank.detach()
    assert model.up is up and list(model.state_dict()) == names
    assert torch.equal(model(x), before)
    bank.write(2, weights_of(2))  # and it can be used again
    answers_are_right(model, bank, {2: weights_of(2)}, [2, 0])


def test_a_lifted_bank_leaves_a_plain_model_and_comes_back_whole(
    model: Two, weights_of: WeightsOf
) -> None:
    up, names = model.up, list(model.state_dict())
    bank = LoraBank(model, slots=2, max_rank=8)
    held = {1: weights_of(1), 2: weights_of(2, layers=("down",))}
    for slot, weights in held.items():
        bank.write(slot, weights)
    with bank.lifted():
        assert model.up is up and list(model.state_dict()) == names
    answers_are_right(model, bank, held, [1, 2, 0, 1])
    with pytest.raises(KeyError, match="mine"), bank.lifted():
        raise KeyError("mine")
    answers_are_right(model, bank, held, [2, 1])


def test_a_model_has_one_bank(model: Two, weights_of: WeightsOf) -> None:
    bank = LoraBank(model, slots=1, max_rank=8)
    bank.write(1, weights_of(1))
    with pytest.raises(ValueError, match="has a bank already"):
        LoraBank(model, slots=1, max_rank=8)


def test_base_rows_are_the_base_s_answer_bit_for_bit(model: Two, weights_of: WeightsOf) -> None:
    x = torch.randn(5, 8)
    before = model(x)
    bank = LoraBank(model, slots=3, max_rank=8)
    for slot in (1, 2, 3):
        bank.write(slot, weights_of(slot))
    with torch.inference_mode():
        bank.bind(None)
        assert torch.equal(model(x), before)
        bank.bind(Rows.of([0] * 5, "cpu"))
        assert torch.equal(model(x), before)
        assert bank.stats == {}
        bank.bind(Rows.of([0, 1, 2, 0, 3], "cpu"))
        mixed = model(x)
    assert torch.equal(mixed[[0, 3]], before[[0, 3]])


def test_more_tokens_than_rows_are_an_error(model: Two, weights_of: WeightsOf) -> None:
    bank = LoraBank(model, slots=1, max_rank=8)
    bank.write(1, weights_of(1))
    bank.bind(Rows.of([1, 1], "cpu"))
    with pytest.raises(ValueError, match="2 rows are bound, but a layer was given 3 tokens"):
        model(torch.randn(3, 8))


def test_rows_on_the_device_choose_adapters_at_every_pass(
    model: Two, weights_of: WeightsOf
) -> None:
    bank = LoraBank(model, slots=2, max_rank=8)
    held = {1: weights_of(1), 2: weights_of(2, layers=("down",))}
    for slot, weights in held.items():
        bank.write(slot, weights)
    slots, x = torch.zeros(4, dtype=torch.long), torch.randn(4, 8)
    bank.bind(Rows.on_device(slots))
    with torch.inference_mode():
        for now in ([0, 0, 0, 0], [1, 0, 2, 1], [2, 2, 2, 1]):
            slots.copy_(torch.tensor(now))
            y = model(x)
            for token, slot in enumerate(now):
                expected = merged(model, held.get(slot), x[token])
                torch.testing.assert_close(y[token], expected, atol=1e-4, rtol=1e-4)


def test_a_serving_bank_passes_gradients_on_to_its_input(model: Two, weights_of: WeightsOf) -> None:
    bank = LoraBank(model, slots=3, max_rank=8)
    held = {slot: weights_of(slot) for slot in (1, 2, 3)}
    for slot, weights in held.items():
        bank.write(slot, weights)
    slots = [1, 2, 3, 1, 0]
    x = torch.randn(5, 8, requires_grad=True)
    bank.bind(Rows.of(slots, "cpu"))
    model(x).sum().backward()
    alone = x.detach().clone().requires_grad_()
    torch.stack(
        [merged(model, held.get(s), alone[t]) for t, s in enumerate(slots)]
    ).sum().backward()
    torch.testing.assert_close(x.grad, alone.grad, atol=1e-4, rtol=1e-4)


def test_half_precision_bases_get_the_product_in_fp32(model: Two, weights_of: WeightsOf) -> None:
    held = {1: weights_of(1), 2: weights_of(2), 3: weights_of(3)}
    model = model.to(torch.bfloat16)
    bank = LoraBank(model, slots=3, max_rank=8)
    for slot, weights in held.items():
        bank.write(slot, weights)
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    bank.bind(Rows.of([1, 2, 3, 0], "cpu"))
    with torch.inference_mode():
        y = model.up(x)
    assert y.dtype == torch.bfloat16
    for token, slot in enumerate([1, 2, 3]):
        a, b, scale = held[slot].modules["up"]
        base = model.up.base(x[token]).float()  # type: ignore[operator]
        expected = (base + scale * (b @ (a @ x[token].float()))).to(torch.bfloat16)
        torch.testing.assert_close(y[token], expected, atol=0.02, rtol=0.02)


def test_the_head_may_see_a_part_of_the_tokens(
    tiny_folders: dict[str, Path], pair_of: PairOf
) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    bank = LoraBank(base.model, slots=2, max_rank=8)
    for slot in (1, 2):
        bank.write(slot, AdapterWeights.of({"lm_head": pair_of(4, 64, 259, slot)}))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        bank.bind(Rows.of([1, 1, 2, 2], "cpu"))
        whole = base.model(input_ids=ids).logits[0]
        bank.bind(Rows.of([1, 1, 2, 2], "cpu"), head=Rows.of([1, 2], "cpu"))
        part = base.model(input_ids=ids, logits_to_keep=torch.tensor([1, 3])).logits[0]
    torch.testing.assert_close(part, whole[[1, 3]], atol=1e-4, rtol=1e-4)
