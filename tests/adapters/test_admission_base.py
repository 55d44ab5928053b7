"""Adapters held against a base: its card, its precision, its layers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from loraland.adapters.admission import admit, examine
from loraland.adapters.folder import content_hash, write_card
from loraland.errors import AdapterRejected
from tests.adapters.files import MODULE_Q, MODULE_V

FINGERPRINT = "a" * 64


def carded(folder: Path, make_card, **changes: Any) -> Path:
    write_card(folder, make_card(folder, **changes))
    return folder


def test_adapter_of_this_base_is_admitted(make_folder, make_card):
    folder = carded(make_folder(), make_card)
    linears = {MODULE_Q: (8, 8), MODULE_V: (8, 8), "lm_head": (8, 64)}
    facts = admit(folder, base="tiny-llama", base_fingerprint=FINGERPRINT, linears=linears)
    assert facts == examine(folder)


def test_adapter_of_another_base_is_refused(make_folder, make_card):
    folder = carded(make_folder(), make_card)
    with pytest.raises(AdapterRejected) as caught:
        admit(folder, base="phi-2", base_fingerprint="b" * 64)
    assert (
        "was trained on tiny-llama (fingerprint aaaaaaaaaaaa), "
        "this replica serves phi-2 (fingerprint bbbbbbbbbbbb)"
    ) in caught.value.message
    assert f"tiny-llama/topics@{content_hash(folder)[:12]}" in caught.value.message


def test_adapter_of_other_weights_of_the_base_is_refused(make_folder, make_card):
    folder = carded(make_folder(), make_card)
    with pytest.raises(AdapterRejected, match="trained on other weights of tiny-llama"):
        admit(folder, base="tiny-llama", base_fingerprint="b" * 64)


@pytest.mark.parametrize(("trained", "held"), [("nf4", "fp32"), ("bf16", "nf4")])
def test_adapter_of_another_precision_is_refused_with_what_to_set(
    make_folder, make_card, trained, held
):
    folder = carded(make_folder(), make_card, precision=trained)
    wishes = {"base": "tiny-llama", "base_fingerprint": FINGERPRINT}
    with pytest.raises(AdapterRejected) as caught:
        admit(folder, **wishes, precision=held)
    assert caught.value.message.endswith(
        f"was trained on tiny-llama in {trained}, this replica holds it in {held}; set precision "
        f"{trained} for that base in the serving configuration, or train again in {held}"
    )
    assert admit(folder, **wishes, precision=trained) == admit(folder, **wishes)


def test_precision_is_no_matter_between_different_bases(make_folder, make_card):
    folder = carded(make_folder(), make_card, precision="nf4")
    with pytest.raises(AdapterRejected) as caught:
        admit(folder, base="phi-2", base_fingerprint="b" * 64, precision="fp32")
    assert "precision" not in caught.value.message


def test_content_other_than_the_card_says_is_refused(make_folder, make_card):
    folder = carded(make_folder(), make_card)
    shutil.copy(make_folder(seed=9) / "adapter_model.safetensors", folder)
    with pytest.raises(AdapterRejected, match="a file was changed or damaged"):
        admit(folder, base="tiny-llama", base_fingerprint=FINGERPRINT)


def test_folder_without_a_card_is_refused(make_folder):
    with pytest.raises(AdapterRejected, match="is without a usable card"):
        admit(make_folder(), base="tiny-llama", base_fingerprint=FINGERPRINT)


def test_layers_that_do_not_fit_the_base_are_named(make_folder, make_card):
    folder = carded(make_folder(), make_card)
    with pytest.raises(AdapterRejected) as caught:
        admit(
            folder,
            base="tiny-llama",
            base_fingerprint=FINGERPRINT,
            linears={MODULE_Q: (16, 8)},
        )
    assert f"{MODULE_Q} is 8 -> 8, the base's is 16 -> 8" in caught.value.message
    assert f"layers that the base does not have: {MODULE_V}" in caught.value.message


def test_layers_that_are_configured_but_have_no_weights_are_refused(make_folder, make_card):
    folder = carded(make_folder(), make_card)
    linears = {MODULE_Q: (8, 8), MODULE_V: (8, 8), MODULE_Q.replace("layers.0", "layers.1"): (8, 8)}
    with pytest.raises(AdapterRejected, match="targets layers that it has no weights for") as error:
        admit(folder, base="tiny-llama", base_fingerprint=FINGERPRINT, linears=linears)
    assert "layers.1" in str(error.value)


def test_targets_that_are_no_linear_layers_are_refused(make_folder, make_card):
    folder = make_folder(config={"target_modules": ["q_proj", "v_proj", "embed_tokens"]})
    linears = {MODULE_Q: (8, 8), MODULE_V: (8, 8)}
    with pytest.raises(AdapterRejected, match="no linear layer of the base: embed_tokens"):
        examine(folder, linears=linears)
