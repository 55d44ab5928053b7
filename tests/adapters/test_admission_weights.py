"""Weights that may not be served: no pairs, no numbers, no safetensors file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loraland.adapters.admission import Limits, examine
from loraland.adapters.weights import non_finite, read_header
from loraland.errors import AdapterRejected
from tests.adapters.files import Q, raw_safetensors, zeros

TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


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
