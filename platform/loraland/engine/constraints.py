"""Compiles what an answer must look like: a JSON schema, a regular expression, a list of choices.

llguidance does the matching, token by token over the vocabulary of a base. Compiled constraints are
kept and shared. Sizes are bounded, so that no request holds up the rest. The engine knows only
`protocol.Constraint`. Imports neither torch nor Ray.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from loraland.engine.vocabulary import Vocabulary
from loraland.errors import ConstraintFailed, InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CHARACTERS = 65_536  # of a grammar; a schema of a thousand properties has about 40,000
MOST_CHOICES = 1_000
KEPT = 128  # compiled constraints per base; a large one takes some MB

# In units of llguidance. Fuel is time: initial about 50,000 a ms, per step about 14,000 a ms.
LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,  # a tenth of the default's worst case, which takes two seconds
    step_lexer_fuel=100_000,
    max_lexer_states=20_000,  # 1-2 kB each
    max_grammar_size=100_000,  # symbols
    verbose_errors=False,
)
# Models that are unsure of JSON like to write blanks without end.
JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \t\r\n]{1,32}"}

# Before the JSON of a call in an answer; models that were trained for tools know it, too.
CALL_MARK = "<tool_call>"
CALL_OPTIONS: Any = {"whitespace_pattern": " "}  # nobody reads a call; one blank at most
CALL_RULES = rf"""
head[lazy]: TEXT "{CALL_MARK}"
TEXT: /(.|\n)*/
BLANK: /[ \n]{{1,4}}/
"""

Kind = Literal["json_object", "json_schema", "regex", "choice", "call", "text_or_call"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must match, as it was asked for."""

    kind: Kind
    # The schema as JSON, the expression, or the choices as a JSON list of texts. A call is
    # CALL_MARK and JSON that matches the schema; `text_or_call` takes any text before it, or alone.
    text: str = ""


class ConstraintCompiler:
    """Constraints over one vocabulary. May be called from several threads."""

    def __init__(self, vocabulary: Vocabulary, *, kept: int = KEPT) -> None:
        """Keep at most `kept` compiled constraints, those used last."""
        self._vocabulary, self._kept = vocabulary, kept
        self._compiled: OrderedDict[Grammar, CompiledConstraint] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> CompiledConstraint:
        """The constraint of a grammar; takes milliseconds, up to some hundreds for a large one.

        Raises InvalidRequest that says what is wrong with the grammar.
        """
        with self._lock:
            if (known := self._compiled.get(grammar)) is not None:
                self._compiled.move_to_end(grammar)
                return known
        made = CompiledConstraint(self._matcher(grammar), self._vocabulary)
        with self._lock:
            self._compiled[grammar] = made
            while len(self._compiled) > self._kept:
                self._compiled.popitem(last=False)
        return made

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        if len(grammar.text) > MOST_CHARACTERS:
            raise InvalidRequest(
                f"the {_name(grammar)} has {len(grammar.text)} characters, at most "
                f"{MOST_CHARACTERS} are taken; make it smaller"
            )
        if not _is_text(grammar.text):
            raise _wrong(grammar, "it holds half a character (a lone surrogate)")
        if not self._vocabulary.stop_token_ids:
            raise InvalidRequest(
                "this base has no end token, so nothing tells where a constrained answer ends; "
                "leave the constraint out, or ask another base"
            )
        matcher = LLMatcher(self._vocabulary.core, _source(grammar), log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _wrong(grammar, matcher.get_error())
        if (reason := _probe(matcher.deep_copy())) is not None:
            raise _wrong(grammar, reason)
        return matcher


class CompiledConstraint:
    """See `protocol.Constraint`."""

    def __init__(self, start: LLMatcher, vocabulary: Vocabulary) -> None:
        self._start, self._stops = start, vocabulary.stop_token_ids
        self._vocabulary_size = vocabulary.core.vocab_size

    def start(self) -> GrammarMatcher:
        """See `protocol.Constraint.start`; takes microseconds."""
        return GrammarMatcher(self._start.deep_copy(), self._vocabulary_size, self._stops)


class GrammarMatcher:
    """See `protocol.Matcher`."""

    def __init__(self, core: LLMatcher, vocabulary_size: int, stops: frozenset[int]) -> None:
        self._core, self._size, self._stops = core, vocabulary_size, stops
        self._ended_by: int | None = None

    @property
    def finished(self) -> bool:
        """See `protocol.Matcher.finished`."""
        core = self._core
        return bool(core.is_stopped() and core.is_accepting() and not core.is_error())

    def allowed(self) -> NDArray[np.bool_]:
        """See `protocol.Matcher.allowed`; takes some tens of microseconds."""
        if self._ended_by is not None:
            raise ConstraintFailed(
                f"the constrained answer ended with token {self._ended_by}, which the request does "
                "not name among its stop tokens; add it to stop_token_ids"
            )
        mask = _mask(self._core)[: self._size]
        self._check()
        return mask

    def accept(self, token_id: int) -> None:
        """See `protocol.Matcher.accept`."""
        if not self._core.consume_token(token_id):
            self._check()
        if token_id in self._stops:
            self._ended_by = token_id

    def _check(self) -> None:
        """Raises ConstraintFailed in a state that nothing leads out of."""
        if (reason := _dead_end(self._core)) is not None:
            raise ConstraintFailed(
                f"the constraint on the answer leads nowhere: {reason}; correct it, or make it "
                "simpler"
            )


def _source(grammar: Grammar) -> str:
    """The grammar in llguidance's own format. Raises InvalidRequest."""
    if grammar.kind == "regex":
        return str(LLMatcher.grammar_from_regex(grammar.text))
    if grammar.kind == "choice":
        return str(LLMatcher.grammar_from_regex("|".join(map(_literal, _choices(grammar)))))
    schema = '{"type": "object"}' if grammar.kind == "json_object" else grammar.text
    try:
        document = json.loads(schema)
        if not isinstance(document, dict):
            raise _wrong(grammar, "it must be a JSON object")
        if grammar.kind in ("call", "text_or_call"):
            return _call_source(document, optional=grammar.kind == "text_or_call")
        return str(LLMatcher.grammar_from_json_schema(schema, defaults=JSON_OPTIONS))
    except RecursionError:
        raise _wrong(grammar, "it is nested too deeply") from None
    except ValueError as error:
        if isinstance(error, InvalidRequest):
            raise
        raise _wrong(grammar, str(error)) from error


def _call_source(schema: dict[str, Any], *, optional: bool) -> str:
    start = "TEXT | head BLANK? call" if optional else f'"{CALL_MARK}" call'
    document = json.dumps({**schema, "x-guidance": CALL_OPTIONS})
    rules = f"%llguidance {{}}\nstart: {start}\ncall: %json {document}"
    return str(LLMatcher.grammar_from_lark(rules + (CALL_RULES if optional else "")))


def _choices(grammar: Grammar) -> list[str]:
    try:
        choices = json.loads(grammar.text)
    except ValueError as error:
        raise _wrong(grammar, str(error)) from error
    if not (
        isinstance(choices, list)
        and 1 <= len(choices) <= MOST_CHOICES
        and all(isinstance(choice, str) and choice and _is_text(choice) for choice in choices)
    ):
        raise _wrong(grammar, f"it must hold 1 to {MOST_CHOICES} texts, none of them empty")
    return choices


def _literal(text: str) -> str:
    """A regular expression that matches just this text."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _mask(core: LLMatcher) -> NDArray[np.bool_]:
    packed = np.frombuffer(core.compute_bitmask(), np.uint8)
    return np.unpackbits(packed, bitorder="little").view(np.bool_)


def _dead_end(core: LLMatcher) -> str | None:
    """Why no token may follow, None where one may."""
    if not core.is_error():
        return None
    reason = core.get_error().splitlines()[0][:200]
    return "no text matches it from here" if reason.startswith("NoExtension") else reason


def _probe(core: LLMatcher) -> str | None:
    """Takes the first step now, where it costs and fails one request alone; why it failed.

    llguidance unfolds some expressions only here.
    """
    mask = _mask(core)
    if (reason := _dead_end(core)) is not None:
        return reason
    core.consume_token(int(mask.argmax()))
    return _dead_end(core)


def _name(grammar: Grammar) -> str:
    names = {"regex": "regular expression", "choice": "list of choices"}
    return names.get(grammar.kind, "JSON schema")


def _wrong(grammar: Grammar, reason: str) -> InvalidRequest:
    words = " ".join(reason.split())[:500]  # llguidance draws its reasons over several lines
    return InvalidRequest(f"the {_name(grammar)} cannot be used: {words}")
