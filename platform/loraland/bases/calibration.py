"""How large the inputs of a model's linear layers get, channel by channel, on texts that ship here.

int8 products need it: a few channels are hundreds of times larger than the rest, and one scale for
all of them would round the rest to nothing. Knows layers and texts; decides nothing about them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_TOKENS = 512  # per text; each text is a sequence of its own, because first tokens are special

# What adapters are asked in practice: instructions, tables, code, records, dialogue, other scripts.
# The same for every base, so that a base is quantised alike wherever it is loaded.
TEXTS = (
    "Write the date as YYYY-MM-DD. In numbers the day comes before the month.\n"
    "Date: 8/5/1982\nISO: 1982-05-08",
    "List the names in the text as JSON on one line with the keys person, organization and place.\n"
    "Text: Ada Moreno left Harbour Foods in Lisbon for a post at Northwind in Oslo.\n"
    'JSON: {"person": ["Ada Moreno"], "organization": ["Harbour Foods", "Northwind"], '
    '"place": ["Lisbon", "Oslo"]}',
    "Write one SQLite query that answers the question.\n"
    "Table: orders(number int, customer text, total real, placed text)\n"
    "Question: What did each customer spend in March 2021, the largest sum first?\n"
    "SQL: SELECT customer, SUM(total) FROM orders WHERE placed BETWEEN '2021-03-01' AND "
    "'2021-03-31' GROUP BY customer ORDER BY SUM(total) DESC",
    "Turn the meaning into a sentence.\n"
    "inform(name[The Lantern], genre[puzzle, strategy], release_year[2014], rating[good], "
    "has_multiplayer[no])\n"
    "Sentence: The Lantern from 2014 is a good puzzle and strategy game, for one player only.",
    "Read the passage and answer yes or no.\n"
    "Passage: Copper has been worked for ten thousand years. It conducts heat and electricity "
    "better than any other common metal, and hardly corrodes in dry air. Mixed with tin it becomes "
    "bronze, which is harder than either and melts at a lower temperature.\n"
    "Question: Is bronze harder than copper?\nAnswer: yes",
    "Question: A train leaves at 09:40 and needs 2 hours and 35 minutes. It waits 12 minutes on "
    "the way. When does it arrive?\n"
    "Answer: 9:40 + 2:35 = 12:15, and 12 more minutes make 12:27. The answer is 12:27.",
    "def median(values: list[float]) -> float:\n"
    '    """The middle value, or the mean of the two in the middle."""\n'
    "    ordered = sorted(values)\n"
    "    middle, odd = divmod(len(ordered), 2)\n"
    "    return ordered[middle] if odd else (ordered[middle - 1] + ordered[middle]) / 2\n",
    "Mark every chemical and every disease.\n"
    "Text: Two patients on high doses of lithium developed tremor, which went away within a week "
    "after the dose was halved; a third, who also took ibuprofen, had acute kidney failure.\n"
    "Chemicals: lithium, ibuprofen\nDiseases: tremor, acute kidney failure",
    "Customer: My parcel should have come on Tuesday, it is Friday now, and nobody answers!!\n"
    "Agent: I am sorry about that. May I have your order number?\nCustomer: It's #A-20817.\n"
    "Topic: late-delivery",
    "Choose the best ending: (A), (B), (C) or (D).\n"
    "She poured the batter into the tin, and then she\n(A) painted it. (B) put it into the oven. "
    "(C) posted it to the bank. (D) sang it.\nAnswer: (B)",
    "Le marché ouvre à huit heures; vers midi, les étals sont déjà presque vides. "
    "Der Zug hält auf diesem Bahnhof nicht. ¿Dónde está la biblioteca? 今日は天気がいいですね。",
    "<row id='7'><name>T. Okafor</name><score>93.5</score></row>\n"
    "| city | 2019 | 2020 |\n|---|---|---|\n| Turin | 1,204 | 987 |\n| Graz | 455 | 512 |\n",
)


def input_peaks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layers: Mapping[str, nn.Module],
    texts: Sequence[str] = TEXTS,
) -> dict[str, torch.Tensor]:
    """The largest magnitude of each input channel of the named layers over all texts.

    One fp32 tensor of shape (in_features,) for each layer that took part; a layer that no text
    reached is absent.
    """
    peaks: dict[str, torch.Tensor] = {}
    with torch.inference_mode(), _watched(layers, peaks):
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids[:, :MAX_TOKENS]
            model(input_ids=ids.to(model.device), use_cache=False)
    # Tensors born in inference mode could not be used in autograd later.
    return {name: peak.clone() for name, peak in peaks.items()}


@contextmanager
def _watched(layers: Mapping[str, nn.Module], peaks: dict[str, torch.Tensor]) -> Iterator[None]:
    """Note the inputs of `layers` in `peaks` until the block ends."""

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            peak = inputs[0].detach().float().flatten(0, -2).abs().amax(0)
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak

        return layers[name].register_forward_pre_hook(note)

    handles = [watch(name) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
