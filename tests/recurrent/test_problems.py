"""The made-up problems, studies of them, and what is kept of a trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from loraland.cli import app
from loraland.errors import InvalidConfiguration, TrainingDiverged
from loraland.evaluation.statistics import Interval
from loraland.recurrent.beginnings import remember
from loraland.recurrent.figures import curve_figure
from loraland.recurrent.keeping import run_and_keep
from loraland.recurrent.modules import VanillaLSTM
from loraland.recurrent.outcomes import outcomes, student
from loraland.recurrent.plot import Line, Panel, draw
from loraland.recurrent.problems import Adding, Copy, LookAhead, Noisy, errors_of
from loraland.recurrent.recipe import (
    Study,
    Training,
    Trial,
    left,
    load_study,
    results,
    study_names,
    trials,
)
from loraland.recurrent.training import _part, run_trial
from loraland.storage import Storage

PROBLEMS = [
    Adding(kind="adding", steps=20),
    Copy(kind="copy", delay=7),
    LookAhead(kind="look_ahead", steps=12),
    Noisy(kind="noisy", steps=24),
]
TINY: dict[str, Any] = {
    "name": "tiny",
    "problem": {"kind": "look_ahead", "steps": 8, "ahead": 1, "alphabet": 2},
    "cells": {"one": {"net": "lstm"}, "two": {"net": "lstm", "window": 2}},
    "seeds": [0, 1],
    "training": {"hidden": 8, "rows": 16, "updates": 6, "test_rows": 50, "evaluate_every": 3},
    "solved_below": 0.02,
}


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda one: one.kind)
def test_a_problem_has_the_sizes_it_says_and_its_seed_decides_it(problem: Any) -> None:
    form = problem.form
    first, again = (problem.draw(5, np.random.default_rng(3)) for _ in range(2))
    assert first.x.shape[1:] == (5, form.inputs) and first.y.shape == (form.scored, 5)
    np.testing.assert_array_equal(first.x, again.x)
    assert not np.array_equal(first.x, problem.draw(5, np.random.default_rng(4)).x)


def test_the_constant_answer_has_the_error_that_each_problem_says() -> None:
    random = np.random.default_rng(0)
    for problem, constant in zip(PROBLEMS, (1.0, None, None, 0.0), strict=True):
        examples = problem.draw(20_000, random)
        said = np.zeros((*examples.y.shape, problem.form.outputs))
        if constant is not None:
            said[:] = constant
        found = errors_of(problem, said, examples.y).mean()
        assert found == pytest.approx(problem.form.chance, rel=0.03)


def test_adding_marks_one_number_in_each_half() -> None:
    x, y = Adding(kind="adding", steps=10).draw(50, np.random.default_rng(0))
    assert (x[:5, :, 1].sum(0) == 1).all() and (x[5:, :, 1].sum(0) == 1).all()
    np.testing.assert_allclose((x[..., 0] * x[..., 1]).sum(0), y[0], rtol=1e-6)


def test_copy_shows_the_symbols_first_and_asks_for_them_last() -> None:
    x, y = Copy(kind="copy", delay=4, symbols=3, alphabet=5).draw(6, np.random.default_rng(0))
    written = x.argmax(2)
    np.testing.assert_array_equal(written[:3], y)
    assert (written[3:6] == 5).all() and (written[6] == 6).all() and (written[7:] == 5).all()
    assert len(x) == 10


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda one: one.kind)
def test_a_shortened_problem_is_the_same_over_fewer_steps(problem: Any) -> None:
    half = problem.shortened(0.5).draw(3, np.random.default_rng(0)).x
    assert len(half) < len(problem.draw(3, np.random.default_rng(0)).x)
    assert problem.shortened(1.0) == problem
    assert len(problem.shortened(1e-9).draw(3, np.random.default_rng(0)).x) > 0


def test_lengths_grow_over_the_share_of_updates_that_a_study_says() -> None:
    how = Training(updates=100, lengthen=0.5)
    lengths = [_part(PROBLEMS[0], how, n).steps for n in (1, 25, 50, 51, 100)]  # type: ignore[attr-defined]
    assert lengths == [4, 11, 20, 20, 20]
    assert _part(PROBLEMS[0], Training(), 1) == PROBLEMS[0]


def test_the_label_of_a_step_is_fixed_by_it_and_the_one_two_later() -> None:
    x, y = LookAhead(kind="look_ahead", steps=9, ahead=2, alphabet=3).draw(
        4, np.random.default_rng(0)
    )
    symbols = x.argmax(2)
    np.testing.assert_array_equal(y[:-2], (symbols[:-2] + symbols[2:]) % 3)
    np.testing.assert_array_equal(y[-2:], symbols[-2:])


def test_noise_hides_the_sine_where_the_flag_says_so_and_nowhere_else() -> None:
    x, y = Noisy(kind="noisy", steps=30, noise=5.0, burst=5).draw(40, np.random.default_rng(0))
    clean = x[..., 1] == 0
    np.testing.assert_allclose(x[..., 0][clean], y[clean], atol=1e-6)
    assert clean[:5].all() and 0.3 < clean.mean() < 0.8
    assert np.abs(x[..., 0] - y)[~clean].mean() > 2


def test_shipped_studies_are_read_and_their_trials_have_different_places() -> None:
    assert {"adding", "copy", "look_ahead", "noisy"} <= set(study_names())
    places = [one.place for name in study_names() for one in trials(load_study(name))]
    assert len(set(places)) == len(places)
    assert load_study("adding").problem.form.scored == 1
    with pytest.raises(InvalidConfiguration, match="did you mean 'adding'"):
        load_study("ading")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"problem": {"kind": "adding", "steps": 1}}, "steps"),
        ({"problem": {"kind": "sorting"}}, "problem"),
        ({"cells": {}}, "cells"),
        ({"cells": {"../up": {}}}, "up"),
        ({"name": "a/b"}, "name"),
        ({"cells": {"one": {"net": "gru"}}}, "net"),
        ({"training": {"rate": 1}, "seeds": []}, r"training.rate.*|seeds.*training.rate"),
    ],
)
def test_a_wrong_study_is_told_with_all_its_mistakes(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(TINY | change))
    with pytest.raises(InvalidConfiguration, match=told):
        load_study(str(path))


def test_the_key_covers_what_decides_a_result_and_not_what_others_are_compared() -> None:
    study = Study.model_validate(TINY)
    more = Study.model_validate(TINY | {"cells": {"one": {}, "two": {}}, "description": "x"})
    assert Trial(study, "one", 0).key == Trial(more, "one", 0).key
    assert Trial(study, "two", 0).key != Trial(more, "two", 0).key
    assert Trial(study, "one", 0).key != Trial(study, "one", 1).key


def test_a_trial_gives_the_same_result_again_and_is_kept(tmp_path: Path) -> None:
    study, storage = Study.model_validate(TINY), Storage.open(str(tmp_path))
    trial, seen = Trial(study, "two", 1), []
    result = run_and_keep(trial, storage, lambda *told: seen.append(told))
    assert seen == [(n, error) for n, error in result.curve] and [n for n, _ in seen] == [3, 6]
    assert run_trial(trial)._replace(seconds=0) == result._replace(seconds=0)
    assert trial not in left(study, storage) and len(left(study, storage)) == 3
    [kept] = results(study, storage)["two"]
    assert kept["error"] == result.error and kept["versions"]["torch"]


def test_a_loss_that_is_no_number_ends_a_trial_with_advice() -> None:
    study = Study.model_validate(TINY | {"training": TINY["training"] | {"learning_rate": 3e37}})
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        run_trial(Trial(study, "one", 0))


def test_outcomes_pair_seeds_and_give_intervals() -> None:
    study = Study.model_validate(TINY)
    made = {"updates": 6, "parameters": 9, "seconds": 1.0}
    found = {
        "one": [made | {"seed": n, "error": error} for n, error in enumerate((0.5, 0.4, 0.6))],
        "two": [made | {"seed": n, "error": error} for n, error in enumerate((0.01, 0.0))],
    }
    first, second = outcomes(study, found)
    assert (first.seeds, first.solved, first.less) == (3, 0, None)
    assert second.solved == 2 and second.less is not None
    assert second.less.mean == pytest.approx((0.49 + 0.4) / 2)
    # By hand: mean 0.5, deviation 0.1, t(2) = 4.3027.
    assert first.error == pytest.approx(Interval(0.5, 0.5 - 0.2484, 0.5 + 0.2484), abs=1e-4)
    assert student([0.3]) is None and outcomes(study, {}) == []


def test_memories_begin_between_one_step_and_the_span() -> None:
    torch.manual_seed(0)
    net = VanillaLSTM(2, 400)
    remember(net.weights(), 100)
    bias = net.entities()["b_cs"].detach()
    assert 0 <= float(bias.min()) < 1.5 and 4.3 < float(bias.max()) <= np.log(99) + 1e-4
    torch.testing.assert_close(net.entities()["b_cu"].detach(), -bias)


def test_a_window_sees_ahead_where_a_cell_without_one_guesses() -> None:
    """A short form of the study `look_ahead`."""
    study = Study.model_validate(
        TINY
        | {
            "training": {
                "hidden": 16, "rows": 32, "updates": 120, "learning_rate": 0.02,
                "evaluate_every": 120,
            },
        }
    )  # fmt: skip
    blind, seeing = (run_trial(Trial(study, cell, 0)).error for cell in ("one", "two"))
    assert blind > 0.35 and seeing < 0.05


def test_curves_are_drawn_from_what_is_kept() -> None:
    study = Study.model_validate(TINY | {"cells": {"one": {}, "two": {}}})
    found = {"one": [{"curve": [[3, 0.5], [6, 0.2]]}, {"curve": [[3, 0.01]]}], "two": []}
    figure = curve_figure(study, found)
    assert figure.count("<polyline") == 2 and ">tiny</text>" in figure
    hostile = draw([Panel("<script>", "&", "up", [Line("<b>", [(0, 1), (1, 2)])])])
    assert "&lt;script&gt;" in hostile and "<b>" not in hostile
    with pytest.raises(ValueError, match="nothing to draw"):
        curve_figure(study, {"one": []})


def test_the_command_runs_what_is_missing_and_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    run = CliRunner().invoke(app, ["recurrent", "run", str(path), "--in-process", "--json"])
    assert run.exit_code == 0, run.output
    shown = json.loads(run.stdout)
    assert [one["cell"] for one in shown["cells"]] == ["one", "two"]
    again = CliRunner().invoke(app, ["recurrent", "run", str(path), "--in-process"])
    assert again.exit_code == 0 and "update" not in again.stderr
    assert "two" in again.stdout
    figures = CliRunner().invoke(app, ["recurrent", "figures", str(tmp_path / "out")])
    assert figures.exit_code == 0
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["recurrent-flow.svg"]


@pytest.mark.ray
def test_trials_run_on_ray_tune_and_a_second_run_finds_them_done(
    ray_cluster: object, tmp_path: Path
) -> None:
    from loraland.recurrent.study import run_trials

    study, uri, seen = Study.model_validate(TINY | {"seeds": [0]}), str(tmp_path), []
    assert run_trials(study, uri, lambda *told: seen.append(told)) == []
    assert left(study, Storage.open(uri)) == []
    assert {name for name, *_ in seen} == {"one-0", "two-0"}
    assert run_trials(study, uri) == []
    bad = Study.model_validate(TINY | {"seeds": [0], "training": {"learning_rate": 3e37}})
    [first, second] = run_trials(bad, uri)
    assert "lower learning_rate" in first and "one" in first and "two" in second
