"""Which implementation attends for rows that generate, and what happens when one does not work."""

from __future__ import annotations

import logging

import pytest
import torch

from loraland.engine import kernels
from loraland.engine.gathered_attention import GatheredAttention
from loraland.engine.kernel_choice import Conditions, Heads, candidates

MISTRAL = Heads(32, 8, 128)
CPU = torch.device("cpu")
GIVEN = Conditions(
    heads=(MISTRAL, MISTRAL),
    dtype="bfloat16",
    capability=(9, 0),
    has_triton=True,
    has_flashinfer=True,
)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, ["flashinfer", "triton", "gathered"]),
        ({"has_flashinfer": False}, ["triton", "gathered"]),
        ({"has_flashinfer": False, "has_triton": False}, ["gathered"]),
        ({"dtype": "float32"}, ["triton", "gathered"]),
        ({"dtype": "float64"}, ["gathered"]),
        ({"heads": (MISTRAL, Heads(32, 32, 80))}, ["triton", "gathered"]),
        ({"heads": (Heads(8, 8, 512),)}, ["gathered"]),
        ({"capability": (7, 5)}, ["gathered"]),
    ],
)
def test_what_fits_comes_in_order_and_torch_always_does(changed, expected) -> None:
    assert list(candidates(GIVEN._replace(**changed))) == expected


def test_a_cpu_has_no_kernel() -> None:
    assert kernels.kernel_for([MISTRAL], 16, CPU, torch.float32) is None


class Wrong(GatheredAttention):
    def run(self, query, pool, call):
        return super().run(query, pool, call) + 1


class Broken(GatheredAttention):
    def plan(self, singles, *, fixed=False):
        raise OSError("nvcc was not found")


@pytest.mark.parametrize("bad", [Wrong, Broken])
def test_what_does_not_work_here_is_passed_over_with_a_warning(monkeypatch, caplog, bad) -> None:
    made = {"flashinfer": bad, "triton": GatheredAttention}
    monkeypatch.setattr(kernels, "make_kernel", lambda name, _: made[name]())
    names = ("flashinfer", "triton", "gathered")
    with caplog.at_level(logging.WARNING):
        found = kernels.first_that_works(names, [MISTRAL], 16, CPU, torch.bfloat16)
    assert type(found) is GatheredAttention
    assert len(caplog.records) == 1 and "flashinfer does not work here" in caplog.text


def test_a_library_that_is_not_installed_is_passed_over(monkeypatch, caplog) -> None:
    monkeypatch.setitem(__import__("sys").modules, "flashinfer", None)
    names = ("flashinfer", "gathered")
    found = kernels.first_that_works(names, [MISTRAL], 16, CPU, torch.float32)
    assert found.name == "gathered" and "flashinfer" in caplog.text
