"""Chooses the next token of each row from its logits.

Every row has a generator and a memory of its own, so that its answer is the same whoever shares the
batch. Rows that only want the likeliest token are chosen together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from loraland.engine.distribution import draw, likeliest, penalised, probabilities_of
from loraland.engine.protocol import MOST_LOGPROBS, Matcher, Request, Sampling
from loraland.errors import ConstraintFailed, EngineFailed, InvalidRequest

NOT_FINITE = (
    "the model computed logits that are not finite; the adapter or the base is "
    "damaged, or its numbers overflow at this precision"
)
NO_WAY_ON = (
    "the constraint on the answer allows no token here: nothing that it describes begins with what "
    "was answered so far; correct the constraint"
)


def check(sampling: Sampling) -> None:
    """Raises InvalidRequest that lists every field out of its range."""
    s = sampling
    wrong = [
        f"{field} is {getattr(s, field)}, it must be {rule}"
        for field, (holds, rule) in {
            "max_new_tokens": (s.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= s.temperature < math.inf, "0 (greedy) or more"),
            "top_p": (0 < s.top_p <= 1, "above 0 and at most 1"),
            "top_k": (s.top_k >= 0, "0 (off) or more"),
            "min_p": (0 <= s.min_p <= 1, "from 0 (off) to 1"),
            "repetition_penalty": (0.01 <= s.repetition_penalty <= 100, "from 0.01 to 100"),
            "presence_penalty": (-2 <= s.presence_penalty <= 2, "from -2 to 2"),
            "frequency_penalty": (-2 <= s.frequency_penalty <= 2, "from -2 to 2"),
            "seed": (-(2**63) <= (s.seed or 0) < 2**63, "a signed 64-bit integer"),
            "logprobs": (0 <= (s.logprobs or 0) <= MOST_LOGPROBS, f"from 0 to {MOST_LOGPROBS}"),
        }.items()
        if not holds
    ]
    if wrong:
        raise InvalidRequest("; ".join(wrong))


class Choice(NamedTuple):
    """The next token of one row."""

    token_id: int
    logprob: float | None = None  # natural logarithm, of the model's own distribution
    top_logprobs: tuple[tuple[int, float], ...] = ()  # (token id, logprob), the likeliest first


class Chooser:
    """The choices of one request, token after token.

    Remembers what it chose: each token of an answer is chosen once, also when the engine computes
    its cache a second time.
    """

    def __init__(
        self, sampling: Sampling, prompt_ids: Sequence[int] = (), matcher: Matcher | None = None
    ) -> None:
        """`sampling` has passed `check`; `prompt_ids` are ids of the logits' vocabulary."""
        self._sampling, self._matcher = sampling, matcher
        self._penalises = (
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        ) != (1, 0, 0)
        # Whether each choice is the token of the largest logit, and no more is wanted.
        self.plain = (
            sampling.temperature == 0
            and not self._penalises
            and matcher is None
            and sampling.logprobs is None
        )
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1 else set[int]()
        self._counts = Counter[int]()  # of the answer
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @classmethod
    def of(cls, request: Request) -> Chooser:
        """The chooser of a request, at the beginning of its constraint."""
        matcher = request.constraint.start() if request.constraint else None
        return cls(request.sampling, request.prompt_ids, matcher)

    def choose(self, logits: torch.Tensor) -> Choice:
        """The next token for `logits` of shape (vocabulary,), which are left as they are.

        Raises EngineFailed when they hold NaN or infinity, ConstraintFailed (an EngineFailed) when
        the constraint allows no token.
        """
        logits = logits.detach().float().cpu()
        if not finite(logits.unsqueeze(0))[0]:
            raise EngineFailed(NOT_FINITE)
        adjusted = self._constrained(self._penalised(logits))
        if self._sampling.temperature == 0:
            token = argmax(adjusted.unsqueeze(0))[0]
        else:
            token = draw(probabilities_of(adjusted, self._sampling), self._generator)
        self._remember(token)
        return self._told(token, logits)

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._penalises:
            return logits
        return penalised(logits, self._sampling, self._seen, self._counts)

    def _constrained(self, logits: torch.Tensor) -> torch.Tensor:
        if self._matcher is None:
            return logits
        allowed = torch.zeros(logits.numel(), dtype=torch.bool)
        mask = torch.from_numpy(self._matcher.allowed())[: logits.numel()]
        allowed[: mask.numel()] = mask
        if not bool(allowed.any()):
            raise ConstraintFailed(NO_WAY_ON)
        return logits.masked_fill(~allowed, -math.inf)

    def _remember(self, token: int) -> None:
        if self._penalises:
            self._seen.add(token)
            self._counts[token] += 1
        if self._matcher is not None:
            self._matcher.accept(token)

    def _told(self, token: int, logits: torch.Tensor) -> Choice:
        wanted = self._sampling.logprobs
        if wanted is None:
            return Choice(token)
        logprobs = logits.log_softmax(0)
        top: list[int] = likeliest(logits, min(wanted, logits.numel())).tolist() if wanted else []
        return Choice(
            token, float(logprobs[token]), tuple((other, float(logprobs[other])) for other in top)
        )


def choose_rows(choosers: Sequence[Chooser], logits: torch.Tensor) -> list[Choice | EngineFailed]:
    """The next token of each row of `logits`, shape (rows, vocabulary): what `choose` gives it.

    A row that fails gives its error in its place and harms no other. Plain rows cost one pass over
    the logits together; only the others leave the device and go one by one.
    """
    logits = logits.detach()
    others = [row for row, chooser in enumerate(choosers) if not chooser.plain]
    choices = _likeliest_of_each(logits) if len(others) < len(choosers) else {}
    if others:
        rows = logits if len(others) == len(choosers) else logits[others]
        for row, own in zip(others, rows.float().cpu(), strict=True):  # one transfer for all
            try:
                choices[row] = choosers[row].choose(own)
            except EngineFailed as error:
                choices[row] = error
    return [choices[row] for row in range(len(choosers))]


def _likeliest_of_each(logits: torch.Tensor) -> dict[int, Choice | EngineFailed]:
    return {
        row: Choice(token) if well else EngineFailed(NOT_FINITE)
        for row, (token, well) in enumerate(zip(argmax(logits), finite(logits), strict=True))
    }


def argmax(logits: torch.Tensor) -> list[int]:
    """The id of the largest logit of each row, the lowest of equal ones. Rows must be finite.

    On the CPU numpy finds it ten times as fast as torch 2.13.
    """
    if logits.device.type == "cpu":
        return [int(token) for token in logits.float().numpy().argmax(1)]
    return [int(token) for token in logits.argmax(1).tolist()]


def finite(logits: torch.Tensor) -> list[bool]:
    """Whether each row holds only numbers."""
    # A sum is finite only if all its terms are, and costs a hundredth of looking at each.
    well = logits.sum(1, dtype=torch.float32).isfinite()
    if not bool(well.all()):  # damaged, or so large that the sum ran over
        well = logits.isfinite().all(1)
    return [bool(row) for row in well.tolist()]
