"""Where gradients, optimiser and weights of a run over several workers lie.

ddp keeps everything on every worker and averages gradients (torch's DistributedDataParallel). zero2
shards the adapter's gradients and optimiser, zero3 the frozen base as well (DeepSpeed), which must
fit on each device once, while it is loaded. Only the adapter is trained. Knows torch.distributed,
whose process group exists already; knows nothing of data, schedules or storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Protocol, get_args

import torch
from peft import PeftModel
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from loraland.bases.loading import LoadedBase
from loraland.errors import InvalidConfiguration
from loraland.training.adapter import make_optimizer, trainable
from loraland.training.checkpoint import Tensors, pack_optimizer, unpack_optimizer
from loraland.training.examples import Example
from loraland.training.loss import example_losses, summed_loss
from loraland.training.recipe import Recipe

StrategyName = Literal["ddp", "zero2", "zero3"]

INSTALL_DEEPSPEED = "DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed==0.19.8"


class Strategy(Protocol):
    """The part of a run that differs between strategies. All workers call the same in step."""

    def accumulate(self, examples: Sequence[Example], weight: float, *, is_last: bool) -> float:
        """Add the gradient of weight x the summed loss of these examples; returns that number.

        After the last of an update the gradients of all workers are added up.
        """

    def accumulate_each(
        self, examples: Sequence[Example], weights: Tensor, *, is_last: bool
    ) -> None:
        """Like `accumulate`, with a weight of its own for each example's loss: (examples,)."""

    def losses(self, examples: Sequence[Example]) -> Tensor:
        """The loss of each example as the model is now, without gradients: (examples,)."""

    def update(self, rate: float) -> None:
        """Clip the gradients over the whole adapter, take a step, forget the gradients."""

    def evaluate(self, examples: Sequence[Example]) -> float:
        """The summed loss of these examples, without gradients."""

    def weights(self) -> Tensors:
        """A copy of the whole adapter on every worker, by PEFT's names."""

    def moments(self) -> Tensors:
        """The whole state of the optimiser on every worker, named as `pack_optimizer` does."""

    def load_moments(self, tensors: Tensors) -> None:
        """Put back what `moments` gave, under any strategy and number of workers.

        Without any, the optimiser starts anew.
        """


def check_strategy(strategy: str) -> None:
    """Raises InvalidConfiguration for a strategy that is unknown or not installed.

    Each works with a base in any precision.
    """
    if strategy not in get_args(StrategyName):
        raise InvalidConfiguration(
            f"strategy '{strategy}' is not known; possible: {', '.join(get_args(StrategyName))}"
        )
    if strategy != "ddp" and find_spec("deepspeed") is None:
        raise InvalidConfiguration(
            f"strategy {strategy} needs DeepSpeed, which is not installed; type\n"
            f"  {INSTALL_DEEPSPEED}\nor use strategy ddp"
        )


def make_strategy(
    name: StrategyName,
    base: LoadedBase,
    model: PeftModel,
    recipe: Recipe,
    device: torch.device,
) -> Strategy:
    """The strategy for an adapter with its weights already in place. Collective."""
    check_strategy(name)
    for parameter in trainable(model).values():
        distributed.broadcast(parameter.data, src=0)  # equal seeds draw equal weights; be certain
    if name == "ddp":
        return _Replicated(base, model, recipe)
    return _DeepSpeed(base, model, recipe, stage=2 if name == "zero2" else 3, device=device)


class _Loss(nn.Module):
    """The loss as a module, because DDP and DeepSpeed work on a module's parameters and calls.

    They see the adapter alone and so leave the base as it is; where the base is to be sharded too,
    they see all.
    """

    def __init__(self, base: LoadedBase, model: PeftModel, *, with_base: bool) -> None:
        super().__init__()
        self._unseen = (base,)  # a tuple keeps torch from making the base a part of this module
        if with_base:
            self.base = base.model  # holds the adapter's layers
        else:
            self.adapter = nn.ParameterList(trainable(model).values())

    def forward(
        self, examples: Sequence[Example], weights: Tensor | None = None, *, each: bool = False
    ) -> Tensor:
        """The sum of the losses, weighed when there are weights; or the loss of each."""
        [base] = self._unseen
        pad_id = int(base.tokenizer.pad_token_id)
        if weights is None and not each:
            return summed_loss(base.model, examples, pad_id)
        losses = example_losses(base.model, examples, pad_id)
        return losses if weights is None else (losses * weights.to(losses)).sum()


class _Replicated:
    """Everything on every worker; gradients are averaged while they are computed."""

    def __init__(self, base: LoadedBase, model: PeftModel, recipe: Recipe) -> None:
        self._parameters = trainable(model)
        self._loss = _Loss(base, model, with_base=False)
        self._parallel = DistributedDataParallel(self._loss, init_sync=False)
        self._optimizer = make_optimizer(self._parameters.values(), recipe)
        self._clip_norm = recipe.clip_norm

    def accumulate(self, examples: Sequence[Example], weight: float, *, is_last: bool) -> float:
        with nullcontext() if is_last else self._parallel.no_sync():
            part = self._parallel(examples) * weight
            (part * distributed.get_world_size()).backward()  # the workers' mean is taken of it
        return float(part.item())

    def accumulate_each(
        self, examples: Sequence[Example], weights: Tensor, *, is_last: bool
    ) -> None:
        with nullcontext() if is_last else self._parallel.no_sync():
            part = self._parallel(examples, weights)
            (part * distributed.get_world_size()).backward()

    @torch.no_grad()
    def losses(self, examples: Sequence[Example]) -> Tensor:
        found: Tensor = self._loss(examples, each=True)
        return found

    def update(self, rate: float) -> None:
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Example]) -> float:
        return float(self._loss(examples).item())

    def weights(self) -> Tensors:
        return {name: p.detach().clone() for name, p in self._parameters.items()}

    def moments(self) -> Tensors:
        return pack_optimizer(self._optimizer)

    def load_moments(self, tensors: Tensors) -> None:
        if tensors:
            unpack_optimizer(self._optimizer, tensors)


class _DeepSpeed:
    """ZeRO-2 or ZeRO-3 with torch's own optimiser on the shards; DeepSpeed's would compile C++.

    The adapter's master weights and moments are float32 whatever the base is in, as in the plain
    loop.
    """

    def __init__(
        self,
        base: LoadedBase,
        model: PeftModel,
        recipe: Recipe,
        *,
        stage: int,
        device: torch.device,
    ) -> None:
        deepspeed = import_module("deepspeed")
        # None of its own operations are used; asked, it would try them all and compile one.
        deepspeed.ops.__compatible_ops__ = {}
        self._stage, self._device = stage, device
        self._parameters = trainable(model)
        self._loss = _Loss(base, model, with_base=stage == 3)
        self._engine, self._optimizer, *_ = deepspeed.initialize(
            model=self._loss,
            model_parameters=list(self._parameters.values()),
            optimizer=make_optimizer(self._parameters.values(), recipe),
            config=_configuration(recipe, stage),
        )

    def accumulate(self, examples: Sequence[Example], weight: float, *, is_last: bool) -> float:
        self._engine.set_gradient_accumulation_boundary(is_last)
        part = self._engine(examples) * weight
        self._engine.backward(part * distributed.get_world_size())  # the workers' mean is taken
        return float(part.item())

    def accumulate_each(
        self, examples: Sequence[Example], weights: Tensor, *, is_last: bool
    ) -> None:
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(self._engine(examples, weights) * distributed.get_world_size())

    @torch.no_grad()
    def losses(self, examples: Sequence[Example]) -> Tensor:
        found: Tensor = self._loss(examples, each=True)
        return found

    def update(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Example]) -> float:
        return float(self._loss(examples).item())

    def weights(self) -> Tensors:
        whole = import_module("deepspeed.utils").safe_get_full_fp32_param
        return {
            name: whole(parameter).detach().clone() for name, parameter in self._parameters.items()
        }

    def moments(self) -> Tensors:
        whole = import_module("deepspeed.utils").safe_get_full_optimizer_state
        steps = [state["step"] for state in self._optimizer.optimizer.state.values()]
        found: Tensors = {}
        for index, parameter in enumerate(self._parameters.values()):
            found[f"optimizer/{index}/step"] = torch.as_tensor(steps[0]).clone()
            for name in _MOMENTS:
                found[f"optimizer/{index}/{name}"] = whole(parameter, name).clone()
        return found

    def load_moments(self, tensors: Tensors) -> None:
        if not tensors:
            return
        for flat in self._shards():
            self._optimizer.optimizer.state[flat] = {
                "step": tensors["optimizer/0/step"].clone(),
                **{name: torch.zeros_like(flat.data) for name in _MOMENTS},
            }
        if self._stage == 2:
            self._optimizer._lazy_init_hp_params_optimizer_state()
        for index, parameter in enumerate(self._parameters.values()):
            for name in _MOMENTS:
                full = tensors[f"optimizer/{index}/{name}"].to(self._device)
                self._put(parameter, full, name)

    def _shards(self) -> list[Tensor]:
        """This worker's flat pieces of the adapter, which the optimiser steps."""
        optimizer = self._optimizer
        if self._stage == 2:
            return list(optimizer.single_partition_of_fp32_groups)
        return list(optimizer.fp32_partitioned_groups_flat)

    def _put(self, parameter: Any, full: Tensor, name: str) -> None:
        """Keep this worker's piece of a whole moment."""
        utils = import_module("deepspeed.utils")
        if self._stage == 2:
            utils.safe_set_full_optimizer_state(parameter, full, name)
            return
        size = int(parameter.partition_numel())  # rounded up, so that the last piece is padded
        padded = nn.functional.pad(
            full.flatten(), (0, size * distributed.get_world_size() - full.numel())
        )
        mine = padded.narrow(0, size * distributed.get_rank(), size)
        utils.safe_set_local_optimizer_state(parameter, mine, name)


_MOMENTS = ("exp_avg", "exp_avg_sq")  # as torch's Adam and AdamW name them


def _configuration(recipe: Recipe, stage: int) -> dict[str, Any]:
    """DeepSpeed's configuration; what it says of batches is never used."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.clip_norm,
        "zero_optimization": {"stage": stage},
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 62,  # never
    }
