"""Compiles every Triton kernel, and prints what came out as JSON.

For each dtype on sm_80, for bf16 on sm_90, all features switched on; and with all of them switched
off once. Run by `test_triton_compiles`.
"""

from __future__ import annotations

import json

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from loraland.engine import triton_attention
from loraland.lora import triton_ops

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIZES = (64, 80, 128, 256)  # of a head
GPUS = {80: tuple(DTYPES), 90: ("bf16",)}  # by capability


def _source(kernel, types, constants):
    """Arguments whose type is not named are constants; pointers are aligned."""
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    assert set(constants) == {name for name, of in signature.items() if of == "constexpr"}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, of in enumerate(signature.values())
        if of.startswith("*")
    }
    return ASTSource(kernel, signature, constants, aligned)


def _attention(name, size, splits=8, features=True):
    columns = max(triton_attention.FEWEST, triton.next_power_of_2(size))
    tile = triton_attention.tile_of(columns * DTYPES[name].itemsize)
    tensors = dict.fromkeys(("query", "keys", "values", "out"), f"*{name}")
    sums = dict.fromkeys(("parts", "peaks", "sums"), "*fp32")
    numbers = dict.fromkeys(("query_row", "query_head", "width", "window"), "i32")
    numbers |= {"pool_head": "i64", "scaling": "fp32", "softcap": "fp32"}
    tables = {"table": "*i32", "lengths": "*i64"}
    shape = {"SIZE": size, "COLUMNS": columns, "SPLITS": splits}
    yield _source(
        triton_attention._attend,
        tensors | sums | numbers | tables,
        shape
        | {"GROUP": 4, "MEMBERS": 16, "BLOCK": 16, "TILE": tile}
        | {"HAS_WINDOW": features, "HAS_SOFTCAP": features}
        | {"PRODUCT": triton_attention.product_of(DTYPES[name])},
    )
    if splits > 1:
        yield _source(triton_attention._join, sums | {"out": f"*{name}"}, shape)


def _lora(name):
    counts = dict.fromkeys(("tokens", "columns", "width"), "i32")
    shared = counts | {"hidden": "*fp32", "slots": "*i64"}
    sizes = {"WIDTH": 16, "SPLITS": triton_ops.SPLITS, "BLOCK": triton_ops.BLOCK}
    yield _source(triton_ops._shrink, shared | {"x": f"*{name}", "a": f"*{name}"}, sizes)
    yield _source(triton_ops._expand, shared | {"y": f"*{name}", "b": f"*{name}"}, sizes)


def main() -> None:
    found = []
    for capability, names in GPUS.items():
        for name in names:
            sources = [source for size in SIZES for source in _attention(name, size)]
            sources += _attention(name, SIZES[0], splits=1, features=False)
            for source in [*sources, *_lora(name)]:
                done = triton.compile(source, target=GPUTarget("cuda", capability, 32))
                found.append(
                    {
                        "name": done.metadata.name,
                        "capability": capability,
                        "dtype": name,
                        "code_bytes": len(done.asm["cubin"]),
                        "shared_bytes": done.metadata.shared,
                    }
                )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
