"""A small recurrent classifier of texts: bytes or subwords in, a label out.

Knows texts and labels; knows no tasks, storage or samples. Fields of an item, such as a question
and a sentence, are cut each for itself and put one behind the other with a mark between them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn

from loraland.errors import DataRefused, TrainingDiverged
from loraland.recurrent.beginnings import count
from loraland.recurrent.modules import Lstm

MARK = 0  # the id between fields, and of padding

Fields = Sequence[str]  # of one item


class TextRecipe(BaseModel):
    """How a classifier is made and trained; every default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    units: Literal["bytes", "subwords"] = "subwords"
    vocabulary: int = Field(default=4000, ge=300)  # subwords, learned on the train rows
    most_units: int = Field(default=160, ge=1)  # of a field; what is beyond is cut off
    embedding: int = Field(default=64, ge=1)
    hidden: int = Field(default=64, ge=1)  # in each of the two directions
    window: int = Field(default=1, ge=1)
    input_gate: bool = False
    dropout: float = Field(default=0.3, ge=0, lt=1)
    epochs: int = Field(default=8, ge=1)
    rows: int = Field(default=32, ge=1)  # of a batch
    learning_rate: float = Field(default=3e-3, gt=0)  # Adam; falls to 0 as a cosine
    clip_norm: float = Field(default=1.0, gt=0)
    validation_share: float = Field(default=0.1, gt=0, lt=1)  # the best epoch on it is kept


class Units(Protocol):
    """Cuts a text into ids above MARK."""

    def ids(self, text: str) -> list[int]:
        """Of a text."""

    def size(self) -> int:
        """Ids, MARK among them."""


class Bytes:
    """UTF-8."""

    def ids(self, text: str) -> list[int]:
        """Byte + 1."""
        return [one + 1 for one in text.encode()]

    def size(self) -> int:
        """256 bytes and the mark."""
        return 257


class Subwords:
    """Byte-level BPE, learned on train texts alone."""

    def __init__(self, texts: Sequence[str], vocabulary: int) -> None:
        self._tokenizer = Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary - 1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        self._tokenizer.train_from_iterator(texts, trainer)

    def ids(self, text: str) -> list[int]:
        """Id + 1."""
        return [one + 1 for one in self._tokenizer.encode(text).ids]

    def size(self) -> int:
        """Those that were learned, and the mark."""
        return int(self._tokenizer.get_vocab_size()) + 1


class Classifier(nn.Module):
    """Embedding, a bidirectional LSTM, the largest and the mean value over the steps, a label."""

    def __init__(self, recipe: TextRecipe, units: int, labels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(units, recipe.embedding)
        self.net = Lstm(
            recipe.embedding, recipe.hidden, window=recipe.window, input_gate=recipe.input_gate,
            batch_first=True, bidirectional=True,
        )  # fmt: skip
        self.dropout = nn.Dropout(recipe.dropout)
        self.head = nn.Linear(4 * recipe.hidden, labels)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (rows, labels) of ids (rows, K)."""
        values, _ = self.net(self.dropout(self.embedding(ids)), lengths=lengths)
        steps = torch.arange(ids.shape[1], device=ids.device)
        past = (steps >= lengths.unsqueeze(1)).unsqueeze(2)
        most = values.masked_fill(past, -torch.inf).amax(1)
        mean = values.sum(1) / lengths.unsqueeze(1)
        scores: Tensor = self.head(self.dropout(torch.cat([most, mean], 1)))
        return scores


class Trained(NamedTuple):
    """A classifier and how it came to be."""

    classifier: Classifier
    encode: Callable[[Sequence[Fields]], list[list[int]]]
    labels: tuple[str, ...]
    curve: list[tuple[int, float, float]]  # epoch, train loss, validation accuracy
    facts: dict[str, Any]


def train_classifier(
    items: Sequence[Fields],
    targets: Sequence[str],
    labels: Sequence[str],
    recipe: TextRecipe,
    seed: int = 0,
    on_epoch: Callable[[int, float, float], None] = lambda *_: None,
) -> Trained:
    """Train on items, keep the epoch that is best on a part held back.

    Raises DataRefused for targets that are no label or too few items, TrainingDiverged.
    """
    _check(items, targets, labels)
    torch.manual_seed(seed)
    units: Units = Bytes()
    if recipe.units == "subwords":
        units = Subwords([field for one in items for field in one], recipe.vocabulary)

    def encode(of: Sequence[Fields]) -> list[list[int]]:
        return [_ids(one, units, recipe) for one in of]

    order = torch.randperm(len(items)).tolist()
    held = max(1, int(len(items) * recipe.validation_share))
    ids, known = encode(items), [labels.index(one) for one in targets]
    training, validation = order[held:], order[:held]
    made = Classifier(recipe, units.size(), len(labels))
    optimiser = torch.optim.Adam(made.parameters(), recipe.learning_rate)
    curve: list[tuple[int, float, float]] = []
    best, kept, begun = -1.0, {}, time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        share = (epoch - 1) / recipe.epochs
        optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 + math.cos(math.pi * share)) / 2
        loss = _epoch(made, optimiser, ids, known, training, recipe)
        said = predict(made, [ids[n] for n in validation])
        right = sum(a == known[n] for a, n in zip(said, validation, strict=True)) / held
        curve.append((epoch, loss, right))
        on_epoch(*curve[-1])
        if right >= best:  # of equals the later, which has seen more
            best, kept = right, {k: v.clone() for k, v in made.state_dict().items()}
    made.load_state_dict(kept)
    facts = {"parameters": count(made), "seconds": time.monotonic() - begun, "validation": best}
    return Trained(made, encode, tuple(labels), curve, facts)


@torch.no_grad()
def predict(made: Classifier, ids: Sequence[list[int]], rows: int = 64) -> list[int]:
    """The number of the label of each item."""
    made.eval()
    by_length = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    found = [0] * len(ids)
    for first in range(0, len(ids), rows):
        batch = by_length[first : first + rows]
        said = made(*_padded([ids[n] for n in batch], made.net.window)).argmax(1).tolist()
        for n, one in zip(batch, said, strict=True):
            found[n] = one
    return found


def _epoch(
    made: Classifier, optimiser: torch.optim.Optimizer, ids: Sequence[list[int]],
    known: Sequence[int], training: Sequence[int], recipe: TextRecipe,
) -> float:  # fmt: skip
    made.train()
    losses = []
    for batch in _batches(ids, training, recipe.rows):
        scores = made(*_padded([ids[n] for n in batch], recipe.window))
        loss = nn.functional.cross_entropy(scores, torch.tensor([known[n] for n in batch]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(made.parameters(), recipe.clip_norm)
        if not bool(torch.isfinite(loss + norm)):
            raise TrainingDiverged(
                f"the loss is {float(loss.detach())}, its gradient {float(norm)}; lower "
                f"learning_rate ({recipe.learning_rate})"
            )
        optimiser.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def _batches(ids: Sequence[list[int]], chosen: Sequence[int], rows: int) -> list[list[int]]:
    """Batches of items of like length, so that little is padded, in random order."""
    shuffled = [chosen[n] for n in torch.randperm(len(chosen)).tolist()]
    pools = [shuffled[n : n + 20 * rows] for n in range(0, len(shuffled), 20 * rows)]
    batches = []
    for pool in pools:
        near = sorted(pool, key=lambda n: len(ids[n]))
        batches += [near[n : n + rows] for n in range(0, len(near), rows)]
    return [batches[n] for n in torch.randperm(len(batches)).tolist()]


def _padded(ids: Sequence[list[int]], window: int) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([max(len(one), window) for one in ids])
    padded = torch.full((len(ids), int(lengths.max())), MARK)
    for n, one in enumerate(ids):
        padded[n, : len(one)] = torch.tensor(one)
    return padded, lengths


def _ids(fields: Fields, units: Units, recipe: TextRecipe) -> list[int]:
    found: list[int] = []
    for n, field in enumerate(fields):
        found += ([MARK] if n else []) + units.ids(field)[: recipe.most_units]
    return found or [MARK]


def _check(items: Sequence[Fields], targets: Sequence[str], labels: Sequence[str]) -> None:
    if len(labels) < 2:
        raise DataRefused("a classifier needs a task with at least two labels")
    if len(items) < 10:
        raise DataRefused(f"{len(items)} train rows are too few for a classifier; give at least 10")
    unknown = sorted({one for one in targets if one not in labels})
    if unknown:
        raise DataRefused(
            f"train rows have the target '{unknown[0]}', which is no label; possible: "
            + ", ".join(f"'{one}'" for one in labels)
        )
