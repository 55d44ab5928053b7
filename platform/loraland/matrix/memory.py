"""How much device memory a cell needs while it trains, and how many cells fit side by side.

An estimate from published shapes, before any weight is read; terms that it leaves out (kernels of
the driver, splinters of the allocator) are added as a margin. Pure numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from loraland.bases.catalogue import Base, Precision, Shape
from loraland.training.recipe import ALL_LINEAR, Recipe

# NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314, section 3): 4 bits, and for
# every 64 weights a scale of 8 bits, and for every 256 scales one of 32 bits.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Adapter weight, gradient and two moments of Adam in fp32, and the best weights so far beside them.
BYTES_PER_ADAPTER_PARAMETER = 4 + 4 + 8 + 4
CONTEXT_BYTES = 0.7e9  # CUDA context, cuBLAS workspaces (assumed)
MARGIN = 0.15  # of activations and logits: splinters of the allocator (assumed)
MOST_IN_A_GROUP = 64

_COMPUTE_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "nf4": 2}  # on a GPU


class Memory(NamedTuple):
    """Peak device memory of a training step, in bytes."""

    weights: int  # of the base
    adapter: int  # one adapter's weights, gradients, moments, best copy
    activations: int  # kept for the backward pass of one micro-batch
    logits: int  # at supervised positions
    workspace: int  # a dequantised layer, context, margin

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self)

    def with_adapters(self, count: int) -> int:
        """With that many adapters in one process; the micro-batch keeps its token budget."""
        return self.total + (count - 1) * self.adapter

    def largest_group(self, capacity_bytes: float) -> int:
        """How many adapters train side by side in that much memory; 0: not even one."""
        spare = capacity_bytes - (self.total - self.adapter)
        return max(0, min(MOST_IN_A_GROUP, int(spare // max(1, self.adapter))))


def linear_layers(base: Base) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer of a block, by transformers' name. Needs the shape."""
    shape = _shape(base)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, inner = shape.hidden, shape.intermediate
    layers = {"q_proj": (hidden, queries), "k_proj": (hidden, keys), "v_proj": (hidden, keys)}
    if base.architecture == "phi":
        return layers | {"dense": (queries, hidden), "fc1": (hidden, inner), "fc2": (inner, hidden)}
    return layers | {
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def block_weights(base: Base) -> int:
    """Weights of the linear layers of all blocks: what NF4 quantises."""
    return _shape(base).layers * sum(a * b for a, b in linear_layers(base).values())


def targeted_layers(base: Base, recipe: Recipe) -> dict[str, tuple[int, int]]:
    """The linear layers of a block that get an adapter."""
    layers = linear_layers(base)
    if recipe.targets == ALL_LINEAR:
        return layers
    return {name: sizes for name, sizes in layers.items() if name in recipe.targets}


def adapter_parameters(base: Base, recipe: Recipe) -> int:
    """rank x (inputs + outputs) of every targeted layer of every block."""
    sizes = targeted_layers(base, recipe).values()
    return _shape(base).layers * recipe.rank * sum(a + b for a, b in sizes)


def weight_bytes(base: Base, precision: Precision) -> int:
    """Weights in memory: blocks at the precision, embedding, head and norms in the compute type."""
    blocks = block_weights(base)
    rest = (base.parameters - blocks) * _COMPUTE_BYTES[precision]
    return int(rest + blocks * (NF4_BYTES if precision == "nf4" else _COMPUTE_BYTES[precision]))


def memory_of(base: Base, recipe: Recipe, *, tokens: int, supervised: int) -> Memory:
    """The peak of a step whose micro-batch has that many tokens, padding counted.

    `supervised` of them are answers. With c bytes per number of the compute type and h hidden
    units, kept per token are:
    checkpointed: c x h for each block, and once the inside of one block;
    else: the inside of every block (`_inside_bytes`).
    Logits at a supervised position over a vocabulary of V: c V, and in fp32 their copy, the log
    probabilities and the gradient, 12 V. Raises ValueError when the base has no known shape.
    """
    shape, compute = _shape(base), _COMPUTE_BYTES[recipe.precision]
    inside = _inside_bytes(base, recipe)
    if recipe.gradient_checkpointing:
        activations = tokens * (shape.layers * compute * shape.hidden + inside)
    else:
        activations = tokens * shape.layers * inside
    logits = supervised * shape.vocabulary * (compute + 12)
    largest = max(a * b for a, b in linear_layers(base).values())
    dequantised = largest * compute if recipe.precision == "nf4" else 0
    return Memory(
        weights=weight_bytes(base, recipe.precision),
        adapter=BYTES_PER_ADAPTER_PARAMETER * adapter_parameters(base, recipe),
        activations=int(activations),
        logits=logits,
        workspace=int(dequantised + CONTEXT_BYTES + MARGIN * (activations + logits)),
    )


def _inside_bytes(base: Base, recipe: Recipe) -> int:
    """Bytes per token that autograd keeps inside one block.

    Two norms: input and normalised in fp32, output; queries, keys, values before and after the
    rotation, keys and values repeated for all heads, attention output; of the MLP gate, up,
    activation, product; for each targeted layer its input in fp32 and, with dropout, a mask.
    """
    shape, c = _shape(base), _COMPUTE_BYTES[recipe.precision]
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * (8 + c) * shape.hidden
    attention = c * (2 * queries + 3 * keys + 2 * queries + queries + shape.hidden)
    mlp = c * (4 if base.architecture != "phi" else 2) * shape.intermediate
    per_input = (0 if c == 4 else 4) + (5 if recipe.dropout > 0 else 0)
    adapters = sum(
        per_input * inputs + 4 * recipe.rank for inputs, _ in targeted_layers(base, recipe).values()
    )
    return norms + attention + mlp + adapters


def _shape(base: Base) -> Shape:
    if base.shape is None:
        raise ValueError(f"the shape of base '{base.name}' is not known")
    return base.shape
