from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loraland.bases.catalogue import all_bases
from loraland.errors import InvalidConfiguration
from loraland.matrix.cell import Cell, run_key
from loraland.matrix.space import (
    Choice,
    Demand,
    Range,
    load_space,
    parse_space,
    space_names,
)
from loraland.tasks.catalogue import generated_tasks, get_task, report_tasks
from loraland.training.recipe import get_recipe

KEY_BEFORE_REHEARSALS = "855a2f068d3f8f93"

SMALL = """
name: small
bases: [smollm2-135m, gemma-2b, gemma-7b]
tasks: [dates, topics, viggo]
recipe: quick
"""


def wrong(text: str) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_space(text, "space.yaml")
    return caught.value.message


def test_the_paper_is_the_310_cells_of_the_report_under_its_recipe() -> None:
    space = load_space("paper")
    assert len(space.cells) == 310
    assert len({cell.id for cell in space.cells}) == 310
    assert set(space.bases) == {base.name for base in all_bases() if not base.embedded}
    assert {cell.task for cell in space.cells} == {task.name for task in report_tasks()}
    report = get_recipe("report", overlap="drop")
    assert {cell.recipe for cell in space.cells} == {report}
    assert {cell.data for cell in space.cells} == {"real"}
    assert set(space.demands.values()) == {Demand(8, 1, accelerator="A10G")}


def test_the_rehearsal_is_the_paper_on_tiny_bases_in_two_updates() -> None:
    paper, space = load_space("paper"), load_space("rehearsal")
    assert [(c.base, c.task) for c in space.cells] == [
        (f"tiny-{c.base}", c.task) for c in paper.cells
    ]
    [recipe] = {cell.recipe for cell in space.cells}
    cell = space.cells[0]
    assert cell.max_examples is not None
    assert recipe.updates(cell.max_examples - cell.max_examples // 5) == 2
    assert (recipe.precision, cell.max_items, cell.data) == ("fp32", 3, "rehearsal")
    assert not space.retry_collapsed


def test_the_embedded_space_needs_no_download() -> None:
    space = load_space("embedded")
    assert space.bases == ["smollm2-135m"]
    assert [c.task for c in space.cells] == [task.name for task in generated_tasks()]
    assert {cell.recipe for cell in space.cells} == {get_recipe("quick")}


def test_the_search_is_one_cell_with_values_for_fields_of_its_recipe() -> None:
    space = load_space("search")
    [cell] = space.cells
    assert space.search is not None
    parameters = space.search.parameters
    assert parameters["rank"] == Choice(choice=[4, 8, 16])
    assert parameters["learning_rate"] == Range(low=2e-4, high=1e-2, log=True)
    assert parameters["targets"] == Choice(choice=[["q_proj", "v_proj"], "all-linear"])
    assert (space.search.scheduler, space.search.algorithm) == ("asha", "optuna")
    assert cell.recipe == get_recipe("quick")


@pytest.mark.parametrize("name", ["embedded", "paper", "rehearsal", "search"])
def test_shipped_spaces_are_found_by_name_and_by_path(name: str) -> None:
    path = Path(__file__).parents[2] / "tune_spaces" / f"{name}.yaml"
    assert name in space_names()
    assert load_space(name) == load_space(str(path))
    assert load_space(name).name == name


def test_rules_change_the_cells_they_match_and_later_ones_win() -> None:
    space = parse_space(
        SMALL
        + """
max_examples: 100
changes: {rank: 4}
rules:
  - {where: {base: gemma-*}, recipe: {learning_rate: 1.0e-4}, max_examples: null}
  - {where: {base: gemma-7b, task: [dates, viggo]}, recipe: {learning_rate: 5.0e-5}, seed: 3}
resources:
  "*": {cpus: 4, gpus: 1, accelerator: A10G}
  gemma-7b: {cpus: 8, accelerator: A100, memory_gib: 40}
""",
        "space.yaml",
    )
    cells = {(cell.base, cell.task): cell for cell in space.cells}
    plain, small, large = (
        cells["smollm2-135m", "dates"],
        cells["gemma-2b", "dates"],
        cells["gemma-7b", "dates"],
    )
    quick = get_recipe("quick", rank=4)
    assert plain == Cell("smollm2-135m", "dates", quick, 0, 100, 100)
    assert small == Cell("gemma-2b", "dates", quick.model_copy(update={"learning_rate": 1e-4}))
    assert large.recipe.learning_rate == 5e-5
    assert (large.seed, large.max_examples) == (3, None)
    assert cells["gemma-7b", "topics"].recipe == small.recipe
    assert space.demands == {
        "smollm2-135m": Demand(4, 1, None, "A10G"),
        "gemma-2b": Demand(4, 1, None, "A10G"),
        "gemma-7b": Demand(8, 1, 40, "A100"),
    }


def test_all_mistakes_of_a_file_are_told_together_with_the_nearest_names() -> None:
    message = wrong(
        """
name: Small
bases: [gema-2b, smollm2-135m, smollm2-135m]
tasks: [dbpeda]
recipe: quik
changes: {rnak: 4, dropout: 2}
rules:
  - {where: {bases: gemma-2b}, recipe: {schedule: cosin}}
resource: {}
max_items: 0
search: {parameters: {rank: {choise: [1]}, learning_rate: {low: 2, high: 1}}, samples: 3}
"""
    )
    for part in (
        "name: String should match pattern",
        "'smollm2-135m' stands there 2 times",
        "did you mean 'gemma-2b'",
        "did you mean 'dbpedia'",
        "did you mean 'quick'",
        "'rnak' is no field of a recipe; did you mean 'rank'?",
        "dropout: Input should be less than 1 (got 2)",
        "rules.0.where.bases: is no field here; did you mean 'base'?",
        "schedule: Input should be 'cosine', 'linear' or 'constant' (got 'cosin')",
        "resource: is no field here; did you mean 'resources'?",
        "max_items: Input should be greater than or equal to 1 (got 0)",
        "search.parameters.rank.range.choise: is no field here",
        "search.parameters.learning_rate.range: low must be below high",
    ):
        assert part in message, message


def test_what_does_not_fit_together_is_told_together() -> None:
    message = wrong(
        SMALL
        + """
changes: {examples_seen: null, max_epochs: null}
rules: [{where: {base: gema-*, task: dats}, seed: 1}]
resources: {gemma-9b: {gpus: 1}}
search: {parameters: {rank: {choice: [4]}}, samples: 3}
"""
    )
    assert "set examples_seen or max_epochs" in message
    assert message.count("set examples_seen or max_epochs") == 1
    assert "rules.1.where.base: 'gema-*' is no base of this space" in message
    assert "rules.1.where.task: 'dats' is no task of this space; did you mean 'dates'?" in message
    assert "resources: 'gemma-9b' is no base of this space" in message
    assert "search: is for one cell, here are 9" in message


def test_a_search_names_fields_and_values_that_a_recipe_can_have() -> None:
    text = SMALL.replace(", gemma-2b, gemma-7b", "").replace(", topics, viggo", "")
    assert parse_space(text, "here").search is None
    message = wrong(
        text
        + "search: {samples: 2, parameters: {rnk: {choice: [4]}, dropout: {low: 0.1, high: 1.5}}}"
    )
    assert "'rnk' is no field of a recipe; did you mean 'rank'?" in message
    assert "dropout: Input should be less than 1 (got 1.5)" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n- b", "must be a mapping"),
        ("name: [", "is not YAML"),
        ("name: x", "bases: Field required"),
        (SMALL + "rules: [{where: {}, max_examples: 1}]", "rules.0.max_examples"),
        (SMALL + 'resources: {"*": {gpus: 0, accelerator: A10G}}', "an accelerator is a GPU"),
        (SMALL + 'resources: {"*": {memory: 4}}', "did you mean 'memory_gib'?"),
    ],
)
def test_files_of_another_shape_are_refused_with_the_reason(text: str, reason: str) -> None:
    assert reason in wrong(text)


def test_unknown_spaces_are_told_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="did you mean 'paper'"):
        load_space("papr")
    with pytest.raises(InvalidConfiguration, match="No such file"):
        load_space(str(tmp_path / "none.yaml"))


def test_a_local_folder_may_be_a_base(tmp_path: Path) -> None:
    space = parse_space(SMALL.replace("smollm2-135m", "./my-model"), "here")
    assert space.cells[0].base == "./my-model"


def test_a_cell_is_known_by_what_is_asked_for_and_not_by_how_it_is_named() -> None:
    cell = Cell("./Models/Mine", "dates", get_recipe("quick"))
    renamed = replace(cell, recipe=cell.recipe.model_copy(update={"name": "other"}))
    assert cell.id == renamed.id == cell.located().id
    assert Cell.from_json(cell.to_json()).id == cell.id
    assert len(cell.id) == 16
    others = [
        replace(cell, base="mine-2"),
        replace(cell, task="topics"),
        replace(cell, recipe=get_recipe("quick", rank=4)),
        replace(cell, seed=1),
        replace(cell, max_examples=9),
        replace(cell, max_items=9),
        replace(cell, data="rehearsal"),
    ]
    assert len({cell.id, *(other.id for other in others)}) == 8


def test_folders_of_one_name_are_two_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = Cell("./mine", "dates", get_recipe("quick"))
    there = replace(here, base=str(tmp_path / "elsewhere" / "mine"))
    assert here.label == there.label and here.id != there.id
    assert here.id == replace(here, base=str(tmp_path / "mine")).id
    assert here.id == Cell.from_json(here.located().to_json()).id  # as a worker sees it


def test_the_run_key_of_a_real_cell_is_what_it_always_was() -> None:
    cell, task = Cell("smollm2-135m", "dates", get_recipe("quick")), get_task("dates")
    real = run_key(cell, task, "base", "tokenizer", "data", "test")
    made_up = run_key(replace(cell, data="rehearsal"), task, "base", "tokenizer", "data", "test")
    assert real == KEY_BEFORE_REHEARSALS
    assert made_up != real
    facts = cell, task, "base", "tokenizer", "data", "test"
    others = [run_key(*facts, loop) for loop in ("fused", "parallel")]
    others.append(run_key(*facts, products="onednn"))
    assert run_key(*facts, "plain", "torch") == real
    assert len({real, made_up, *others}) == 5
