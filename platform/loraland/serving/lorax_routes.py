"""LoRAX's endpoints over any `Service`: /generate, /generate_stream, /, /tokenize and /info.

Told names, limits and defaults by `lorax_api`; a client that leaves ends its order. Nothing that
was asked or answered is logged.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.responses import Response

from loraland import __version__
from loraland.errors import LoraLandError
from loraland.serving.bodies import BadParameter, read_body, read_json
from loraland.serving.lorax_answers import Answer, events, whole
from loraland.serving.lorax_api import (
    COMPAT,
    GENERATE,
    INFO,
    STREAM,
    TOKENIZE,
    CompatRequest,
    GenerateRequest,
    TokenizeRequest,
    check_limits,
    lorax_error,
    model_text,
    order_of,
    read_generate,
)
from loraland.serving.lorax_models import (
    BaseInfo,
    GenerateAnswer,
    Info,
    LoraxError,
    StreamAnswer,
    TokenPlace,
)
from loraland.serving.openai_api import MAX_STOPS
from loraland.serving.openapi import answers, body, errors
from loraland.serving.orders import BaseFacts, Order, Part
from loraland.serving.service import Service
from loraland.serving.wire import (
    MODEL_HEADER,
    EventStream,
    chain,
    client_left,
    event,
    new_id,
    read,
    unless_client_leaves,
)


def add_lorax_routes(app: FastAPI, service: Service) -> None:
    """Add the endpoints to an application."""
    _add_generate(app, service)
    _add_streams(app, service)
    _add_facts(app, service)


def _add_generate(app: FastAPI, service: Service) -> None:
    @app.post(
        GENERATE,
        tags=["LoRAX"],
        openapi_extra=body(app, GenerateRequest),
        responses=answers(app, GenerateAnswer, error=LoraxError),
        response_model=None,
    )
    async def generate(request: Request) -> Response:
        """Continue a prompt, or answer it with `apply_chat_template`."""
        asked = await _asked(request, service, GenerateRequest)
        answer = await _answered(request, service, asked)
        if answer is None:
            return client_left()
        content, headers = answer
        return JSONResponse(content.model_dump(exclude_none=True), headers=headers)


def _add_streams(app: FastAPI, service: Service) -> None:
    @app.post(
        STREAM,
        tags=["LoRAX"],
        openapi_extra=body(app, GenerateRequest),
        responses=answers(app, events=[StreamAnswer], error=LoraxError),
        response_class=StreamingResponse,
        response_model=None,
    )
    async def generate_stream(request: Request) -> Response:
        """The same, an event for each token."""
        return await _streamed(request, service, await _asked(request, service, GenerateRequest))

    @app.post(
        COMPAT,
        tags=["LoRAX"],
        openapi_extra=body(app, CompatRequest),
        responses=answers(app, list[GenerateAnswer], events=[StreamAnswer], error=LoraxError),
        response_model=None,
    )
    async def compat_generate(request: Request) -> Response:
        """Either of the two, as `stream` says; what `lorax-client` asks."""
        asked = await _asked(request, service, CompatRequest)
        if isinstance(asked, CompatRequest) and asked.stream:
            return await _streamed(request, service, asked)
        answer = await _answered(request, service, asked)
        if answer is None:
            return client_left()
        content, headers = answer
        return JSONResponse([content.model_dump(exclude_none=True)], headers=headers)


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.post(
        TOKENIZE,
        tags=["LoRAX"],
        openapi_extra=body(app, TokenizeRequest),
        responses=errors(LoraxError),
    )
    async def tokenize(request: Request) -> list[TokenPlace]:
        """The tokens of a text and where they lie in it."""
        asked = read_body(TokenizeRequest, await read(request, service.limits.body_bytes))
        if (size := len(asked.inputs)) > (most := service.limits.prompt_characters):
            raise BadParameter(f"inputs: is {size} characters, at most {most}", "inputs")
        name = model_text(asked.adapter_id, service.directory.bases)
        base = (await service.directory.resolve(name)).base
        special = asked.add_special_tokens is not False
        found = await service.tokenize(base, asked.inputs, special)
        return [TokenPlace(**token) for token in found]

    @app.get(INFO, tags=["LoRAX"], responses=errors(LoraxError))
    async def info() -> Info:
        """The bases served, and the limits of a request."""
        names = service.directory.bases
        default = model_text(None, names)
        bases = [_info_of(await service.facts(name)) for name in names]
        limits = service.limits
        return Info(
            **bases[0].model_dump(),
            max_best_of=limits.choices,
            max_stop_sequences=MAX_STOPS,
            max_new_tokens=limits.new_tokens,
            version=__version__,
            default_base=default,
            bases=bases,
        )


def _info_of(facts: BaseFacts) -> BaseInfo:
    return BaseInfo(
        model_id=facts["base"],
        model_sha=facts["fingerprint"],
        model_dtype=facts["precision"],
        model_device_type=facts["device"].split(":")[0],
        chat=facts["chat"],
        max_concurrent_requests=facts["max_batch"] + facts["max_waiting"],
        max_input_length=facts["context_tokens"] - 1,
        max_total_tokens=facts["context_tokens"],
        max_batch_size=facts["max_batch"],
        max_batch_total_tokens=facts["kv_tokens"],
        max_lora_rank=facts["max_rank"],
        adapter_slots=facts["slots"],
    )


async def _asked(
    request: Request, service: Service, kind: type[GenerateRequest]
) -> GenerateRequest:
    content = await read(request, service.limits.body_bytes)
    asked = read_generate(kind, read_json(content))
    check_limits(asked.wishes, service.limits)
    return asked


async def _order(service: Service, asked: GenerateRequest, *, stream: bool) -> Order:
    name = model_text(asked.wishes.adapter_id, service.directory.bases)
    model = await service.directory.resolve(name)
    return order_of(
        asked.inputs, asked.wishes, f"gen-{new_id()}", model, service.limits, stream=stream
    )


async def _answered(
    request: Request, service: Service, asked: GenerateRequest
) -> tuple[GenerateAnswer, dict[str, str]] | None:
    """The answer and its headers; None when the client has left."""
    began = time.perf_counter()
    order = await _order(service, asked, stream=False)
    submitted = time.perf_counter()
    said = await unless_client_leaves(request, _collected(service, order, _prefix(asked)))
    if said is None:
        return None
    answer = whole(said, details=asked.wishes.details)
    headers = _headers(order) | _times(said, began, submitted)
    return answer, headers


async def _collected(service: Service, order: Order, prefix: str) -> list[Answer]:
    said = [Answer(order, choice, prefix) for choice in range(order.n)]
    async with aclosing(service.complete(order)) as parts:
        async for part in parts:
            if "again" in part:
                said = [Answer(order, choice, prefix) for choice in range(order.n)]
            else:
                said[part["choice"]].add(part)
    return said


async def _streamed(request: Request, service: Service, asked: GenerateRequest) -> Response:
    if asked.wishes.answers > 1:
        raise BadParameter("best_of: must be 1 in a stream", "best_of")
    order = await _order(service, asked, stream=True)
    parts = service.complete(order)
    # The first part decides the status: an order that is refused is no stream.
    first = await unless_client_leaves(request, anext(parts))
    if first is None:
        return client_left()
    answer = Answer(order, 0, _prefix(asked))
    told = _told(answer, chain(first, parts), details=asked.wishes.details)
    headers = {**_headers(order), "x-accel-buffering": "no"}
    return EventStream(told, parts, headers)


async def _told(
    answer: Answer, parts: AsyncGenerator[Part, None], *, details: bool
) -> AsyncGenerator[str, None]:
    async with aclosing(parts):
        try:
            async for part in parts:
                for made in events(answer, part, details=details):
                    yield event(made.model_dump_json(exclude={"token": _absent(made)}))
        except LoraLandError as error:
            yield event(lorax_error(error))  # the status is sent already


def _absent(made: StreamAnswer) -> set[str]:
    return {"alternative_tokens"} if made.token.alternative_tokens is None else set()


def _prefix(asked: GenerateRequest) -> str:
    return asked.inputs if asked.wishes.return_full_text else ""


def _headers(order: Order) -> dict[str, str]:
    headers = {MODEL_HEADER: str(order.model), "x-model-id": order.model.base}
    if order.model.task is not None:
        headers |= {"x-adapter-id": str(order.model), "x-adapter-source": "registry"}
    return headers


def _times(said: list[Answer], began: float, submitted: float) -> dict[str, str]:
    """LoRAX's headers on tokens and times; milliseconds."""
    ends = [answer.end for answer in said if answer.end is not None]
    prompt_tokens = ends[0]["prompt_tokens"]
    generated = sum(end["generated_tokens"] for end in ends)
    total = (time.perf_counter() - began) * 1000
    queue = max(end["queue_ms"] for end in ends)
    inference = max(end["total_ms"] for end in ends) - queue
    times = {
        "x-total-time": total,
        "x-validation-time": (submitted - began) * 1000,
        "x-queue-time": queue,
        "x-inference-time": inference,
        "x-time-per-token": inference / max(1, max(end["generated_tokens"] for end in ends)),
    }
    counts = {
        "x-prompt-tokens": prompt_tokens,
        "x-generated-tokens": generated,
        "x-total-tokens": prompt_tokens + generated,
    }
    return {name: str(round(number)) for name, number in {**times, **counts}.items()}
