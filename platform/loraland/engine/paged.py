"""The paged KV cache, and attention over it, behind transformers' attention interface.

The tokens of many rows are packed into one sequence of a forward pass; the linear layers see no
rows at all. Here each row attends to its own blocks only: in plain torch, but where a kernel serves
rows that generate, on a GPU. Knows blocks and lengths; nothing of requests or adapters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from loraland.engine.attention import Call, attention, attention_by_products
from loraland.engine.kernel_choice import Heads
from loraland.engine.kernels import PagedAttention, kernel_for
from loraland.engine.seats import Seat, Seats
from loraland.engine.spans import FixedPass, Pass, Span
from loraland.errors import BaseUnavailable

NAME = "loraland_paged"  # among transformers' attention functions


class PagedKv:
    """Keys and values of all layers of one model, in blocks.

    A tensor per layer, (2, key-value heads, blocks, block size, head size): with the heads outside,
    the gathered blocks of a row lie in one piece for each head. On a CPU, rows that generate have a
    second copy in a seat: (2, seats, key-value heads, seat size, head size) for each size.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: int,
        block_size: int,
        seat_tokens: int = 0,
        kernel: PagedAttention | None = None,
    ) -> None:
        """Makes the model attend through this cache until `detach`.

        `seat_tokens` bounds the second copies; only a CPU has them. `kernel` attends for rows that
        generate; by default the best that works on the model's GPU. Raises BaseUnavailable for a
        model whose attention does not fit in blocks.
        """
        self.block_size = block_size
        self.device, self.dtype = model.device, model.get_input_embeddings().weight.dtype
        self._layers = _attention_layers(model)
        self._model, self._before = model, model.config._attn_implementation
        heads = [_heads(module) for module in self._layers]
        self.kernel = kernel or kernel_for(heads, block_size, self.device, self.dtype)
        self.scratch = blocks  # a block more, which nobody reads: where padding rows write
        self.stats: Counter[str] = Counter()  # passes in which a kernel attended, by its name
        self._current: Pass | FixedPass | None = None
        self._left = 0  # layers of the present pass that have not attended yet
        self._scratch = torch.empty(0, device=self.device, dtype=self.dtype)
        self._pools: dict[int, Tensor] = {}
        seated = self.device.type == "cpu" and self.kernel is None
        self._seats = Seats(seat_tokens if seated else 0)
        self._seated: dict[int, dict[int, Tensor]] = {}  # by layer, and by size of seat
        for module in self._layers:
            held = blocks + (self.kernel is not None)
            shape = (2, _heads(module).kv, held, block_size, module.head_dim)
            self._pools[module.layer_idx] = torch.zeros(shape, device=self.device, dtype=self.dtype)
            self._seated[module.layer_idx] = {}
            module.__dict__["paged_kv"] = self  # not a submodule
        model.set_attn_implementation(NAME)

    @property
    def size_bytes(self) -> int:
        """Of all blocks and seats."""
        seated = [tensor for sizes in self._seated.values() for tensor in sizes.values()]
        held = [*self._pools.values(), *seated]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def begin(self, spans: Sequence[Span]) -> list[int]:
        """Say what the next forward pass holds; returns the order in which to pack the spans."""
        if self._left:
            self._seats.forget()  # a pass was broken off, and not all layers know its tokens
        rows = [i for i, s in enumerate(spans) if not s.is_prompt and s.row is not None]
        seats: list[Seat | None] = [None] * len(spans)
        fresh: list[tuple[Span, Seat]] = []
        if any(span.blocks for span in spans):  # else it is a probe between two passes
            seating = self._seats.take([(spans[i].row, spans[i].start) for i in rows])
            for i, seat, is_fresh in zip(rows, *seating, strict=True):
                seats[i] = seat
                if seat and is_fresh:
                    fresh.append((spans[i], seat))
        now = Pass(spans, seats, self.block_size, self.device, self.dtype, self.kernel is not None)
        self._fill(now, fresh, Counter(seat.size for seat in seats if seat))
        if self.kernel is not None and now.singles is not None:
            self.kernel.plan(now.singles)
            self.stats[self.kernel.name] += 1
        self._current, self._left = now, len(self._layers)
        return now.order

    def plan_fixed(self, now: FixedPass) -> None:
        """Say what a pass over fixed tensors holds, before it is captured or replayed."""
        assert self.kernel is not None
        self.kernel.plan(now.singles, fixed=True)
        self.stats[self.kernel.name] += 1

    def begin_fixed(self, now: FixedPass) -> None:
        """The next forward pass is this one, which is planned already; no tensor is touched."""
        self._current, self._left = now, len(self._layers)

    @torch.inference_mode()
    def _fill(
        self, now: Pass, fresh: Sequence[tuple[Span, Seat]], taken: Mapping[int, int]
    ) -> None:
        """Copy the blocks of rows into their seats; `taken` counts those of each size."""
        for size in sorted({seat.size for _, seat in fresh}):
            rows = [pair for pair in fresh if pair[1].size == size]
            table = now.table([span for span, _ in rows], size)
            places = torch.tensor([seat.place for _, seat in rows], device=self.device)
            for layer, pool in self._pools.items():
                held = self._gather(pool, table, len(rows))[:, :, :, :size]
                seated = self._of_size(layer, size, taken)
                seated.index_copy_(1, places, held.transpose(1, 2))

    def _of_size(self, layer: int, size: int, taken: Mapping[int, int]) -> Tensor:
        """The seats of one size in a layer, at least as many as are taken."""
        held = self._seated[layer].get(size)
        if held is None or held.shape[1] < taken[size]:
            self._seated[layer] = {
                each: self._resized(layer, each, self._seats.capacity(count))
                for each, count in taken.items()
            }
            held = self._seated[layer][size]
        return held

    def _resized(self, layer: int, size: int, seats: int) -> Tensor:
        """So many seats of one size, with what lies in them; others let go of their memory."""
        pool, held = self._pools[layer], self._seated[layer].get(size)
        if held is not None and held.shape[1] == seats:
            return held
        made = pool.new_empty((2, seats, pool.shape[1], size, pool.shape[4]))
        if held is not None:
            kept = min(seats, held.shape[1])
            made[:, :kept] = held[:, :kept]
        return made

    def clean(self, blocks: Sequence[int]) -> None:
        """Overwrite blocks with zeros: a masked NaN is still a NaN to whoever gets them next."""
        index = torch.tensor(blocks, device=self.device)
        for pool in self._pools.values():
            pool.index_fill_(2, index, 0)

    def detach(self) -> None:
        """Give the model its own attention back, and the memory of the blocks free."""
        for module in self._layers:
            module.__dict__.pop("paged_kv", None)
        self._model.set_attn_implementation(self._before)
        self._pools.clear()
        self._seated.clear()
        self._scratch = torch.empty(0)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """Write keys and values of the pass's tokens, and attend.

        query (heads, tokens, size); key, value (kv heads, tokens, size), already rotated. Returns
        (tokens, heads, size).
        """
        now, pool = self._current, self._pools[call.layer]
        if now is None or now.tokens != query.shape[1]:
            raise RuntimeError("a forward pass that was not announced with `begin`")
        if now.places is not None:
            flat = pool.flatten(2, 3)  # a view
            flat[0].index_copy_(1, now.places, key)
            flat[1].index_copy_(1, now.places, value)
        singles: Tensor | None = None
        if now.singles is not None:
            assert self.kernel is not None
            alone = query[:, now.singles.part].transpose(0, 1)
            singles = self.kernel.run(alone, pool, call)
            if not now.prompts:
                self._left -= 1
                return singles
        # (kv heads, heads per kv head, tokens, size)
        shared = query.view(len(key), -1, *query.shape[1:])
        out = query.new_empty(query.shape[1], *shared.shape[:2], query.shape[2])
        if now.singles is not None and singles is not None:
            out[now.singles.part] = singles.view(-1, *out.shape[1:])
        for which, prompt in enumerate(now.prompts):
            part = prompt.part
            out[part] = self._prompt(which, shared[:, :, part], key[:, part], value[:, part], call)
        for which, group in enumerate(now.groups):
            part = group.part
            if group.table is None:
                seated = self._seated[call.layer][group.seat_size][:, : len(group.lengths)]
                rows = torch.arange(len(group.lengths), device=self.device)
                last = group.lengths - 1
                seated[0][rows, :, last] = key[:, part].transpose(0, 1)
                seated[1][rows, :, last] = value[:, part].transpose(0, 1)
                held = seated[:, :, :, : group.width]
            else:
                held = self._gather(pool, group.table, len(group.lengths)).transpose(1, 2)
            out[part] = self._singles(which, shared[:, :, part], held, call)
        self._left -= 1
        return out.flatten(1, 2)

    def _prompt(self, which: int, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        """query (kv heads, per kv head, tokens, size) -> (tokens, kv heads, per kv head, size)."""
        assert isinstance(self._current, Pass)
        table = self._current.prompts[which].table
        if table is not None:
            key, value = self._pools[call.layer].index_select(2, table).flatten(2, 3)
        plain = table is None and (call.window is None or key.shape[1] <= call.window)
        mask = None if plain else self._current.prompt_mask(which, call.window)
        return attention(query, key[:, None], value[:, None], mask, call).permute(2, 0, 1, 3)

    def _singles(self, which: int, query: Tensor, held: Tensor, call: Call) -> Tensor:
        """One token of each row: query (kv heads, per kv head, rows, size), held (2, rows, kv
        heads, width, size). Returns (rows, kv heads, per kv head, size).
        """
        assert isinstance(self._current, Pass)
        if self.device.type != "cpu" or self.dtype is not torch.float32 or call.softcap is not None:
            mask = self._current.group_mask(which, call.window)
            keys, values = held
            return attention(query.permute(2, 0, 1, 3), keys, values, mask, call)
        # Rows and heads become one axis, in the order in which they lie in memory.
        seated = self._current.groups[which].table is None
        if not seated:
            held = held.transpose(1, 2)
        order = (2, 0, 1, 3) if seated else (0, 2, 1, 3)
        batch = query.permute(order)
        hidden = self._current.mask_of_heads(which, call.window, len(query))
        keys, values = held.flatten(1, 2)
        got = attention_by_products(batch.flatten(0, 1), keys, values, hidden, call.scaling)
        got = got.view(batch.shape)
        return got if seated else got.transpose(0, 1)

    def _gather(self, pool: Tensor, table: Tensor, rows: int) -> Tensor:
        """(2, kv heads, rows, tokens of blocks, head size), in memory that the next call reuses.

        Layer after layer it is warm in the caches; fresh memory costs a quarter more.
        """
        shape = (*pool.shape[:2], len(table), *pool.shape[3:])
        if self._scratch.numel() < math.prod(shape):
            self._scratch = pool.new_empty(math.prod(shape))
        held = self._scratch[: math.prod(shape)].view(shape)
        torch.index_select(pool, 2, table, out=held)
        return held.view(*pool.shape[:2], rows, -1, pool.shape[4])


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: query (1, heads, tokens, size), key, value (1, kv heads, ...)."""
    if attention_mask is not None or others.get("s_aux") is not None:
        raise RuntimeError("attention over blocks takes no mask of its own and no sinks")
    held: Any = module
    call = Call(
        held.layer_idx,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        sliding_window,
        softcap,
    )
    return held.paged_kv.attend(query[0], key[0], value[0], call)[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are ours to make, from the blocks."""


AttentionInterface.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _no_mask)


def _attention_layers(model: PreTrainedModel) -> list[Any]:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    found = [m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "head_dim")]
    if (
        kinds - {"full_attention", "sliding_attention"}
        or not model._supports_attention_backend
        or sorted(m.layer_idx for m in found) != list(range(config.num_hidden_layers))
    ):
        raise BaseUnavailable(
            f"the layers of '{config.model_type}' cannot attend over blocks "
            f"({', '.join(sorted(kinds))}); serve this base with engine: reference"
        )
    return found


def _heads(module: Any) -> Heads:
    query = module.config.num_attention_heads
    kv = getattr(module.config, "num_key_value_heads", None) or query
    return Heads(int(query), int(kv), int(module.head_dim))
