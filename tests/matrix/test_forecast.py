from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.bases.catalogue import Base, all_bases, get_base
from loraland.errors import InvalidConfiguration
from loraland.matrix.cell import Cell
from loraland.matrix.forecast import forecast, forecast_cell, pass_s, schedule
from loraland.matrix.hardware import (
    Cluster,
    Probe,
    get_device,
    get_worker,
    nearest_probe,
    read_probes,
    write_probe,
)
from loraland.matrix.memory import (
    adapter_parameters,
    block_weights,
    linear_layers,
    memory_of,
    weight_bytes,
)
from loraland.matrix.space import load_space
from loraland.matrix.workload import lengths_of, work_of
from loraland.storage import Storage
from loraland.tasks.catalogue import all_tasks
from loraland.training.recipe import get_recipe

A10G = get_device("A10G")
REPORT = get_recipe("report")
VIGGO = Cell("mistral-7b", "viggo", REPORT, max_items=1000)


def parameters_by_shape(base: Base) -> int:
    """Every weight and bias that the architecture has."""
    shape = base.shape
    assert shape is not None
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    blocks = block_weights(base)
    if base.architecture == "phi":  # one layer norm with bias per block, and a bias everywhere
        biases = sum(outputs for _, outputs in linear_layers(base).values())
        blocks += shape.layers * (biases + 2 * shape.hidden)
        return embeddings + blocks + 2 * shape.hidden + shape.vocabulary
    return embeddings + blocks + (2 * shape.layers + 1) * shape.hidden


@pytest.mark.parametrize("base", all_bases(), ids=lambda base: base.name)
def test_the_shape_of_a_base_gives_its_number_of_parameters(base: Base) -> None:
    assert parameters_by_shape(base) == base.parameters


def test_adapter_parameters_are_counted_as_peft_has_them() -> None:
    # 32 blocks x 8 x (4096 + 4096 on q, 4096 + 1024 on v)
    assert adapter_parameters(get_base("mistral-7b"), REPORT) == 3_407_872
    everywhere = get_recipe("report", targets="all-linear", rank=16)
    assert adapter_parameters(get_base("llama-2-7b"), everywhere) == 39_976_960


def test_the_paper_is_forecast_without_torch_ray_or_network() -> None:
    code = """
import socket, sys
socket.socket.connect = lambda *where: sys.exit("the network was asked")
from loraland.matrix.forecast import forecast
from loraland.matrix.hardware import Cluster
from loraland.matrix.ledger import Ledger
from loraland.matrix.space import load_space
from loraland.storage import Storage
from loraland.matrix.table import write_table
space, storage = load_space("paper"), Storage.open(sys.argv[1])
found = forecast(space, Cluster())
assert {s.state for s in Ledger(storage).status(space.cells)} == {"missing"}
print(len(found.cells), sorted({"torch", "ray", "transformers", "datasets"} & set(sys.modules)))
"""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-c", code, place]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "310 []"


def test_the_paper_fits_a10g_and_costs_what_the_report_says_or_less() -> None:
    found = forecast(load_space("paper"), Cluster(workers=10, spot=False))
    assert len(found.cells) == 310
    assert [base.cells for base in found.bases] == [31] * 10
    assert all(base.fits and base.group and base.group >= 4 for base in found.bases)
    assert sum(base.hours for base in found.bases) == pytest.approx(found.hours)
    assert found.places == 10
    assert found.hours / 10 <= found.wall_hours <= found.hours / 10 * 1.1
    # Predibase's blog: under 8 USD per adapter on average, for 25 adapters of Mistral-7B.
    mistral = next(base for base in found.bases if base.base == "mistral-7b")
    assert 1 < mistral.usd / mistral.cells < 8
    small = next(base for base in found.bases if base.base == "gemma-2b")
    assert small.usd < mistral.usd / 2
    assert any("prices" in note for note in found.notes)


def test_the_rehearsal_is_forecast_for_a_laptop() -> None:
    found = forecast(load_space("rehearsal"), Cluster("laptop", 1, False, None))
    assert len(found.cells) == 310
    assert found.places == 2  # a core each
    assert found.usd == 0
    assert found.bases[0].fits is None
    assert all(cell.work.updates == 2 and cell.work.examples == 8 for cell in found.cells)
    assert found.wall_hours < 1


def test_only_the_cells_that_are_left_are_forecast() -> None:
    space = load_space("paper")
    part = forecast(space, Cluster(), cells=space.cells[:31])
    assert [base.base for base in part.bases] == ["llama-2-7b"]
    nothing = forecast(space, Cluster(), cells=[])
    assert (nothing.hours, nothing.usd, nothing.wall_hours) == (0, 0, 0)
    assert nothing.notes == ("nothing is left to do",)
    local = [replace(VIGGO, base="./mine")]
    assert forecast(space, Cluster(), cells=local).notes == (
        "1 cells on local folders are left out",
    )


def test_work_is_what_the_recipe_and_the_published_rows_say() -> None:
    work = work_of(VIGGO, get_base("mistral-7b"))
    lengths = lengths_of(VIGGO, get_base("mistral-7b"))
    assert work.train_rows == 5103 - 100
    assert work.examples == work.passes == 40_000
    # 7 whole epochs of 313 updates (the last one short) and 4,979 examples of the eighth
    assert work.updates == 7 * 313 + 312
    assert work.tokens == round(40_000 * lengths.mean)
    assert work.validation_tokens == round(41 * 100 * lengths.mean)
    base = get_base("mistral-7b")
    assert work.train_flops == 6 * base.parameters * work.tokens
    assert work.flops > work.train_flops
    plain = replace(VIGGO, recipe=get_recipe("report", gradient_checkpointing=False))
    assert work_of(plain, base).train_flops == pytest.approx(work.train_flops * 2 / 3)


def test_examples_are_bounded_by_rows_epochs_and_what_is_asked_for() -> None:
    base = get_base("smollm2-135m")
    cell = Cell("smollm2-135m", "viggo", get_recipe("quick"), max_examples=300)
    assert work_of(cell, base).examples == 300 - 16
    assert work_of(replace(cell, max_examples=None), base).examples == 5103 - 16
    assert work_of(replace(cell, max_examples=9000), base).examples == 5103 - 16
    dates = replace(cell, task="dates", max_examples=None)
    assert work_of(dates, base).examples == 300 - 16


@pytest.mark.parametrize("task", [task.name for task in all_tasks()])
def test_the_lengths_of_every_task_are_known_and_within_their_bounds(task: str) -> None:
    base = get_base("phi-2")
    found = lengths_of(Cell("phi-2", task, REPORT), base)
    assert 10 < found.mean <= found.most <= 2048
    assert 0 < found.answer < found.mean
    short = lengths_of(Cell("phi-2", task, get_recipe("report", max_length=64)), base)
    assert short.mean <= short.most <= 64


def test_rehearsal_rows_have_their_exact_lengths_in_bytes() -> None:
    [cell] = [c for c in load_space("rehearsal").cells if c.label == "tiny-phi-2/glue_cola"]
    found = lengths_of(cell, get_base("tiny-phi-2"))
    assert 120 < found.mean < 180
    assert found.answer == 2  # a digit and the end token


def test_a_probe_goes_before_assumptions_and_is_scaled_by_parameters() -> None:
    probe = Probe(base="phi-2", device="A10G", tokens_per_s=1000)
    phi, mistral = get_base("phi-2").parameters, get_base("mistral-7b").parameters
    work = work_of(VIGGO, get_base("mistral-7b"))
    found = forecast_cell(VIGGO, A10G, [probe])
    assert found.train_s == pytest.approx(
        (work.tokens + work.validation_tokens / 3) / (1000 * phi / mistral)
    )
    assert found.basis == "probe of phi-2 on A10G: 1000 tokens/s"
    assert forecast_cell(VIGGO, get_device("H200"), [probe]).basis == "assumed for H200"
    nearer = Probe(base="llama-2-7b", device="A10G", tokens_per_s=1)
    assert forecast_cell(VIGGO, A10G, [probe, nearer]).basis.startswith("probe of llama-2-7b")
    assert nearest_probe([], "A10G", {"mistral-7b": mistral}, "mistral-7b") is None


def test_probes_are_kept_in_storage(tmp_path: object) -> None:
    storage = Storage.open(str(tmp_path))
    probe = Probe(base="phi-2", device="A10G", tokens_per_s=900, note="viggo")
    write_probe(storage, probe.model_copy(update={"tokens_per_s": 1.0}))
    write_probe(storage, probe)
    other = Probe(base="phi-2", device="H200", tokens_per_s=9000)
    write_probe(storage, other)
    assert read_probes(storage) == [probe, other]


def test_assumed_speeds_are_near_those_that_others_published() -> None:
    # training_anchors: LLaMA-Factory, Llama-2-7B in 4 bits on an A100, 4 x 1,024 tokens: 2,415
    # tokens/s, with Unsloth's kernels 3,726.
    tokens = 4 * 1024
    speed = tokens / pass_s(get_base("llama-2-7b"), "nf4", get_device("A100-80GB"), tokens, 3)
    assert 2_000 < speed < 4_500
    # design notes: 150 trained tokens/s of the embedded base on two cores.
    tokens = 8 * 100
    speed = tokens / pass_s(get_base("smollm2-135m"), "fp32", get_device("cpu"), tokens, 2)
    assert 100 < speed < 200


def test_memory_is_near_what_others_published() -> None:
    # training_anchors: LLaMA-Factory with Unsloth, Llama-2-7B in 4 bits, 1 x 2,048 tokens: 6 to 7
    # GB; 1 x 8,192: 12 GB. All positions are supervised there.
    base = get_base("llama-2-7b")
    recipe = get_recipe("report", targets="all-linear", dropout=0.0)
    short = memory_of(base, recipe, tokens=2048, supervised=2048).total / 1e9
    long = memory_of(base, recipe, tokens=8192, supervised=8192).total / 1e9
    assert 5 < short < 9
    assert 9 < long < 16
    # NF4 weights of a 7B with embeddings and head in bf16: 3.7 to 4.2 GB
    assert 3.7e9 < weight_bytes(base, "nf4") < 4.2e9
    assert weight_bytes(base, "bf16") == 2 * base.parameters


def test_memory_grows_with_tokens_and_shrinks_with_checkpointing() -> None:
    base = get_base("gemma-7b")
    small = memory_of(base, REPORT, tokens=512, supervised=8)
    large = memory_of(base, REPORT, tokens=2048, supervised=8)
    whole = memory_of(
        base, get_recipe("report", gradient_checkpointing=False), tokens=2048, supervised=8
    )
    assert small.total < large.total < whole.total
    assert memory_of(base, REPORT, tokens=512, supervised=512).logits == 64 * small.logits
    assert small.total == sum(small)


@given(count=st.integers(1, 64), tokens=st.integers(1, 4096))
def test_the_largest_group_fits_and_one_more_does_not(count: int, tokens: int) -> None:
    memory = memory_of(get_base("mistral-7b"), REPORT, tokens=tokens, supervised=1)
    capacity = memory.with_adapters(count) + memory.adapter / 2
    assert memory.largest_group(capacity) == count
    assert memory.largest_group(memory.total - 1) == 0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.integers(1, 8))
def test_the_schedule_is_within_its_bounds(jobs: list[float], places: int) -> None:
    least = max(sum(jobs) / places, max(jobs))
    assert least - 1e-6 <= schedule(jobs, places) <= sum(jobs) / places + max(jobs) + 1e-6


def test_the_longest_jobs_come_first() -> None:
    assert schedule([1, 1, 1, 3], 2) == 3
    assert schedule([], 2) == 0


def test_unknown_machines_are_told_with_the_nearest_name() -> None:
    with pytest.raises(InvalidConfiguration, match=r"did you mean 'g5\.2xlarge'"):
        get_worker("g5.2xlarg")
    with pytest.raises(InvalidConfiguration, match="no device is called 'B200'"):
        get_device("B200")
    assert get_device("A10G").memory_gib == 22.4
