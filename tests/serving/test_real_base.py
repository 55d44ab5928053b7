"""The real base: what the server answers is what plain PEFT answers from the published folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from openai import OpenAI
from peft import PeftModel

from loraland.adapters.registry import Registry
from loraland.bases.loading import LoadedBase, load_base
from loraland.matrix.cell import Cell
from loraland.matrix.run import run_cell
from loraland.serving.local import running_app
from loraland.settings import storage_uri
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split
from loraland.training.recipe import get_recipe

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_the_server_answers_as_plain_peft_does_from_the_published_folder(
    ray_cluster: object, embedded_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORALAND_CACHE", str(embedded_cache))
    cell = Cell("smollm2-135m", "dates", get_recipe("quick"), max_examples=32, max_items=4)
    result = run_cell(cell, Storage.open(storage_uri()))
    task = get_task("dates")
    prompts = [item.prompt for item in load_split(task, "test", limit=4).items()]
    with running_app("smollm2-135m", "nf4", "127.0.0.1", 0, (2, 0)) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        answers = {
            model: [
                client.completions.create(model=model, prompt=p, max_tokens=12, temperature=0)
                for p in prompts
            ]
            for model in ("smollm2-135m", "smollm2-135m/dates")
        }
    assert {a.model for a in answers["smollm2-135m/dates"]} == {result.model}
    base = load_base("smollm2-135m", "nf4")
    plain = [greedy(base, prompt) for prompt in prompts]
    assert [a.choices[0].text for a in answers["smollm2-135m"]] == plain
    folder = Registry(Storage.open(storage_uri())).fetch(result.model, tmp_path)
    PeftModel.from_pretrained(base.model, folder)
    tuned = [greedy(base, prompt) for prompt in prompts]
    assert [a.choices[0].text for a in answers["smollm2-135m/dates"]] == tuned
    assert tuned != plain


def greedy(base: LoadedBase, prompt: str) -> str:
    ids = base.tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        output = base.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
        )
    return str(base.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
