"""Constrained answers: whatever is chosen among the allowed tokens, the answer matches."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from loraland.engine.constraints import (
    MOST_CHARACTERS,
    MOST_CHOICES,
    ConstraintCompiler,
    Grammar,
)
from loraland.engine.protocol import Sampling
from loraland.engine.sampling import Chooser
from loraland.engine.vocabulary import Vocabulary
from loraland.errors import ConstraintFailed, InvalidRequest

STOP, OTHER_STOP = 0, 1
A, B = 66, 67  # the letters


def merged_tokenizer():
    """Bytes, and some tokens of several, as real vocabularies have."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "r"), ("u", "e"), ("tr", "ue"), ('"', ":"), ("{", '"'), ("1", "2"), ("a", "b")]
    words = ["<end>", "<turn>", *alphabet, *("".join(pair) for pair in merges)]
    core = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<end>", "<turn>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


@pytest.fixture(scope="module")
def tokenizer():
    return merged_tokenizer()


@pytest.fixture(scope="module")
def vocabulary(tokenizer):
    return Vocabulary(tokenizer, {STOP, OTHER_STOP})


@pytest.fixture(scope="module")
def compiler(vocabulary):
    return ConstraintCompiler(vocabulary)


def schema(**fields):
    return Grammar("json_schema", json.dumps(fields))


def choice(*texts):
    return Grammar("choice", json.dumps(texts))


def walk(constraint, vocabulary, seed, most=400):
    """Random allowed tokens up to a stop token: the text, and whether it came to its end."""
    chance, matcher, text = random.Random(seed), constraint.start(), b""
    for _ in range(most):
        allowed = np.flatnonzero(matcher.allowed()).tolist()
        # Long answers end sooner, and blanks do not fill them.
        stops = [token for token in allowed if token in vocabulary.stop_token_ids]
        token = chance.choice(stops if stops and len(text) > 20 else allowed)
        matcher.accept(token)
        if token in vocabulary.stop_token_ids:
            return text.decode(), True
        text += vocabulary.bytes_of(token)
    return text.decode(errors="ignore"), False


def fits(constraint, tokenizer, text):
    """Whether the tokens of a whole text and then the end are allowed, one after the other."""
    matcher = constraint.start()
    for token in [*tokenizer(text)["input_ids"], STOP]:
        if not matcher.allowed()[token]:
            return False
        matcher.accept(token)
    return True


@pytest.mark.parametrize(
    "regex", [r"(ab|c){2,4}[0-9]{3}", r"[^a-z]{3}x?", r"a*b+|12*", r"[a-zé]{2,5}/é"]
)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_whatever_is_chosen_matches_the_regular_expression(compiler, vocabulary, regex, seed):
    text, ended = walk(compiler.compile(Grammar("regex", regex)), vocabulary, seed)
    assert re.fullmatch(regex, text) if ended else len(text) > 100


PERSON = {
    "type": "object",
    "properties": {
        "name": {"enum": ["Ada", "Émile"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["x", "y/z"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_whatever_is_chosen_matches_the_schema(compiler, vocabulary, seed):
    text, ended = walk(compiler.compile(schema(**PERSON)), vocabulary, seed, most=2000)
    assert ended, text
    person = json.loads(text)
    assert person["name"] in ("Ada", "Émile")
    assert isinstance(person["age"], int) and 0 <= person["age"] <= 130
    assert set(person) <= {"name", "age", "tags"}
    assert len(person.get("tags", [])) <= 2


CHOICES = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5, unique=True)


@settings(max_examples=60, deadline=None)
@given(texts=CHOICES, seed=st.integers(0, 99))
def test_whatever_is_chosen_is_one_of_the_choices(compiler, vocabulary, texts, seed):
    text, ended = walk(compiler.compile(choice(*texts)), vocabulary, seed)
    assert ended
    assert text in texts


@pytest.mark.parametrize(
    "text", ["a/b", "(x)*", "a\nb", "\\", '"', "yes!", "é😀", "a b", "^$", "#"]
)
def test_a_choice_is_taken_letter_by_letter(compiler, tokenizer, text):
    constraint = compiler.compile(choice("yes", text))
    assert fits(constraint, tokenizer, text)
    assert fits(constraint, tokenizer, "yes")
    assert not fits(constraint, tokenizer, text + "x")


def test_any_object_is_a_json_object_and_nothing_else_is(compiler, tokenizer):
    constraint = compiler.compile(Grammar("json_object"))
    assert fits(constraint, tokenizer, '{"a": [1, {"b": null}]}')
    assert fits(constraint, tokenizer, "{}")
    assert not any(fits(constraint, tokenizer, text) for text in ("[]", "12", '{"a"}', "{} {}"))


def test_blanks_in_json_are_taken_but_not_without_end(compiler, tokenizer):
    constraint = compiler.compile(Grammar("json_object"))
    assert fits(constraint, tokenizer, '{\n    "a": 1\n}')
    assert not fits(constraint, tokenizer, "{" + " " * 40 + "}")


def test_stop_tokens_are_allowed_where_the_answer_may_end_and_alone_where_it_must(compiler):
    matcher = compiler.compile(choice("a", "ab")).start()
    assert not matcher.allowed()[[STOP, OTHER_STOP]].any()
    matcher.accept(A)
    assert np.flatnonzero(matcher.allowed()).tolist() == [STOP, OTHER_STOP, B]
    assert not matcher.finished
    matcher.accept(B)
    assert np.flatnonzero(matcher.allowed()).tolist() == [STOP, OTHER_STOP]
    assert matcher.finished


def test_asking_what_is_allowed_changes_nothing(compiler):
    matcher = compiler.compile(choice("a", "ab")).start()
    assert (matcher.allowed() == matcher.allowed()).all()
    matcher.accept(A)
    assert (matcher.allowed() == matcher.allowed()).all()


@pytest.mark.parametrize("stop", [STOP, OTHER_STOP])
def test_an_answer_that_goes_on_after_its_end_is_an_error(compiler, stop):
    matcher = compiler.compile(choice("a")).start()
    matcher.accept(A)
    matcher.accept(stop)
    assert matcher.finished
    with pytest.raises(ConstraintFailed, match=f"ended with token {stop}.*stop_token_ids"):
        matcher.allowed()


def test_a_token_that_is_not_allowed_is_an_error_and_stays_one(compiler):
    matcher = compiler.compile(choice("a")).start()
    with pytest.raises(ConstraintFailed, match="leads nowhere"):
        matcher.accept(B)
    assert not matcher.finished
    with pytest.raises(ConstraintFailed):
        matcher.allowed()


def test_answers_share_a_constraint_and_no_state(compiler):
    constraint = compiler.compile(choice("ab", "ba"))
    one, other = constraint.start(), constraint.start()
    one.accept(A)
    assert np.flatnonzero(one.allowed()).tolist() == [B]
    assert other.allowed()[[A, B]].all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_chooser_writes_what_matches_even_against_the_model(compiler, vocabulary, temperature):
    size = vocabulary.core.vocab_size
    logits = torch.zeros(size + 5)  # a model may have more rows than its tokenizer has tokens
    logits[size:], logits[80] = 50.0, 40.0
    matcher = compiler.compile(schema(**PERSON)).start()
    chooser, text = Chooser(Sampling(temperature=temperature, seed=3), (), matcher), b""
    for _ in range(300):
        token = chooser.choose(logits).token_id
        if token in vocabulary.stop_token_ids:
            break
        text += vocabulary.bytes_of(token)
    assert json.loads(text)["name"] in ("Ada", "Émile")


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar("regex", "("), "regular expression.*unclosed group"),
        (Grammar("regex", "[z-a]"), "invalid character class range"),
        (Grammar("regex", "(?=a)b"), "look-ahead"),
        (Grammar("regex", r"(a)\1"), "backreferences are not supported"),
        (Grammar("regex", r"[^\s\S]"), "no text matches it"),
        (Grammar("regex", "a{1000}{1000}"), "too many expressions"),
        (Grammar("regex", "(" * 3000 + ")" * 3000), "regular expression cannot be used"),
        (Grammar("regex", "a" * (MOST_CHARACTERS + 1)), f"at most {MOST_CHARACTERS}"),
        (Grammar("regex", "\ud800"), "surrogate"),
        (Grammar("json_schema", "{"), "JSON schema cannot be used: Expecting"),
        (Grammar("json_schema", "[]"), "must be a JSON object"),
        (Grammar("json_schema", "true"), "must be a JSON object"),
        (Grammar("json_schema", '{"a":' * 5000 + "1" + "}" * 5000), "nested too deeply"),
        (schema(type="objekt"), "objekt"),
        (schema(type="array", uniqueItems=True), "uniqueItems"),
        (schema(type="string", minLength=3, maxLength=2), "minLength"),
        (schema(type="string", pattern="("), "unclosed group"),
        (schema(**{"$ref": "https://example.org/schema"}), r"example\.org"),
        (schema(**{"$ref": "#/$defs/none"}), r"\$defs/none"),
        (choice(), "1 to 1000 texts"),
        (choice(""), "none of them empty"),
        (choice("a", 5), "1 to 1000 texts"),
        (choice(*["x"] * (MOST_CHOICES + 1)), "1 to 1000 texts"),
        (choice("\ud800"), "1 to 1000 texts"),
        (Grammar("choice", "x"), "list of choices cannot be used"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused_with_the_reason(compiler, grammar, reason):
    with pytest.raises(InvalidRequest, match=reason) as caught:
        compiler.compile(grammar)
    assert len(caught.value.message) < 700
    assert "\n" not in caught.value.message


def test_a_large_schema_is_within_the_limits(compiler, vocabulary):
    names = [f"field{number}" for number in range(500)]
    large = schema(
        type="object",
        properties={name: {"type": "string", "maxLength": 40} for name in names},
        required=names[:3],
    )
    matcher = compiler.compile(large).start()
    assert vocabulary.bytes_of(int(matcher.allowed().argmax())) in (b"{", b'{"')


def test_compiled_constraints_are_kept_by_content_and_the_oldest_goes(vocabulary):
    compiler = ConstraintCompiler(vocabulary, kept=2)
    one, two = compiler.compile(choice("a")), compiler.compile(choice("b"))
    assert compiler.compile(choice("a")) is one
    compiler.compile(choice("c"))
    assert compiler.compile(choice("a")) is one
    assert compiler.compile(choice("b")) is not two


def test_a_refused_grammar_is_not_kept(vocabulary):
    compiler = ConstraintCompiler(vocabulary)
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            compiler.compile(Grammar("regex", "("))


def test_a_base_without_an_end_token_takes_no_constraints_but_has_token_bytes(tokenizer):
    endless = Vocabulary(tokenizer, ())
    with pytest.raises(InvalidRequest, match="no end token"):
        ConstraintCompiler(endless).compile(choice("a"))
    assert endless.bytes_of(A) == b"a"


def test_a_tokenizer_that_cannot_be_read_is_refused_with_the_reason():
    class Slow:
        pass

    class Broken:
        class backend_tokenizer:
            @staticmethod
            def to_str():
                return "{}"

    with pytest.raises(InvalidRequest, match="`tokenizers` library"):
        Vocabulary(Slow(), {0}).bytes_of(1)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        Vocabulary(Broken(), {0}).bytes_of(1)


def test_the_bytes_of_all_tokens_make_the_text(tokenizer, vocabulary):
    text = 'true {"é": 12} 😀\n'
    ids = tokenizer(text)["input_ids"]
    assert len(ids) < len(text.encode())
    assert b"".join(vocabulary.bytes_of(token) for token in ids).decode() == text
    assert vocabulary.bytes_of(STOP) == b"<end>"
    assert vocabulary.bytes_of(vocabulary.core.vocab_size + 3) == b""
