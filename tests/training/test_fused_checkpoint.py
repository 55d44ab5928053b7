"""Which checkpoints the runs of a group resume from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loraland.storage import Storage
from loraland.training.checkpoint import CheckpointStore, RunState
from loraland.training.fused_checkpoint import (
    FILES,
    Moments,
    Saved,
    common_moment,
    find_saved,
    load_saved,
)


def saved(*ticks: int, group: str = "g", since: int = 0) -> list[Saved]:
    """Checkpoints of a run that came into its group at tick `since`."""
    return [
        Saved(turn, RunState(update=tick - since, group=group, tick=tick))
        for turn, tick in enumerate(ticks)
    ]


def ticks(chosen: dict[str, Saved]) -> dict[str, int]:
    return {name: one.state.tick for name, one in chosen.items()}


def test_all_resume_from_the_newest_moment_that_all_have() -> None:
    found = {"a": saved(8, 16), "b": saved(8, 16)}
    assert ticks(common_moment(found, over=[])) == {"a": 16, "b": 16}


def test_a_save_that_was_cut_short_counts_for_nobody() -> None:
    found = {"a": saved(8, 16), "b": saved(8, 0), "c": saved(8, 16)}
    assert ticks(common_moment(found, over=[])) == {"a": 8, "b": 8, "c": 8}


def test_a_run_that_stored_nothing_starts_anew() -> None:
    found = {"a": saved(8, 16), "late": []}
    assert ticks(common_moment(found, over=[])) == {"a": 16}


def test_a_run_whose_end_was_stored_runs_again_beside_those_that_go_back() -> None:
    found = {"done": saved(8, 12), "b": saved(8, 0)}
    assert ticks(common_moment(found, over=["done"])) == {"done": 8, "b": 8}


def test_a_run_that_ended_long_ago_does_not_hold_the_others_back() -> None:
    found = {"done": saved(8, 12), "b": saved(24, 16), "c": saved(24, 16)}
    assert ticks(common_moment(found, over=["done"])) == {"done": 12, "b": 24, "c": 24}


def test_runs_of_different_groups_resume_from_their_own_newest() -> None:
    found = {"a": saved(8, 16), "b": saved(2, 4, group="other")}
    chosen = common_moment(found, over=[])
    assert ticks(chosen) == {"a": 16, "b": 4}
    assert Moments.after(chosen.values()).group not in ("g", "other")


def test_a_run_that_was_away_does_not_set_the_others_back() -> None:
    found = {"a": saved(30, 28), "b": saved(30, 28), "away": saved(8, 16)}
    assert ticks(common_moment(found, over=[])) == {"a": 30, "b": 30, "away": 16}


def test_moments_go_on_where_they_were(tmp_path: Path) -> None:
    store = CheckpointStore(Storage.open(str(tmp_path)), "runs/a/checkpoint", "a")
    moments = Moments()
    for tick in (0, 3, 7):
        moments.tick = tick
        if tick:
            moments.next()
        moments.save(store, RunState(update=tick), {"adapter/x": torch.full((2,), float(tick))})
    found = find_saved(store)
    assert [(FILES[one.turn], one.state.tick) for one in found] == [(FILES[0], 7), (FILES[1], 3)]
    newest = common_moment({"a": found}, over=[])["a"]
    state, tensors = load_saved(store, newest)
    assert state.update == 7 and tensors["adapter/x"].tolist() == [7.0, 7.0]
    resumed = Moments.after([newest])
    assert (resumed.group, resumed.tick, resumed.turn) == (moments.group, 7, 0)
    resumed.tick = 9
    resumed.next()
    resumed.save(store, RunState(update=9), {})
    assert sorted(one.state.tick for one in find_saved(store)) == [7, 9]


def test_a_plain_run_does_not_see_the_checkpoints_of_a_fused_one(tmp_path: Path) -> None:
    store = CheckpointStore(Storage.open(str(tmp_path)), "runs/a/checkpoint", "a")
    Moments().save(store, RunState(), {"adapter/x": torch.zeros(1)})
    assert store.load() is None
    store.clear()
    assert find_saved(store) == []


@pytest.mark.parametrize("values", [{}, {"group": "g", "tick": 5}])
def test_states_without_a_group_are_read_as_before(values: dict[str, object]) -> None:
    whole = RunState(update=2, losses=[1.0, 2.0]).to_json()
    del whole["group"], whole["tick"]
    state = RunState.from_json(whole | values)
    assert (state.update, state.group, state.tick) == (
        2,
        values.get("group", ""),
        values.get("tick", 0),
    )
