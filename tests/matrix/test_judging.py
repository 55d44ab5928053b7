"""Cells that cannot be judged here are told of before they are trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loraland.errors import MetricUnavailable, SandboxUnavailable
from loraland.evaluation import sandbox
from loraland.matrix.cell import Cell, CellEvent, CellFailure
from loraland.matrix.judging import require_judge, unjudged
from loraland.matrix.run import run_cell, run_fused
from loraland.matrix.space import load_space
from loraland.storage import Storage
from loraland.training.recipe import get_recipe

PROGRAMS = Cell("tiny-mistral-7b", "magicoder", get_recipe("report"))


def test_only_cells_that_need_programs_to_run_wait_for_leave(monkeypatch):
    monkeypatch.delenv("LORALAND_RUN_CODE", raising=False)
    cells = load_space("paper").cells
    refused = unjudged(cells)
    assert [cell.task for cell in cells if cell.id in refused] == ["magicoder"] * 10
    assert all("LORALAND_RUN_CODE=1" in error.message for error in refused.values())
    monkeypatch.setenv("LORALAND_RUN_CODE", "1")
    monkeypatch.setattr(sandbox, "require_sandbox", lambda: None)
    assert unjudged(cells) == {}


def test_programs_wait_for_a_machine_that_can_confine_them(monkeypatch):
    def unconfined():
        raise SandboxUnavailable("no Landlock here")

    monkeypatch.setenv("LORALAND_RUN_CODE", "1")
    monkeypatch.setattr(sandbox, "require_sandbox", unconfined)
    other = replace(PROGRAMS, task="viggo")
    [(cell_id, error)] = unjudged([other, PROGRAMS]).items()
    assert cell_id == PROGRAMS.id
    assert isinstance(error, SandboxUnavailable)


def test_a_rehearsal_runs_no_programs(monkeypatch):
    monkeypatch.delenv("LORALAND_RUN_CODE", raising=False)
    require_judge(replace(PROGRAMS, data="rehearsal"))


def test_such_a_cell_fails_before_its_data_is_read(tmp_path, monkeypatch):
    monkeypatch.delenv("LORALAND_RUN_CODE", raising=False)
    storage, events = Storage.open(str(tmp_path / "s")), list[CellEvent]()
    with pytest.raises(MetricUnavailable):
        run_cell(PROGRAMS, storage, events.append)
    [(cell, found)] = run_fused([PROGRAMS], storage, events.append, slots=2)
    assert cell == PROGRAMS and isinstance(found, CellFailure)
    assert isinstance(found.error, MetricUnavailable)
    assert events == []
