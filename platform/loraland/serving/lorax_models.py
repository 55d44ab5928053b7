"""The shape of every answer of LoRAX's endpoints, as `lorax-client` reads it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class LoraxError(BaseModel):
    """An error, in the shape of LoRAX."""

    error: str  # what was asked, what is possible, what to do
    error_type: str  # by which the client chooses its exception
    code: str  # stable


class AlternativeToken(BaseModel):
    """One of the likeliest tokens in a place."""

    id: int
    text: str
    logprob: float  # natural logarithm, of the model's own distribution


class TokenAnswer(AlternativeToken):
    """A token of an answer; texts of those that are not special make the answer."""

    special: bool
    alternative_tokens: list[AlternativeToken] | None = None  # the likeliest first


FinishReason = Literal["length", "eos_token", "stop_sequence"]


class StreamDetails(BaseModel):
    """How an answer ended."""

    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int  # a stop token included
    seed: int | None = None  # None: greedy


class SequenceDetails(StreamDetails):
    """One of several answers."""

    generated_text: str
    prefill: list[TokenAnswer] = []  # always empty: see `decoder_input_details`
    tokens: list[TokenAnswer]


class Details(StreamDetails):
    """How the answer ended, and what it is made of."""

    prefill: list[TokenAnswer] = []  # always empty: see `decoder_input_details`
    tokens: list[TokenAnswer]
    best_of_sequences: list[SequenceDetails] | None = None  # the others


class GenerateAnswer(BaseModel):
    """The answer of /generate; that of / is a list of one."""

    generated_text: str
    details: Details | None = None


class StreamAnswer(BaseModel):
    """One event of /generate_stream."""

    token: TokenAnswer
    generated_text: str | None = None  # the whole answer, in the last event
    details: StreamDetails | None = None  # in the last event


class TokenPlace(BaseModel):
    """A token of a text."""

    id: int
    text: str  # as the tokenizer writes it
    start: int  # characters
    stop: int


class BaseInfo(BaseModel):
    """A base that is served."""

    model_id: str
    model_sha: str  # the fingerprint of its weights
    model_dtype: str  # nf4, bf16 or fp32
    model_device_type: str
    model_pipeline_tag: Literal["text-generation"] = "text-generation"
    chat: bool  # whether it has a chat template
    max_concurrent_requests: int  # per replica, those that wait included
    max_input_length: int  # tokens
    max_total_tokens: int  # of prompt and answer
    max_batch_size: int  # requests in one forward pass
    max_batch_total_tokens: int  # of all running requests of a replica
    max_lora_rank: int
    adapter_slots: int  # adapters on the device at once, per replica


class Info(BaseInfo):
    """The answer of /info: the base that answers without an adapter_id, and all bases."""

    max_best_of: int
    max_stop_sequences: int
    max_new_tokens: int
    version: str
    default_base: str  # answers requests without adapter_id; the first in the configuration
    bases: list[BaseInfo]
