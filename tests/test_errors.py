"""Every error keeps what callers and the gateway rely on."""

from __future__ import annotations

import builtins
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland import errors
from loraland.errors import LoraLandError, did_you_mean

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, LoraLandError) and kind is not LoraLandError
]
BUILTINS = {kind for kind in vars(builtins).values() if inspect.isclass(kind)} - {
    object,
    BaseException,
    Exception,
}


def test_there_are_errors_to_judge():
    assert len(CLASSES) > 15


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_refines_a_builtin(kind):
    assert BUILTINS & set(kind.__mro__)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_has_a_status_and_a_stable_code_of_its_own(kind):
    assert 400 <= kind.status < 600
    assert kind.code == kind.code.lower() and kind.code.replace("_", "").isalnum()
    assert [other for other in CLASSES if other.code == kind.code] == [kind]
    assert kind.code != LoraLandError.code


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_survives_pickling_with_its_message(kind):
    error = pickle.loads(pickle.dumps(kind("adapter 'x' has rank 64; retrain")))
    assert type(error) is kind
    assert error.message == str(error) == "adapter 'x' has rank 64; retrain"
    assert (error.status, error.code) == (kind.status, kind.code)


def test_error_without_a_message_shows_its_code():
    assert errors.UnknownModel().message == "model_not_found"


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_says_what_it_means(kind):
    assert kind.__doc__ and kind.__doc__.strip().endswith(".")


def test_nearest_names_are_offered_first():
    assert did_you_mean("dbpeda", ["dbpedia", "viggo"]) == "did you mean 'dbpedia'?"


def test_all_names_are_listed_when_none_is_near():
    assert did_you_mean("zzzz", ["b", "a", "a"]) == "possible: 'a', 'b'"
    assert did_you_mean("zzzz", []) == "there are none yet"
    assert did_you_mean("?", [f"name{n:02}" for n in range(25)]).endswith("and 5 more")


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=30))
def test_a_clause_comes_for_any_names(name, known):
    assert did_you_mean(name, known)
