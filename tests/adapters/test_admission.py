"""What may be served by its configuration and size, and what each refusal says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loraland.adapters.admission import Limits, admit, examine
from loraland.adapters.folder import content_hash, write_card
from loraland.errors import AdapterRejected
from tests.adapters.files import MODULE_Q, MODULE_V, Q, zeros


def test_facts_of_a_good_adapter(make_folder):
    folder = make_folder(rank=4)
    facts = examine(folder)
    assert facts.content_hash == content_hash(folder) and facts.version == content_hash(folder)[:12]
    assert (facts.rank, facts.alpha, facts.dtype) == (4, 8.0, "F32")
    assert facts.targets == ("q_proj", "v_proj")
    assert facts.parameters == 4 * 4 * 8
    assert facts.size_bytes == (folder / "adapter_model.safetensors").stat().st_size
    assert facts.modules[MODULE_Q] == (4, 2.0, 8, 8)
    assert set(facts.modules) == {MODULE_Q, MODULE_V}


def test_scaling_follows_rslora_and_patterns(make_folder):
    root = examine(make_folder(rank=4, config={"use_rslora": True}))
    assert root.modules[MODULE_Q].scaling == 8 / math.sqrt(4)
    stem = Q.replace("q_proj", "v_proj")
    mixed = make_folder(
        rank=4,
        config={"rank_pattern": {"v_proj": 1}, "alpha_pattern": {"self_attn.q_proj": 20}},
        tensors={f"{stem}.lora_A.weight": zeros(1, 8), f"{stem}.lora_B.weight": zeros(8, 1)},
    )
    facts = examine(mixed)
    assert facts.rank == 4
    assert facts.modules[MODULE_Q][:2] == (4, 5.0)
    assert facts.modules[MODULE_V][:2] == (1, 8.0)


def test_rank_over_the_limit_says_what_to_do(make_folder):
    with pytest.raises(AdapterRejected) as caught:
        examine(make_folder(rank=64), Limits(max_rank=32), name="b/t@3f9a1c0b77de")
    assert caught.value.message == (
        "adapter 'b/t@3f9a1c0b77de' has rank 64, this replica accepts at most 32; "
        "raise max_rank in serve_apps/lora_land.yaml or retrain"
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "IA3"}, "is of PEFT type 'IA3'"),
        ({"peft_type": "absent"}, "is of PEFT type None"),
        ({"use_dora": True}, "is DoRA"),
        ({"bias": "all"}, "trains biases of the base"),
        ({"bias": ["none"]}, "trains biases of the base"),
        ({"lora_bias": True}, "has biases on B"),
        ({"modules_to_save": ["lm_head"]}, "brings whole modules"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "repeats layers"),
        ({"target_parameters": ["experts"]}, "bare parameters"),
        ({"trainable_token_indices": [1]}, "rows of the embedding"),
        ({"init_lora_weights": "pissa"}, "started from a changed base"),
        ({"init_lora_weights": ["eva"]}, "started from a changed base"),
        ({"something_new": 3}, "not known here, something_new=3"),
        ({"r": 0}, "has r=0"),
        ({"r": True}, "has r=True"),
        ({"r": "2"}, "has r='2'"),
        ({"r": 10**400}, "has r=1000"),
        ({"r": "absent"}, "has r=None"),
        ({"lora_alpha": -1}, "has lora_alpha=-1"),
        ({"lora_alpha": 10**400}, "has lora_alpha=1000"),
        ({"r": 3}, "has rank 2, the configuration says 3"),
        ({"rank_pattern": {"(a+)+$": 2}}, "has rank_pattern"),
        ({"rank_pattern": {"q_proj": 0}}, "has rank_pattern"),
        ({"rank_pattern": [1]}, "has rank_pattern"),
        ({"alpha_pattern": {"q_proj": "x"}}, "has alpha_pattern"),
        ({"target_modules": ".*(a+)+"}, "list of plain module names"),
        ({"target_modules": ["(a+)+"]}, "list of plain module names"),
        ({"target_modules": []}, "list of plain module names"),
        ({"target_modules": "absent"}, "list of plain module names"),
        ({"exclude_modules": "(a+)+"}, "has exclude_modules"),
        ({"layers_pattern": "(a+)+"}, "has layers_pattern"),
    ],
)
def test_configuration_that_cannot_be_served_is_refused(make_folder, config, reason):
    with pytest.raises(AdapterRejected) as caught:
        examine(make_folder(config=config))
    assert reason in caught.value.message


@pytest.mark.parametrize(
    "config",
    [
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"init_lora_weights": "absent"},
        {"rank_pattern": None},
        {"bias": "absent"},
        {"layers_pattern": "layers"},
        {"exclude_modules": ["lm_head"]},
        {"something_new": None},
        {"use_dora": None},
    ],
)
def test_harmless_settings_are_accepted(make_folder, config):
    assert examine(make_folder(config=config)).rank == 2


def test_sizes_are_limited(make_folder):
    folder = make_folder()
    with pytest.raises(
        AdapterRejected, match=r"accepts at most 100; raise max_bytes in here\.yaml"
    ):
        examine(folder, Limits(max_bytes=100, where="here.yaml"))
    with pytest.raises(AdapterRejected, match="holds 4 tensors, at most 3 are read"):
        examine(folder, Limits(max_tensors=3))


def test_layers_outside_the_accepted_ones_are_named(make_folder):
    with pytest.raises(AdapterRejected, match=r"replica accepts \(k_proj, q_proj\): v_proj"):
        examine(make_folder(), Limits(targets=frozenset({"q_proj", "k_proj"})))
    assert examine(make_folder(), Limits(targets=frozenset({"q_proj", "v_proj"})))


def test_all_reasons_are_given_together(make_folder, make_card):
    wild = zeros(2, 8)
    wild[0, 0] = np.nan
    folder = make_folder(
        config={"use_dora": True, "bias": "all"},
        tensors={f"{Q}.lora_A.weight": wild, "stray": zeros(1)},
    )
    (folder / "adapter_model.bin").write_bytes(b"")
    write_card(folder, make_card(version="0" * 12))
    with pytest.raises(AdapterRejected) as caught:
        admit(folder, base="phi-2", base_fingerprint="b" * 64, limits=Limits(max_rank=1))
    message = caught.value.message
    assert "is refused for 8 reasons:" in message
    for reason in (
        "it has pickle weights",
        "it is DoRA",
        "it trains biases",
        "'stray' (unknown)",
        "it has rank 2, this replica accepts at most 1",
        "NaN or infinity",
        "it was trained on tiny-llama",
        "its card says 000000000000",
    ):
        assert reason in message


def test_long_lists_of_faults_are_shortened(make_folder):
    stray = {f"stray{n:02}": zeros(1) for n in range(12)}
    with pytest.raises(AdapterRejected, match=r"stray04' \(unknown\) and 7 more"):
        examine(make_folder(tensors=stray))
