"""An adapter that does not compute what its card says is refused."""

from __future__ import annotations

import asyncio
import json
import math

import pytest
from safetensors.torch import load_file, save_file

from loraland.adapters.card import Canary
from loraland.adapters.folder import CARD
from loraland.engine import shelf
from loraland.engine.batched import BatchedEngine
from loraland.engine.canary import EXACT, Tolerance, require_canary
from loraland.engine.protocol import Request, Sampling
from loraland.errors import AdapterRejected, UnknownModel
from loraland.training.effect import measure_canary

CANARY = Canary(
    prompt_ids=[1, 2], top_ids=[7, 8], logits=[5.0, 4.0], base_logits=[1.0, 3.0], max_difference=6.0
)


def test_what_is_allowed_is_a_share_of_the_effect_and_a_floor() -> None:
    assert Tolerance(share=0.1, floor=0.5).allowed(CANARY) == pytest.approx(0.9)
    require_canary("v", CANARY, [5.89, 4.0], Tolerance(share=0.1, floor=0.5))
    with pytest.raises(AdapterRejected, match=r"off by 0\.91, 0\.9 is allowed"):
        require_canary("v", CANARY, [5.0, 4.91], Tolerance(share=0.1, floor=0.5))


@pytest.mark.parametrize("logits", [CANARY.base_logits, [math.nan, 4.0], [9.0, 5.0]])
def test_the_base_s_logits_doubled_ones_and_nan_are_refused(logits: list[float]) -> None:
    with pytest.raises(AdapterRejected, match="does not compute what its card says"):
        require_canary("v", CANARY, logits, EXACT)


class Cards:
    """Stands in for reading cards, so that a folder needs no whole card."""

    def __init__(self, canary: Canary) -> None:
        self.canary = canary

    def __call__(self, folder: object) -> Cards:
        return self


@pytest.fixture
def carded(zoo, broken_copy, monkeypatch):
    folder = broken_copy(zoo.one)
    (folder / CARD).write_text("{}")
    canary = measure_canary(zoo.base(), zoo.one, (5, 9, 77, 130))
    monkeypatch.setattr(shelf, "read_card", Cards(canary))
    return folder


def edit_alpha(folder) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 16}))


def swap_layers(folder) -> None:
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    swapped = {
        name.replace("layers.0", "layers.x").replace("layers.1", "layers.0").replace("x", "1")
        if "layers.0" in name
        else name.replace("layers.1", "layers.0"): weight
        for name, weight in weights.items()
    }
    save_file(swapped, file)


async def load(engine, folder):
    await engine.load("v", folder)
    request = Request("r", (5, 9, 77), "v", Sampling(max_new_tokens=2))
    return [event async for event in engine.submit(request)]


def test_an_adapter_that_computes_what_its_card_says_is_served(zoo, carded) -> None:
    async def scenario():
        engine = BatchedEngine.of(zoo.base())
        try:
            assert len(await load(engine, carded)) == 3
            engine.check()
        finally:
            await engine.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", [edit_alpha, swap_layers])
def test_an_adapter_that_computes_something_else_is_refused_and_leaves_nothing(
    zoo, carded, damage
) -> None:
    damage(carded)

    async def scenario():
        engine = BatchedEngine.of(zoo.base())
        try:
            with pytest.raises(AdapterRejected, match="does not compute what its card says"):
                await engine.load("v", carded)
            assert engine.residency() == []
            with pytest.raises(UnknownModel):
                engine.submit(Request("r", (5,), "v"))
            engine.check()
        finally:
            await engine.close()

    asyncio.run(scenario())
