"""Slots over the linear layers of one model: adapters are written in, bound to rows, trained.

A layer is replaced when an adapter first targets it, and its stacks grow with the ranks that come.
Knows nothing of requests, versions or files. Not thread-safe: nothing is written during a pass.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from loraland.errors import AdapterRejected
from loraland.lora.dropout import Span
from loraland.lora.factors import Layout, ServedFactors, TrainedFactors, width_of
from loraland.lora.layer import Binding, MultiLoraLinear
from loraland.lora.rows import BASE, Rows
from loraland.lora.weights import AdapterWeights, LoraPair, linears_of, peft_name

_Factors = ServedFactors | TrainedFactors


class LoraBank:
    """The adapters of one model, in slots 1 to `slots`; slot 0 is the base."""

    def __init__(
        self,
        model: nn.Module,
        *,
        slots: int,
        max_rank: int,
        trainable: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        """A bank without adapters; the model is as it was until the first is written.

        `dtype` is that of the adapters' products: fp32 by default, or the model's own half
        precision when it is served on a GPU. Raises ValueError for a model that has a bank already.
        """
        if slots < 1 or max_rank < 1:
            raise ValueError(f"a bank needs a slot and a rank, got {slots} and {max_rank}")
        if any(isinstance(module, MultiLoraLinear) for module in model.modules()):
            raise ValueError("this model has a bank already; detach that one first")
        self._model, self.slots, self.max_rank = model, slots, max_rank
        self.trainable = trainable
        self._device, self._dtype = _place(model, trainable, dtype)
        self._linears = linears_of(model)
        self._head = _head_of(model)
        self._layers: dict[str, MultiLoraLinear] = {}
        self._factors: dict[str, _Factors] = {}  # of the same layers
        self._held: dict[int, int] = {}  # slot -> bytes of its adapter
        self._layouts: WeakValueDictionary[tuple[tuple[int, ...], int], Layout] = (
            WeakValueDictionary()
        )
        self._binding = Binding()
        self.epoch = 0  # grows when a layer or its stacks are replaced: a graph must follow

    # What is in the slots

    def write(self, slot: int, weights: AdapterWeights) -> None:
        """Replace what a slot holds, whole or not at all.

        Layers that the newcomer does not target are cleared in this slot. Raises AdapterRejected
        when the adapter does not fit the model or the bank's rank, ValueError for a slot that does
        not exist; the bank is then as it was, as it is when memory runs out.
        """
        self._check_slot(slot)
        self._check_fit(weights)
        with torch.inference_mode(False), torch.no_grad():
            # Everything that may fail comes first.
            rooms = {path: self._room(path, pair) for path, pair in weights.modules.items()}
            writes = [
                rooms[path].prepare(slot, pair, self._after(rooms[path], slot, pair.a.shape[0]))
                for path, pair in weights.modules.items()
            ]
            for path, factors in rooms.items():
                self._install(path, factors)
            self._empty(slot, but=rooms)
            for write in writes:
                write()
        itemsize = self._dtype.itemsize
        self._held[slot] = itemsize * sum(
            pair.a.numel() + pair.b.numel() for pair in weights.modules.values()
        )

    def clear(self, slot: int) -> None:
        """Empty a slot; its memory stays for the next. Raises ValueError for an unknown slot."""
        self._check_slot(slot)
        with torch.inference_mode(False), torch.no_grad():
            self._empty(slot)
        self._held.pop(slot, None)

    def detach(self) -> None:
        """Give the model its own layers back; all slots are empty afterwards."""
        for path, layer in self._layers.items():
            self._model.set_submodule(path, layer.base)
        self.bind(None)
        self._layers.clear()
        self._factors.clear()
        self._held.clear()
        self.epoch += 1

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The model with its own layers inside the block, with the bank's again after it.

        For what must see a plain model, such as PEFT. All slots keep what they hold.
        """
        for path, layer in self._layers.items():
            self._model.set_submodule(path, layer.base)
        try:
            yield
        finally:
            for path, layer in self._layers.items():
                self._model.set_submodule(path, layer)

    # Which rows the next passes have

    def bind(
        self,
        rows: Rows | None,
        head: Rows | None = None,
        *,
        dropout: Sequence[Span] = (),
        head_dropout: Sequence[Span] = (),
    ) -> None:
        """Set the rows of the next forward passes; None makes all of them base.

        `head` are those of the lm_head's input where it gets a part of the tokens; `rows` without
        it. `dropout` says which tokens have inputs dropped while a trainable bank's model is in
        training mode, `head_dropout` the same of `head`. Raises ValueError when a row uses a slot
        that is empty or does not exist: it would silently get the base's answer.
        """
        for given in (rows, head):
            self.check_held((given.present if given else None) or ())
        binding = self._binding
        head = rows if head is None else head
        # Equal rows again, as in decoding: keep those for which everything is prepared.
        binding.rows = _same(binding.rows, rows)
        binding.head = binding.rows if head is rows else _same(binding.head, head)
        binding.dropout, binding.head_dropout = dropout, head_dropout

    def check_held(self, slots: Iterable[int]) -> None:
        """Raises ValueError when one of the slots is neither the base's nor an adapter's.

        For rows whose slots only the device knows, which `bind` cannot look at.
        """
        empty = set(slots) - self._held.keys() - {BASE}
        if empty:
            raise ValueError(f"rows use slots {sorted(empty)}, which hold no adapter")

    # Training

    def parameters_of(self, slot: int) -> list[nn.Parameter]:
        """The parameters of one adapter, for an optimiser of its own. Needs `trainable`."""
        return [side for pair in self._pairs_of(slot).values() for side in _parameters(pair)]

    def named_parameters_of(self, slot: int) -> dict[str, nn.Parameter]:
        """The same by the names in PEFT's files. Needs `trainable`."""
        return {
            peft_name(path, side): value
            for path, pair in sorted(self._pairs_of(slot).items())
            for side, value in zip("AB", _parameters(pair), strict=True)
        }

    def state_dict_of(self, slot: int) -> dict[str, Tensor]:
        """A copy of one adapter's matrices under the names in PEFT's files. Needs `trainable`."""
        return {
            name: value.detach().clone() for name, value in self.named_parameters_of(slot).items()
        }

    # Figures

    @property
    def size_bytes(self) -> int:
        """Memory of all stacks, empty slots included."""
        return sum(factors.size_bytes for factors in self._factors.values())

    def slot_bytes(self, slot: int) -> int:
        """Bytes of the adapter in a slot as the bank holds it, without padding; 0 when empty."""
        self._check_slot(slot)
        return self._held.get(slot, 0)

    @property
    def stats(self) -> dict[str, int]:
        """How often each operation was run, once for each layer and pass."""
        return dict(self._binding.stats)

    # Inside

    def _check_slot(self, slot: int) -> None:
        if not BASE < slot <= self.slots:
            raise ValueError(f"slot {slot} does not exist; adapters go into 1 to {self.slots}")

    def _check_fit(self, weights: AdapterWeights) -> None:
        if weights.rank > self.max_rank:
            raise AdapterRejected(
                f"the adapter has rank {weights.rank}, this bank accepts at most {self.max_rank}; "
                "raise max_rank or retrain"
            )
        unfit = [
            f"{path} is {pair.a.shape[1]} -> {pair.b.shape[0]}, the model's is "
            + " -> ".join(map(str, self._linears.get(path, ("absent",))))
            for path, pair in weights.modules.items()
            if self._linears.get(path) != (pair.a.shape[1], pair.b.shape[0])
        ]
        if unfit:
            raise AdapterRejected(f"the adapter does not fit this model: {'; '.join(unfit[:5])}")

    def _room(self, path: str, pair: LoraPair) -> _Factors:
        """Factors of a layer that can take this rank: those it has, or new ones beside them."""
        rank, factors = pair.a.shape[0], self._factors.get(path)
        width = width_of(rank, self.max_rank)
        if factors is None:
            layout = self._layout((0,) * (self.slots + 1), width)
            kind = TrainedFactors if self.trainable else ServedFactors.empty
            return kind(self._linears[path], layout, self._device, self._dtype)
        if isinstance(factors, ServedFactors) and width > factors.layout.width:
            return factors.widened(self._layout(factors.layout.ranks, width))
        return factors

    def _install(self, path: str, factors: _Factors) -> None:
        if self._factors.get(path) is factors:
            return
        self._factors[path] = factors
        self.epoch += 1
        if path in self._layers:
            self._layers[path].factors = factors
            return
        base = self._model.get_submodule(path)
        is_head = path == self._head
        layer = MultiLoraLinear(base, factors, self._binding, self._dtype, path, is_head)
        layer.train(base.training)
        self._model.set_submodule(path, layer)
        self._layers[path] = layer

    def _empty(self, slot: int, but: Container[str] = ()) -> None:
        for path, factors in self._factors.items():
            if path not in but and factors.layout.ranks[slot]:
                factors.clear(slot, self._after(factors, slot, 0))

    def _after(self, factors: _Factors, slot: int, rank: int) -> Layout:
        """The layout of a layer once a slot has this rank there."""
        ranks, width = list(factors.layout.ranks), factors.layout.width
        ranks[slot] = rank
        if self.trainable:  # stacked anew in each pass, as wide as need be
            width = width_of(max(1, *ranks), self.max_rank)
        return self._layout(tuple(ranks), width)

    def _layout(self, ranks: tuple[int, ...], width: int) -> Layout:
        layout = self._layouts.get((ranks, width))
        if layout is None:
            layout = self._layouts[ranks, width] = Layout(ranks, width)
        return layout

    def _pairs_of(self, slot: int) -> Mapping[str, LoraPair]:
        self._check_slot(slot)
        if not self.trainable:
            raise ValueError("this bank serves; make one with trainable=True to train")
        if slot not in self._held:
            raise ValueError(f"slot {slot} holds no adapter")
        return {
            path: factors.slots[slot]
            for path, factors in self._factors.items()
            if isinstance(factors, TrainedFactors) and slot in factors.slots
        }


def _parameters(pair: LoraPair) -> Iterable[nn.Parameter]:
    return (side for side in (pair.a, pair.b) if isinstance(side, nn.Parameter))


def _same(before: Rows | None, now: Rows | None) -> Rows | None:
    return before if before is not None and now is not None and before.key == now.key else now


def _place(
    model: nn.Module, trainable: bool, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Where adapters live and what they are computed in."""
    weight = next(p for p in model.parameters() if p.is_floating_point())
    half = weight.dtype in (torch.bfloat16, torch.float16)
    served_half = half and weight.device.type != "cpu" and not trainable
    return weight.device, dtype or (weight.dtype if served_half else torch.float32)


def _head_of(model: nn.Module) -> str | None:
    """The path of the layer that makes logits, or None when the model names none."""
    output = getattr(model, "get_output_embeddings", lambda: None)()
    return next((path for path, module in model.named_modules() if module is output), None)
