"""The paged KV cache, and attention over it, behind transformers' attention interface.

The tokens of many rows are packed into one sequence of a forward pass; the linear layers see no
rows at all. Here each row attends to its own blocks only. Plain torch, on a CPU and on a GPU.
Knows blocks and lengths; nothing of requests or adapters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from loraland.errors import BaseUnavailable

NAME = "loraland_paged"  # among transformers' attention functions
PADDING = 1.5  # rows are attended to together while padding adds at most half; not yet tuned


class Span(NamedTuple):
    """The tokens of one row in a pass."""

    start: int  # position of the first one
    size: int  # tokens of this pass
    blocks: Sequence[int]  # all of the row, in order; none: nothing is kept of it

    @property
    def is_prompt(self) -> bool:
        """Whether it is attended to by itself, and not together with other single tokens."""
        return self.size > 1 or self.start == 0


class _Prompt(NamedTuple):
    """A span of several tokens, or one that starts a row."""

    part: slice  # of the pass
    start: int
    table: Tensor | None  # (blocks so far,); None when nothing was before


class _Group(NamedTuple):
    """Rows of one token each whose lengths are similar; they are attended to together."""

    part: slice  # of the pass
    table: Tensor  # (rows * most blocks,)
    lengths: Tensor  # (rows,), with the token of this pass
    width: int  # tokens in the most blocks


def packing_order(spans: Sequence[Span]) -> list[int]:
    """The order of spans in a pass: prompts, then single tokens by length."""
    return sorted(range(len(spans)), key=lambda i: (not spans[i].is_prompt, spans[i].start, i))


class Pass:
    """Where the tokens of one forward pass go, and what they attend to; made once per pass."""

    def __init__(
        self, spans: Sequence[Span], block_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        """`spans` in packing order."""
        self._device, self._dtype, self._block = device, dtype, block_size
        self.prompts: list[_Prompt] = []
        places: list[int] = []
        singles: list[Span] = []
        first = 0
        for span in spans:
            if span.is_prompt:
                self.prompts.append(self._prompt(first, span))
            else:
                singles.append(span)
            places += _places(span, block_size)
            first += span.size
        self.tokens = first
        # (tokens,), block * size + offset; a pass of which nothing is kept has none.
        self.places = torch.tensor(places, device=device) if places else None
        self.groups = self._groups(singles, self.tokens - len(singles))
        self._masks: dict[tuple[str, int, int | None], Tensor] = {}

    def _prompt(self, first: int, span: Span) -> _Prompt:
        part = slice(first, first + span.size)
        if span.start == 0:
            return _Prompt(part, 0, None)
        held = span.blocks[: -(-(span.start + span.size) // self._block)]
        return _Prompt(part, span.start, torch.tensor(held, device=self._device))

    def _groups(self, singles: Sequence[Span], first: int) -> list[_Group]:
        """Cut where padding would cost more than attending together saves."""
        groups: list[list[Span]] = []
        held = 0  # tokens that the rows of the last group hold
        for span in singles:
            length = span.start + 1
            if groups and (len(groups[-1]) + 1) * length <= PADDING * (held + length):
                groups[-1].append(span)
                held += length
            else:
                groups.append([span])
                held = length
        found = []
        for group in groups:
            found.append(self._group(group, first))
            first += len(group)
        return found

    def _group(self, group: Sequence[Span], first: int) -> _Group:
        most = -(-(group[-1].start + 1) // self._block)
        index: list[int] = []
        for span in group:
            held = list(span.blocks[:most])
            index += held + held[:1] * (most - len(held))  # padding is the row's own, and masked
        return _Group(
            slice(first, first + len(group)),
            torch.tensor(index, device=self._device),
            torch.tensor([span.start + 1 for span in group], device=self._device),
            most * self._block,
        )

    def prompt_mask(self, which: int, window: int | None) -> Tensor:
        """(1, 1, size, keys): added to the scores of a prompt's tokens."""
        key = ("prompt", which, window)
        if key not in self._masks:
            part, start, table = self.prompts[which]
            size = part.stop - part.start
            keys = size if table is None else len(table) * self._block
            queries = torch.arange(start, start + size, device=self._device)
            self._masks[key] = self._hidden(queries, keys, window)[None, None]
        return self._masks[key]

    def group_mask(self, which: int, window: int | None) -> Tensor:
        """(rows, 1, 1, keys): added to the scores of single tokens."""
        key = ("group", which, window)
        if key not in self._masks:
            group = self.groups[which]
            self._masks[key] = self._hidden(group.lengths - 1, group.width, window)[:, None, None]
        return self._masks[key]

    def _hidden(self, queries: Tensor, keys: int, window: int | None) -> Tensor:
        """(queries, keys): -inf where a key is later than the query, or before its window."""
        distance = queries[:, None] - torch.arange(keys, device=self._device)[None]
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(hidden, -math.inf)


def _places(span: Span, block_size: int) -> list[int]:
    if not span.blocks:
        return []
    return [
        span.blocks[position // block_size] * block_size + position % block_size
        for position in range(span.start, span.start + span.size)
    ]


class PagedKv:
    """Keys and values of all layers of one model, in blocks.

    A tensor per layer, (2, key-value heads, blocks, block size, head size): with the heads outside,
    the gathered blocks of a row lie in one piece for each head.
    """

    def __init__(self, model: PreTrainedModel, blocks: int, block_size: int) -> None:
        """Makes the model attend through this cache until `detach`.

        Raises BaseUnavailable for a model whose attention does not fit in blocks.
        """
        self.block_size = block_size
        self.device, self.dtype = model.device, model.get_input_embeddings().weight.dtype
        self._layers = _attention_layers(model)
        self._model, self._before = model, model.config._attn_implementation
        self._current: Pass | None = None
        self._scratch = torch.empty(0, device=self.device, dtype=self.dtype)
        self._pools: dict[int, Tensor] = {}
        for module in self._layers:
            shape = (2, _kv_heads(module), blocks, block_size, module.head_dim)
            self._pools[module.layer_idx] = torch.zeros(shape, device=self.device, dtype=self.dtype)
            module.__dict__["paged_kv"] = self  # not a submodule
        model.set_attn_implementation(NAME)

    @property
    def size_bytes(self) -> int:
        """Of all blocks."""
        return sum(pool.numel() * pool.element_size() for pool in self._pools.values())

    def begin(self, spans: Sequence[Span]) -> None:
        """Say what the next forward pass holds; `spans` in packing order."""
        self._current = Pass(spans, self.block_size, self.device, self.dtype)

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
        kv_heads, tokens, size = key.shape
        shared = query.view(
            kv_heads, -1, tokens, size
        )  # (kv heads, heads per kv head, tokens, size)
        out = query.new_empty(tokens, query.shape[0], size)
        for which, (part, _, table) in enumerate(now.prompts):
            if table is None:
                keys, values = key[:, part], value[:, part]
            else:
                keys, values = pool.index_select(2, table).flatten(2, 3)
            plain = table is None and (call.window is None or keys.shape[1] <= call.window)
            mask = None if plain else now.prompt_mask(which, call.window)
            got = _attention(shared[:, :, part], keys[:, None], values[:, None], mask, call)
            out[part] = got.flatten(0, 1).transpose(0, 1)
        for which, (part, table, lengths, width) in enumerate(now.groups):
            held = self._gather(pool, table).view(2, kv_heads, len(lengths), width, size)
            mask = now.group_mask(which, call.window)
            attend = _singles_by_products if self._by_products(call) else _singles
            out[part] = attend(shared[:, :, part], held, mask, call)
        return out

    def _gather(self, pool: Tensor, table: Tensor) -> Tensor:
        """(2, kv heads, len(table), block size, head size), in memory that the next call reuses.

        Layer after layer it is warm in the caches; fresh memory costs a quarter more.
        """
        shape = (*pool.shape[:2], len(table), *pool.shape[3:])
        if self._scratch.numel() < math.prod(shape):
            self._scratch = pool.new_empty(math.prod(shape))
        held = self._scratch[: math.prod(shape)].view(shape)
        return torch.index_select(pool, 2, table, out=held)

    def _by_products(self, call: Call) -> bool:
        return self.device.type == "cpu" and self.dtype is torch.float32 and call.softcap is None


class Call(NamedTuple):
    """What a layer asks of attention beside its tensors."""

    layer: int
    scaling: float
    window: int | None  # keys that a query sees, itself included; None is all
    softcap: float | None  # scores go through softcap * tanh(score / softcap)


def _singles(queries: Tensor, held: Tensor, mask: Tensor, call: Call) -> Tensor:
    """One token of each row: queries (kv heads, per kv head, rows, size), held (2, kv heads, rows,
    width, size), mask (rows, 1, 1, width). Returns (rows, heads, size).
    """
    keys, values = held.transpose(1, 2)  # (rows, kv heads, width, size)
    return _attention(queries.permute(2, 0, 1, 3), keys, values, mask, call).flatten(1, 2)


def _singles_by_products(queries: Tensor, held: Tensor, mask: Tensor, call: Call) -> Tensor:
    """The same by two batched products, in which a CPU beats its fused attention by a third."""
    kv_heads, group, rows, size = queries.shape
    keys, values = held.flatten(1, 2)  # (kv heads * rows, width, size), views
    scaled = (queries * call.scaling).transpose(1, 2).reshape(kv_heads * rows, group, size)
    hidden = mask[:, 0].repeat(kv_heads, 1, 1)  # (kv heads * rows, 1, width)
    scores = torch.baddbmm(hidden, scaled, keys.transpose(1, 2))
    got = torch.bmm(scores.softmax(-1), values)  # (kv heads * rows, per kv head, size)
    return got.view(kv_heads, rows, group, size).transpose(0, 1).flatten(1, 2)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, call: Call
) -> Tensor:
    """(batch, heads, queries, size); `mask` None means causal, queries and keys aligned."""
    shape = (-1, query.shape[1], -1, -1)
    key, value = key.expand(shape), value.expand(shape)
    if call.softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=call.scaling
        )
    scores = query @ key.transpose(2, 3) * call.scaling
    scores = call.softcap * torch.tanh(scores / call.softcap)
    if mask is None:
        later = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    else:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


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


def _kv_heads(module: Any) -> int:
    config = module.config
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
