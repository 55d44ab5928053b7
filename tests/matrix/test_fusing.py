"""How many cells are trained at a time is decided once."""

from __future__ import annotations

from pathlib import Path

import pytest

from loraland.bases.tiny import load_tiny
from loraland.matrix import fusing
from loraland.matrix.fusing import choose, times_as_fast
from loraland.storage import Storage
from loraland.training.examples import Example
from loraland.training.fused_member import FusedMember
from loraland.training.gain import Gain
from loraland.training.recipe import get_recipe

RECIPE = get_recipe("quick", examples_seen=40, examples_per_update=4, max_epochs=None)
EXAMPLES = [Example(tuple(range(10)), 5)] * 20


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "storage"))


@pytest.fixture
def base(tiny_folders):
    return load_tiny("llama", tiny_folders["llama"])


@pytest.fixture
def probed(monkeypatch) -> list[int]:
    """The numbers of members that were probed; each probe finds another size the best."""
    counts: list[int] = []

    def measure(base, members):
        counts.append(len(members))
        best = 4 if len(counts) == 1 else 8
        return Gain(100.0, {4: 150.0, 8: 140.0} if best == 4 else {4: 140.0, 8: 150.0})

    monkeypatch.setattr(fusing, "measure_gain", measure)
    return counts


def members(count: int) -> list[FusedMember]:
    return [
        FusedMember(str(number), EXAMPLES, EXAMPLES[:1], RECIPE, 0, Path(str(number)))
        for number in range(count)
    ]


def test_a_group_that_is_started_again_takes_the_size_it_began_with(base, storage, probed):
    first = choose(base, members(20), load_s=2.0, storage=storage, space="study")
    again = choose(base, members(3), load_s=9.0, storage=storage, space="study")  # what is left
    assert first.slots == 4 and again == first and probed == [20]
    [path] = storage.walk("spaces/study/fuse")
    assert path.startswith(f"{base.entry.name}-")


def test_another_space_base_or_precision_decides_for_itself(
    base, storage, probed, tiny_folders, monkeypatch
):
    choose(base, members(20), load_s=2.0, storage=storage, space="study")
    choose(base, members(20), load_s=2.0, storage=storage, space="other")
    phi = load_tiny("phi", tiny_folders["phi"])
    choose(phi, members(20), load_s=2.0, storage=storage, space="study")
    monkeypatch.setattr(fusing.provenance, "hardware", lambda: "1 x another")
    choose(base, members(20), load_s=2.0, storage=storage, space="study")
    assert len(probed) == 4
    choose(base, members(20), load_s=2.0, storage=storage, space=None)
    assert len(probed) == 5 and len(storage.walk("spaces")) == 4


def test_a_choice_for_few_cells_is_not_one_for_many(base, storage, probed):
    few = choose(base, members(2), load_s=2.0, storage=storage, space="study")
    many = choose(base, members(20), load_s=2.0, storage=storage, space="study")
    assert (few.slots, many.slots) == (4, 8)
    assert choose(base, members(2), load_s=2.0, storage=storage, space="study") == many


def test_what_another_trial_chose_meanwhile_goes_before_the_own_probe(
    base, storage, probed, monkeypatch
):
    other = choose(base, members(20), load_s=2.0, storage=storage, space="study")
    [path] = storage.walk("spaces/study/fuse")
    content = storage.read(f"spaces/study/fuse/{path}")
    storage.delete(f"spaces/study/fuse/{path}")
    inner = fusing.measure_gain

    def measure_while_another_writes(base, members):
        storage.write(f"spaces/study/fuse/{path}", content)
        return inner(base, members)

    monkeypatch.setattr(fusing, "measure_gain", measure_while_another_writes)
    assert choose(base, members(20), load_s=2.0, storage=storage, space="study") == other


def test_a_damaged_choice_is_made_again(base, storage, probed):
    choose(base, members(20), load_s=2.0, storage=storage, space="study")
    [path] = storage.walk("spaces/study/fuse")
    storage.write(f"spaces/study/fuse/{path}", b"{")
    again = choose(base, members(20), load_s=2.0, storage=storage, space="study")
    assert again.slots == 8 and probed == [20, 20]


def test_the_loads_that_fusing_saves_are_counted(base, storage, probed):
    gain = Gain(100.0, {4: 200.0})
    # 20 cells of 10 updates of 4 x 10 tokens: 8000 tokens, 80 s alone and 40 s together.
    assert times_as_fast(gain, members(20), load_s=0.0) == pytest.approx(2.0)
    assert times_as_fast(gain, members(20), load_s=10.0) == pytest.approx((200 + 80) / (10 + 40))
    unworthy = Gain(100.0, {4: 90.0})
    assert unworthy.slots == 1
    assert times_as_fast(unworthy, members(20), load_s=10.0) == pytest.approx(280 / 90)
    note = choose(base, members(20), load_s=2.0, storage=storage, space=None).note
    assert "loaded once in 2.0 s and not 20 times" in note
