from __future__ import annotations

from pathlib import Path

import pytest

from loraland.errors import InvalidConfiguration, UnknownRecipe
from loraland.training.recipe import get_recipe, recipe_names


def test_the_report_recipe_is_the_report_s() -> None:
    recipe = get_recipe("report")
    assert (recipe.rank, recipe.alpha, recipe.dropout) == (8, 16, 0.05)
    assert recipe.targets == ("q_proj", "v_proj")
    assert (recipe.precision, recipe.optimizer, recipe.schedule) == ("nf4", "adam", "cosine")
    assert (recipe.learning_rate, recipe.warmup_share, recipe.clip_norm) == (2e-4, 0.03, 0.5)
    assert recipe.examples_per_update == 16
    assert recipe.micro_batch_examples == 1
    assert recipe.examples_seen == 40_000


def test_updates_follow_examples_or_epochs_whichever_ends_first() -> None:
    quick = get_recipe("quick")
    assert quick.updates(train_examples=300) == 38
    assert quick.updates(train_examples=1) == 1
    both = get_recipe("quick", examples_seen=120, max_epochs=2)
    assert both.updates(train_examples=300) == 15
    assert both.updates(train_examples=30) == 8


def test_short_last_updates_of_epochs_do_not_shorten_a_run() -> None:
    recipe = get_recipe("report")
    assert recipe.updates(train_examples=10) == 4_000  # of 10 examples each: 40,000 seen
    assert recipe.updates(train_examples=635) == 62 * 40 + 40  # 62 epochs of 40, and 630 more


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownRecipe, match="did you mean 'quick'"):
        get_recipe("quik")


def test_a_file_with_several_mistakes_shows_all_of_them(tmp_path: Path) -> None:
    fields = get_recipe("quick").model_dump(mode="json", exclude={"name"})
    lines = [f"  {key}: {value}" for key, value in fields.items() if value is not None]
    lines = [line for line in lines if not line.startswith(("  rank", "  dropout"))]
    file = tmp_path / "mine.yaml"
    file.write_text("mine:\n" + "\n".join([*lines, "  rank: 0", "  dropout: 2", "  colour: red"]))
    with pytest.raises(InvalidConfiguration) as caught:
        get_recipe(str(file))
    assert all(word in str(caught.value) for word in ("rank", "dropout", "colour", "examples_seen"))


def test_a_recipe_without_an_end_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="has no end"):
        get_recipe("quick", max_epochs=None)


def test_every_shipped_recipe_states_every_field() -> None:
    assert recipe_names() == ["report", "quick"]
