"""Folders and the hash that is their identity."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.adapters import folder as folders
from loraland.adapters.folder import (
    canonical_config,
    canonicalise_config,
    content_hash,
    hash_content,
    read_card,
    read_config,
    version_of,
    write_card,
)
from loraland.adapters.strict_json import parse_object
from loraland.errors import AdapterRejected

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
configs = st.fixed_dictionaries(
    {"target_modules": st.lists(st.sampled_from("abcdef"), unique=True, min_size=1)},
    optional={"r": st.integers(1, 64), "lora_alpha": st.floats(0.5, 64), "extra": json_values},
)


@given(configs, st.binary(max_size=64), st.randoms(use_true_random=False))
def test_hash_does_not_depend_on_order(config, weights, chance):
    keys = list(config)
    chance.shuffle(keys)
    shuffled = {key: config[key] for key in keys}
    shuffled["target_modules"] = chance.sample(
        config["target_modules"], len(config["target_modules"])
    )
    assert hash_content(shuffled, weights) == hash_content(config, weights)
    assert canonical_config(shuffled) == canonical_config(config)


@given(configs, st.binary(max_size=64))
def test_canonical_form_is_settled_and_keeps_the_hash(config, weights):
    settled = canonical_config(config)
    assert canonical_config(parse_object(settled)) == settled
    assert hash_content(parse_object(settled), weights) == hash_content(config, weights)
    renamed = parse_object(canonical_config(config, "someone/base"))
    assert renamed["base_model_name_or_path"] == "someone/base"
    assert hash_content(renamed, weights) == hash_content(config, weights)


@given(configs, configs, st.binary(max_size=8), st.binary(max_size=8))
def test_different_content_has_a_different_hash(one, other, weights, others):
    same = canonical_config(one) == canonical_config(other) and weights == others
    assert (hash_content(one, weights) == hash_content(other, others)) == same


def test_bytes_cannot_move_between_configuration_and_weights():
    assert hash_content({"r": 1}, b"") != hash_content({"r": 1}, b"{}")


def test_hash_of_a_folder_is_the_hash_of_its_parts(make_folder):
    folder = make_folder()
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert content_hash(folder) == hash_content(read_config(folder), weights)
    assert len(content_hash(folder)) == 64
    assert content_hash(folder).startswith(version_of(content_hash(folder)))


@pytest.mark.parametrize(
    "field", ["base_model_name_or_path", "revision", "peft_version", "auto_mapping"]
)
def test_place_and_installation_are_no_part_of_the_identity(make_folder, field):
    assert content_hash(make_folder()) == content_hash(make_folder(config={field: "elsewhere"}))


def test_settings_and_weights_are_the_identity(make_folder):
    hashes = {
        content_hash(folder)
        for folder in (
            make_folder(),
            make_folder(config={"lora_alpha": 5}),
            make_folder(config={"use_rslora": True}),
            make_folder(config={"target_modules": ["q_proj"]}),
            make_folder(seed=1),
        )
    }
    assert len(hashes) == 5


def test_card_is_no_part_of_the_identity(make_folder, make_card):
    folder = make_folder()
    before = content_hash(folder)
    card = make_card(folder)
    write_card(folder, card)
    assert content_hash(folder) == before
    assert read_card(folder) == card


def test_canonical_files_of_one_adapter_are_equal_bytes(make_folder):
    targets = ["q_proj", "v_proj"]
    one, other = (
        make_folder(config={"target_modules": random.Random(n).sample(targets, 2)}) for n in (1, 3)
    )
    other.joinpath("adapter_config.json").write_text(
        json.dumps(dict(reversed(read_config(other).items())))
    )
    for folder in (one, other):
        canonicalise_config(folder)
    texts = {(folder / "adapter_config.json").read_bytes() for folder in (one, other)}
    assert len(texts) == 1
    assert sorted(file.name for file in one.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[]", "is not a JSON object"),
        (b'{"r": 1, "r": 2}', "names something twice"),
        (b'{"a": {"r": 1, "r": 2}}', "names something twice"),
        (b'{"r": NaN}', "holds NaN"),
        (b'{"r": 1e999}', "not JSON compliant"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\xff", "is not text"),
        (b"{", "Expecting"),
        (b" " * (1 << 20) + b"{}", "at most 1048576 are read"),
    ],
)
def test_configuration_that_cannot_be_trusted_is_refused(make_folder, text, reason):
    folder = make_folder()
    (folder / "adapter_config.json").write_bytes(text)
    for attempt in (read_config, content_hash, canonicalise_config):
        with pytest.raises(AdapterRejected, match=reason):
            attempt(folder)
    assert (folder / "adapter_config.json").read_bytes() == text


def test_missing_files_are_named(tmp_path, make_folder):
    for attempt in (read_config, content_hash):
        with pytest.raises(AdapterRejected, match=r"has no adapter_config\.json"):
            attempt(tmp_path)
    with pytest.raises(AdapterRejected, match=r"has no card\.json"):
        read_card(tmp_path)
    folder = make_folder()
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterRejected, match=r"has no adapter_model\.safetensors"):
        content_hash(folder)


def test_weights_over_the_limit_are_not_read(make_folder, monkeypatch):
    monkeypatch.setattr(folders, "MAX_WEIGHTS_BYTES", 10)
    with pytest.raises(AdapterRejected, match="at most 10 are read"):
        content_hash(make_folder())


def test_damaged_card_is_refused_with_its_faults(make_folder):
    folder = make_folder()
    (folder / "card.json").write_text('{"format": 1}')
    with pytest.raises(
        AdapterRejected, match=r"is no valid card: .*base_fingerprint: Field required"
    ):
        read_card(folder)
