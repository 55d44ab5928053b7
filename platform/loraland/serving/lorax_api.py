"""LoRAX's own endpoints: what may be asked.

As `lorax-client` and LoRAX's router write and read them. A parameter is served, or refused by name.
An answer is greedy unless `do_sample`, `temperature`, `top_k` or `top_p` ask for sampling.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from loraland.adapters.names import ModelName
from loraland.engine.constraints import Grammar
from loraland.engine.protocol import MOST_LOGPROBS
from loraland.errors import LoraLandError, UnknownModel
from loraland.serving.bodies import BadParameter, Body, Refused, validate
from loraland.serving.config import Limits
from loraland.serving.openai_api import MAX_NAME_CHARACTERS, MAX_STOPS, StopText
from loraland.serving.orders import Message, Order, Prompt
from loraland.serving.response_format import Schema

GENERATE, STREAM, COMPAT = "/generate", "/generate_stream", "/"
TOKENIZE, INFO = "/tokenize", "/info"
# By POST; of those that are not served, too, because its client asks them.
ASKED = {GENERATE, STREAM, COMPAT, TOKENIZE, "/embed", "/classify", "/classify_batch"}
BASE_ID = "__base_model__"  # how LoRAX writes 'no adapter'


AdapterId = Annotated[str, Field(max_length=MAX_NAME_CHARACTERS)]


class AnswerFormat(Body):
    """What the answer must look like."""

    type: Literal["text", "json_object", "json_schema"]
    document: Schema | None = Field(default=None, alias="schema")

    @property
    def grammar(self) -> Grammar | None:
        """The constraint; None: anything."""
        if self.type == "text":
            return None
        if self.document is None:
            return Grammar("json_object")
        return Grammar("json_schema", json.dumps(self.document))


class Parameters(Body):
    """How an answer is made."""

    refused: ClassVar[Mapping[str, Refused]] = {
        "adapter_source": Refused((), "is not served: adapters are in this server's own registry"),
        "api_token": Refused(
            (), "is not served: send this server's key in the Authorization header"
        ),
        "decoder_input_details": Refused(
            (False,), "is not served: no log-probabilities of a prompt are computed"
        ),
        "merged_adapters": Refused((), "is not served: adapters are not merged per request"),
        "typical_p": Refused((1,), "is not served; use top_p"),
        "watermark": Refused((False,)),
    }

    adapter_id: AdapterId | None = None  # a model name; absent or empty: the base
    max_new_tokens: int | None = Field(default=None, ge=1)  # default: as many as fit
    do_sample: bool = False
    temperature: float | None = Field(default=None, ge=0, le=100)  # default 1; 0 is greedy
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    stop: list[StopText] = Field(default=[], max_length=MAX_STOPS)
    ignore_eos_token: bool = False
    best_of: int | None = Field(default=None, ge=1)
    truncate: int | None = Field(default=None, ge=1)  # tokens kept of the prompt, from its end
    return_full_text: bool | None = None  # the prompt before the answer
    details: bool = False
    return_k_alternatives: int | None = Field(default=None, ge=1, le=MOST_LOGPROBS)
    apply_chat_template: bool = False  # the prompt is the words of a user
    response_format: AnswerFormat | None = None

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn, and not the likeliest taken."""
        if self.temperature == 0:
            return False
        wishes = (self.temperature, self.top_k, self.top_p)
        return self.do_sample or any(wish is not None for wish in wishes)

    @property
    def answers(self) -> int:
        """How many are made; the likeliest is given."""
        return self.best_of or 1

    @property
    def conflicts(self) -> dict[str, str]:
        """Fields that do not go together, with the reason."""
        found = {}
        form = self.response_format
        if self.answers > 1 and not self.samples:
            found["best_of"] = "above 1 needs sampling, or all answers are the same"
        if self.answers > 1 and self.seed is not None:
            found["seed"] = "must be left out when best_of is above 1"
        if self.truncate is not None and self.apply_chat_template:
            found["truncate"] = "would cut the chat template; leave one of the two out"
        if self.ignore_eos_token and form is not None and form.grammar is not None:
            found["ignore_eos_token"] = "response_format says where the answer ends"
        if form is not None and form.type == "text" and form.document is not None:
            found["response_format"] = "is text, which has no schema"
        if form is not None and form.type == "json_schema" and form.document is None:
            found["response_format"] = "needs a schema"
        return found


class GenerateRequest(Body):
    """The body of POST /generate and /generate_stream."""

    inputs: str = Field(min_length=1)
    parameters: Parameters | None = None

    @property
    def wishes(self) -> Parameters:
        """The parameters, or their defaults."""
        return self.parameters or Parameters()


class CompatRequest(GenerateRequest):
    """The body of POST /."""

    stream: bool = False


class TokenizeRequest(Body):
    """The body of POST /tokenize."""

    inputs: str
    add_special_tokens: bool | None = None  # those that a prompt begins with; default true
    adapter_id: AdapterId | None = None  # whose base's tokenizer; as in `Parameters`


def read_generate(kind: type[GenerateRequest], body: Mapping[str, Any]) -> GenerateRequest:
    """A request of a JSON object. Raises BadParameter with all that is wrong."""
    mistakes: list[BadParameter] = []
    outer = dict(body)
    given = outer.pop("parameters", None)
    if isinstance(given, dict):  # by themselves, so that their mistakes are told by name
        try:
            validate(Parameters, given)
            outer["parameters"] = _known(given)
        except BadParameter as error:
            mistakes.append(error)
    elif given is not None:
        outer["parameters"] = given
    try:
        request = validate(kind, outer)
    except BadParameter as error:
        mistakes.insert(0, error)
    if mistakes:
        raise BadParameter("; ".join(error.message for error in mistakes), mistakes[0].param)
    return request


def _known(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in parameters.items() if k in Parameters.model_fields}


def model_text(adapter_id: str | None, bases: Sequence[str]) -> str:
    """The model name that an `adapter_id` stands for: see docs/api.md.

    Raises UnknownModel for the name of a task alone where several bases are served.
    """
    if adapter_id is not None and ("/" in adapter_id or adapter_id in bases):
        return adapter_id
    if not bases:
        raise UnknownModel("no base is served here for this key; GET /v1/models lists what is")
    if adapter_id is None or adapter_id in ("", BASE_ID):
        return bases[0]
    if len(bases) > 1:
        raise UnknownModel(
            f"'{adapter_id}' names no base; several are served here, so write BASE/TASK with one "
            f"of {', '.join(bases)}"
        )
    return f"{bases[0]}/{adapter_id}"


def check_limits(asked: Parameters, limits: Limits) -> None:
    """Raises BadParameter when a request asks for more than an application gives."""
    found = {}
    if asked.answers > limits.choices:
        found["best_of"] = f"is {asked.best_of}, at most {limits.choices}"
    if (asked.max_new_tokens or 0) > limits.new_tokens:
        found["max_new_tokens"] = f"is {asked.max_new_tokens}, at most {limits.new_tokens}"
    if found:
        raise BadParameter.of(found)


def order_of(
    inputs: str, asked: Parameters, order_id: str, model: ModelName, limits: Limits, *, stream: bool
) -> Order:
    """The order that answers a request. A seed is drawn where none is given, so that it is told."""
    chat = (Message(role="user", content=inputs),)
    prompt: Prompt = chat if asked.apply_chat_template else inputs
    scored = stream or asked.details or asked.answers > 1
    alternatives = asked.return_k_alternatives or 0
    temperature = 1.0 if asked.temperature is None else asked.temperature
    seed = secrets.randbits(63) if asked.seed is None else asked.seed
    return Order(
        id=order_id,
        model=model,
        prompts=(prompt,),
        n=asked.answers,
        max_new_tokens=asked.max_new_tokens,
        most_new_tokens=limits.new_tokens,
        temperature=temperature if asked.samples else 0.0,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k or 0,
        seed=seed if asked.samples else None,
        stop=tuple(asked.stop),
        repetition_penalty=asked.repetition_penalty or 1.0,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logprobs=alternatives if scored else None,
        grammar=None if asked.response_format is None else asked.response_format.grammar,
        truncate=asked.truncate,
        ignore_eos=asked.ignore_eos_token,
        whole=not stream,
    )


def speaks_lorax(method: str, path: str) -> bool:
    """Whether errors there have LoRAX's shape."""
    return path == INFO or (method == "POST" and path in ASKED)


def lorax_error(error: LoraLandError) -> dict[str, str]:
    """An error in LoRAX's shape; the client chooses its exception by `error_type`."""
    kinds = {404: "not_found", 401: "unauthorized", 403: "forbidden", 429: "overloaded"}
    kind = kinds.get(error.status, "validation" if error.status < 500 else "generation")
    return {"error": error.message, "error_type": kind, "code": error.code}
