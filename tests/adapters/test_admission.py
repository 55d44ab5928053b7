"""What may be served, and what each refusal says."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraland.adapters.admission import Limits, admit, examine
from loraland.adapters.folder import content_hash, write_card
from loraland.adapters.weights import non_finite, read_header
from loraland.errors import AdapterRejected

FINGERPRINT = "a" * 64
Q = "base_model.model.model.layers.0.self_attn.q_proj"
MODULE_Q, MODULE_V = (f"model.layers.0.self_attn.{name}_proj" for name in "qv")


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def raw_safetensors(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def bf16_folder(folder: Path, numbers: np.ndarray) -> Path:
    """Give a rank-2 folder bfloat16 weights, whose A holds the given bit patterns."""
    header, data = {}, b""
    for side, shape, bits in (("A", [2, 8], numbers), ("B", [8, 2], zeros(16, dtype=np.uint16))):
        part = bits.astype("<u2").tobytes()
        offsets = [len(data), len(data) + len(part)]
        header[f"{Q}.lora_{side}.weight"] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": offsets,
        }
        data += part
    (folder / "adapter_model.safetensors").write_bytes(raw_safetensors(header, data))
    return folder


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


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({f"{Q}.lora_A.weight": None}, "q_proj has lora_B alone"),
        ({f"{Q}.lora_B.weight": None}, "q_proj has lora_A alone"),
        ({f"{Q}.lora_A.weight": zeros(3, 8)}, "q_proj has A [3, 8] and B [8, 2]"),
        ({f"{Q}.lora_A.weight": zeros(2, 8, 1)}, "must be [rank, in] and [out, rank]"),
        ({f"{Q}.lora_B.weight": zeros(0, 2)}, "q_proj has A [2, 8] and B [0, 2]"),
        ({f"{Q}.lora_magnitude_vector.weight": zeros(8)}, "magnitudes of DoRA"),
        ({f"{Q}.lora_B.bias": zeros(8)}, "a bias of LoRA"),
        ({"base_model.model.embed.lora_embedding_A": zeros(2, 8)}, "LoRA on an embedding"),
        ({"base_model.model.lm_head.weight": zeros(2, 8)}, "lm_head.weight' (unknown)"),
        ({f"x{Q}.lora_A.weight": zeros(2, 8)}, "(unknown)"),
        ({f"{Q}.lora_A.weight": zeros(2, 8, dtype=np.float64)}, "another type than BF16, F16, F32"),
        ({f"{Q}.lora_A.weight": zeros(2, 8, dtype=np.int32)}, "(I32)"),
    ],
)
def test_tensors_that_make_no_pairs_are_refused(make_folder, tensors, reason):
    with pytest.raises(AdapterRejected) as caught:
        examine(make_folder(tensors=tensors))
    assert reason in caught.value.message


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(make_folder, dtype, number):
    wild = zeros(2, 8, dtype=dtype)
    wild[1, 7] = number
    with pytest.raises(AdapterRejected, match=f"NaN or infinity in its weights: {Q}.lora_A"):
        examine(make_folder(tensors={f"{Q}.lora_A.weight": wild}))


def test_largest_half_precision_numbers_are_accepted(make_folder):
    large = np.full((2, 8), np.finfo(np.float16).max, np.float16)
    facts = examine(make_folder(tensors={f"{Q}.lora_A.weight": large}))
    assert facts.dtype == "F16+F32"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(bits=st.lists(st.integers(0, 0xFFFF), min_size=16, max_size=16))
def test_bfloat16_is_judged_by_its_bits(tmp_path, bits):
    patterns = np.array(bits, np.uint16)
    # A bfloat16 is the upper half of a float32.
    finite = bool(np.isfinite((patterns.astype(np.uint32) << 16).view(np.float32)).all())
    folder = bf16_folder(tmp_path, patterns)
    path = folder / "adapter_model.safetensors"
    specs = read_header(path, max_header_bytes=10_000, max_tensors=10)
    assert non_finite(path, specs) == ([] if finite else [f"{Q}.lora_A.weight"])


def test_bfloat16_adapter_is_admitted(make_folder):
    folder = bf16_folder(make_folder(), np.full(16, 0x3F80, np.uint16))  # ones
    assert examine(folder).dtype == "BF16"


def test_pickle_weights_are_refused_without_being_read(make_folder):
    folder = make_folder()
    (folder / "adapter_model.bin").write_bytes(b"never read")
    with pytest.raises(AdapterRejected, match="pickle weights"):
        examine(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterRejected, match="pickle weights") as caught:
        examine(folder)
    assert "has no adapter_model.safetensors" in caught.value.message


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no whole safetensors file"),
        (b"\x01", "is no whole safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "is no whole safetensors file"),
        (
            raw_safetensors(b" " * 20_000, b""),
            "has a header of 20000 bytes, at most 10000 are read",
        ),
        (raw_safetensors(b"{", b""), "is no valid safetensors file"),
        (raw_safetensors(b"[]", b""), "is no valid safetensors file"),
        (raw_safetensors({"a": TENSOR}, b""), "is no valid safetensors file"),
        (raw_safetensors({"a": TENSOR}, b"12345"), "is no valid safetensors file"),
        (raw_safetensors({"a": {**TENSOR, "shape": [2]}}, b"1234"), "is no valid safetensors file"),
        (raw_safetensors({"a": {**TENSOR, "data_offsets": [4, 0]}}, b"1234"), "is no valid"),
        (raw_safetensors({"a": {**TENSOR, "shape": [2**62, 4]}}, b"1234"), "is no valid"),
        (raw_safetensors({"a": {**TENSOR, "dtype": "X"}}, b"1234"), "is no valid"),
        (raw_safetensors(b'{"a":%s,"a":%s}' % ((json.dumps(TENSOR).encode(),) * 2), b"1234"), ""),
        (raw_safetensors(b"[" * 9000, b""), "is no valid safetensors file"),
        (raw_safetensors({}, b""), "is empty"),
    ],
)
def test_file_that_is_no_safetensors_is_refused(make_folder, content, reason):
    folder = make_folder()
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(AdapterRejected) as caught:
        examine(folder, Limits(max_header_bytes=10_000))
    assert reason in caught.value.message


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None
)
@given(data=st.data())
def test_damaged_files_are_examined_or_refused_and_nothing_else(make_folder_once, data):
    folder, whole = make_folder_once
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    content = bytes(damaged[:cut]) if data.draw(st.booleans()) else bytes(damaged)
    (folder / "adapter_model.safetensors").write_bytes(content)
    try:
        assert examine(folder).rank == 2
    except AdapterRejected as error:
        assert error.message.startswith("adapter '")


@pytest.fixture
def make_folder_once(make_folder):
    folder = make_folder()
    return folder, (folder / "adapter_model.safetensors").read_bytes()


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
