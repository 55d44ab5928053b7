"""Folders that PEFT itself writes: we admit them, and PEFT reads what we make of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from loraland.adapters.admission import examine
from loraland.adapters.folder import canonicalise_config, content_hash, write_card
from loraland.adapters.lora_config import config_problems
from loraland.adapters.registry import Registry
from loraland.storage import Storage

REPOSITORY = Path(__file__).resolve().parents[2]


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config).eval()


def trained(folder: Path, dtype: torch.dtype = torch.float32, **changes) -> torch.Tensor:
    """Save an adapter with random weights as PEFT does; its logits on a prompt."""
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **changes)
    model = get_peft_model(tiny_llama(), config).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
            parameter.data = parameter.data.to(dtype).float()
    model.save_pretrained(folder)
    return logits(model)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1]


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 32},
        },
    ],
)
def test_peft_reads_what_went_through_the_registry(tmp_path, make_card, changes):
    expected = trained(tmp_path / "saved", **changes)
    registry = Registry(Storage.open(str(tmp_path / "storage")))
    name = registry.publish(tmp_path / "saved", make_card(tmp_path / "saved"))
    copy = registry.fetch(name, tmp_path / "cache")
    loaded = PeftModel.from_pretrained(tiny_llama(), copy).eval()
    assert torch.equal(logits(loaded), expected)
    assert not torch.allclose(expected, logits(tiny_llama()))
    facts = examine(copy)
    for module, facts_of_module in facts.modules.items():
        layer = loaded.get_submodule(f"base_model.model.{module}")
        assert layer.r["default"] == facts_of_module.rank
        assert layer.scaling["default"] == pytest.approx(facts_of_module.scaling)
        assert (layer.in_features, layer.out_features) == facts_of_module[2:]


def test_canonical_folder_is_read_by_peft(tmp_path):
    expected = trained(tmp_path, target_modules=["v_proj", "q_proj", "k_proj", "o_proj"])
    before = content_hash(tmp_path)
    canonicalise_config(tmp_path)
    assert content_hash(tmp_path) == before
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path)), expected)


def test_equal_adapters_saved_twice_have_one_identity(tmp_path):
    for name in ("one", "two"):
        trained(tmp_path / name, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    assert content_hash(tmp_path / "one") == content_hash(tmp_path / "two")


@pytest.mark.parametrize("field", [field.name for field in fields(LoraConfig)])
def test_every_setting_of_peft_is_known(field):
    assert not [
        problem
        for problem in config_problems({"peft_type": "LORA", field: "x"})
        if "not known here" in problem
    ]


def test_admission_and_registry_need_no_tensor_library(tmp_path, make_card):
    trained(tmp_path / "saved", target_modules=["q_proj"])
    write_card(tmp_path / "saved", make_card(tmp_path / "saved"))
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from loraland.adapters.admission import admit\n"
        "from loraland.adapters.registry import Registry\n"
        "facts = admit(Path(sys.argv[1]), base='tiny-llama', base_fingerprint='a' * 64)\n"
        "heavy = {'torch', 'transformers', 'peft', 'ray'} & set(sys.modules)\n"
        "print(facts.version, sorted(heavy))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "saved")],
        env={"PYTHONPATH": str(REPOSITORY / "platform")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.split() == [content_hash(tmp_path / "saved")[:12], "[]"]
