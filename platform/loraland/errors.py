"""Every error a user can meet.

Each class inherits `LoraLandError` and the built-in it refines, has an HTTP status and a stable
code, and is built from its message alone, so that it pickles (Ray sends errors between processes).
A message says what was asked, what is possible, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LoraLandError(Exception):
    """The base of all errors that are meant for a user's eyes."""

    status = 500
    code = "internal_error"

    @property
    def message(self) -> str:
        """The text shown to the user."""
        return str(self.args[0]) if self.args else self.code


class UnknownTask(LoraLandError, LookupError):
    """No task of that name is in the catalogue."""

    status, code = 404, "task_not_found"


class UnknownBase(LoraLandError, LookupError):
    """No base of that name is in the catalogue."""

    status, code = 404, "base_not_found"


class UnknownModel(LoraLandError, LookupError):
    """No base, adapter, alias or version answers to that model name."""

    status, code = 404, "model_not_found"


class UnknownSpace(LoraLandError, LookupError):
    """No space of that name is known here, or it has no such cell."""

    status, code = 404, "space_not_found"


class UnknownRecipe(LoraLandError, LookupError):
    """No recipe of that name, and no file at that path."""

    status, code = 404, "recipe_not_found"


class StrataMissing(LoraLandError, LookupError):
    """No audit of that id is in storage."""

    status, code = 404, "strata_not_found"


class UnknownItem(LoraLandError, LookupError):
    """A catalogue has no item of that key."""

    status, code = 404, "item_not_found"


class EventConflict(LoraLandError, ValueError):
    """The id of an event stands for something else already."""

    status, code = 409, "event_conflict"


class PersonFull(LoraLandError, RuntimeError):
    """A person has as many events as one may have."""

    status, code = 409, "person_full"


class InvalidName(LoraLandError, ValueError):
    """The text is not a model name in any of the four forms."""

    status, code = 400, "invalid_model_name"


class InvalidConfiguration(LoraLandError, ValueError):
    """A configuration file is wrong; the message lists all its mistakes."""

    status, code = 400, "invalid_configuration"


class SourceUnavailable(LoraLandError, FileNotFoundError):
    """No source of a task could be read; the message names each one tried."""

    status, code = 503, "source_unavailable"


class BaseUnavailable(LoraLandError, OSError):
    """The weights of a base cannot be had: file missing, gated, damaged, or no network."""

    status, code = 503, "base_unavailable"


class NotEnoughMemory(LoraLandError, MemoryError):
    """A base does not fit into the memory that is free."""

    status, code = 507, "not_enough_memory"


class DataRefused(LoraLandError, ValueError):
    """The data gate found examples that would make a run wrong."""

    status, code = 422, "data_refused"


class TrainingDiverged(LoraLandError, ArithmeticError):
    """The loss became NaN or infinite, or exploded."""

    status, code = 422, "training_diverged"


class CheckpointMismatch(LoraLandError, ValueError):
    """A checkpoint belongs to another run than the one that wants to resume from it."""

    status, code = 409, "checkpoint_mismatch"


class AdapterRejected(LoraLandError, ValueError):
    """An adapter may not enter: wrong base, shape, dtype, size or content."""

    status, code = 400, "adapter_rejected"


class NoEffect(AdapterRejected):
    """An adapter leaves the base's logits as they were."""

    status, code = 422, "adapter_has_no_effect"


class AdapterProtected(LoraLandError, PermissionError):
    """A version cannot be deleted because an alias needs it."""

    status, code = 409, "adapter_protected"


class StorageCorrupt(LoraLandError, OSError):
    """What lies in storage is not what its manifest says."""

    status, code = 500, "storage_corrupt"


class StorageUnavailable(LoraLandError, OSError):
    """Storage cannot be reached or written to: a full disk, a lost connection."""

    status, code = 503, "storage_unavailable"


class MetricUnavailable(LoraLandError, LookupError):
    """A metric cannot be computed here, and no other number is given in its place."""

    status, code = 422, "metric_unavailable"


class SandboxUnavailable(LoraLandError, OSError):
    """Generated programs cannot be confined on this machine, and are not run without that."""

    status, code = 503, "sandbox_unavailable"


class SamplesMissing(LoraLandError, FileNotFoundError):
    """A model has no stored samples to compute a score from."""

    status, code = 404, "samples_missing"


class ContextTooLong(LoraLandError, ValueError):
    """Prompt and answer do not fit into the context of the base."""

    status, code = 400, "context_length_exceeded"


class InvalidRequest(LoraLandError, ValueError):
    """A request has a parameter that is out of range, or that this server does not serve."""

    status, code = 400, "invalid_request"


class EngineBusy(LoraLandError, RuntimeError):
    """The queue is full; the message says when to retry."""

    status, code = 429, "engine_busy"


class EngineStopped(LoraLandError, RuntimeError):
    """The engine was closed while the request was under way, or before."""

    status, code = 503, "engine_stopped"


class EngineFailed(LoraLandError, RuntimeError):
    """A step of the model failed, or gave logits that are not numbers; the requests in it end."""

    status, code = 500, "engine_failed"


class ConstraintFailed(EngineFailed):
    """A constraint on an answer led to a point where no token may follow, or grew too complex."""

    status, code = 422, "constraint_failed"


class EndpointUnavailable(LoraLandError, ConnectionError):
    """An outside endpoint did not answer, however often it was asked; what it gave is kept."""

    status, code = 503, "endpoint_unavailable"


class EndpointGarbled(LoraLandError, ValueError):
    """What an outside endpoint sent is no answer: no JSON, no choices, wrong types, too much."""

    status, code = 502, "endpoint_garbled"


class EndpointRefused(LoraLandError, PermissionError):
    """An outside endpoint takes no such request: key, account, model or a parameter."""

    status, code = 424, "endpoint_refused"


class BudgetExhausted(LoraLandError, RuntimeError):
    """The next request to an outside endpoint might cost more than is left."""

    status, code = 402, "budget_exhausted"


class InvalidKey(LoraLandError, PermissionError):
    """A request has no API key, or one that does not hold."""

    status, code = 401, "invalid_api_key"


class UnknownKey(LoraLandError, LookupError):
    """No API key has that id."""

    status, code = 404, "key_not_found"


class ModelNotAllowed(LoraLandError, PermissionError):
    """The key may not use that model, whether it exists or not."""

    status, code = 403, "model_not_allowed"


class AdminKeyRequired(LoraLandError, PermissionError):
    """The key may ask models, but not change what is served or look at everything."""

    status, code = 403, "admin_key_required"


class ForeignOrigin(LoraLandError, PermissionError):
    """A page of another site, or another name of this machine, asked a server without keys."""

    status, code = 403, "foreign_origin"


class RateLimited(LoraLandError, RuntimeError):
    """A key has used up what it may for now; `retry_after_s` says when there is more."""

    status, code = 429, "rate_limit_exceeded"
    retry_after_s = 1.0


class QuotaExhausted(RateLimited):
    """A key has used up its tokens of today."""

    status, code = 429, "insufficient_quota"


class GatewayBusy(LoraLandError, RuntimeError):
    """The gateway holds as many requests as it may."""

    status, code = 429, "gateway_busy"


class LimitsUnavailable(LoraLandError, RuntimeError):
    """The limits of a key cannot be asked for now, and nothing passes without them."""

    status, code = 503, "limits_unavailable"


class RequestTimedOut(LoraLandError, TimeoutError):
    """An answer, or its first token, took longer than the server allows; its work has ended."""

    status, code = 504, "request_timed_out"


class BodyTimedOut(LoraLandError, TimeoutError):
    """A client took too long to send its request."""

    status, code = 408, "body_timed_out"


class UnknownReplica(LoraLandError, LookupError):
    """No replica of that id answers."""

    status, code = 404, "replica_not_found"


class SourceRefused(LoraLandError, PermissionError):
    """Adapters may not be brought in from that place, or it is no place at all."""

    status, code = 403, "source_refused"


class HeadersTooLarge(LoraLandError, ValueError):
    """The address and the headers of a request are larger than any real ones."""

    status, code = 431, "headers_too_large"


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """A clause that names the nearest of `known`, or lists them all when none is near.

    >>> did_you_mean("dbpeda", ["dbpedia", "viggo"])
    "did you mean 'dbpedia'?"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=most, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(f"'{other}'" for other in near) + "?"
    if not names:
        return "there are none yet"
    shown = ", ".join(f"'{other}'" for other in names[:20])
    return f"possible: {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def error_of(code: str, message: str) -> LoraLandError:
    """The error of a stable code, for errors that travelled as text.

    The base class for an unknown code.
    """
    classes: list[type[LoraLandError]] = [LoraLandError]
    for known in classes:
        classes += known.__subclasses__()
    return next((known for known in classes if known.code == code), LoraLandError)(message)
