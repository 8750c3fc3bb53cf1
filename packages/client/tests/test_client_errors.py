"""Remote errors are caught as what they are, and pickled."""

from __future__ import annotations

import builtins
import pickle
from typing import Any

import pytest

from venvd.errors import UserError, error_from_reply
from venvd_contract.exceptions import MOST_CAUSES


def make(name: str, /, **known: Any) -> UserError:
    fields = {"code": "user_error", "error": "why", "errorType": name, "traceback": "where", "exception": known}
    error = error_from_reply(fields)
    assert isinstance(error, UserError)
    return error


@pytest.mark.parametrize(
    ("name", "bases", "base"),
    [
        ("JSONDecodeError", ["ValueError", "Exception"], ValueError),
        ("UnicodeDecodeError", ["UnicodeError", "ValueError"], UnicodeError),
        ("ConnectionRefusedError", [], OSError),
        ("gaierror", ["OSError"], OSError),
        ("UnboundLocalError", ["NameError"], NameError),
        ("AttributeError", [], AttributeError),
        ("Both", ["other.Odd", "KeyError", "LookupError", "ConnectionError"], KeyError),
        ("Both", ["other.Odd", "KeyError", "LookupError", "RuntimeError"], RuntimeError),
    ],
)
def test_errors_are_caught_by_their_bases(name: str, bases: list[str], base: type[Exception]) -> None:
    """`except ValueError` catches what it catches with local objects."""
    with pytest.raises(base, match="why") as caught:
        raise make(name, bases=bases)
    assert str(caught.value) == "why"


def test_an_error_has_the_members_of_the_exception() -> None:
    """Arguments, number and name of the file, notes and what it came from are those of the exception."""
    cause = {"errorType": "KeyError", "message": "'key'", "args": ["key"], "context": {"errorType": "Odd"}}
    known = {"args": [2, "no such file"], "errno": 2, "filename": "data.csv", "notes": ["row 7"], "cause": cause}
    error = make("FileNotFoundError", **known)
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.filename, error.args) == (2, "data.csv", (2, "no such file"))
    assert error.__notes__[0] == "row 7"
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.args == ("key",)
    assert isinstance(error.__cause__.__context__, UserError)
    assert make("Odd", args=[5]).args == (5,)
    assert make("AttributeError", name="colour").name == "colour"  # type: ignore[attr-defined]


def test_fields_of_the_wrong_type_are_ignored() -> None:
    """A session cannot make an error that breaks its client."""
    wrong: dict[str, Any] = {"bases": [1, 2], "args": "text", "errno": "two", "filename": 5, "notes": [{}], "cause": []}
    error = make("OSError", **wrong, context="x", name=[])
    assert (error.args, error.errno, error.filename, error.__cause__) == (("why",), None, None, None)  # type: ignore[attr-defined]
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"errorType": "Deep", "context": deep}
    error, length = make("ValueError", context=deep), 0
    while error.__context__ is not None:
        error, length = error.__context__, length + 1  # type: ignore[assignment]
    assert length == MOST_CAUSES


def test_errors_are_pickled_whole() -> None:
    """An error keeps its type, message and traceback, whatever user code raised."""
    names = [
        name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
    ]
    for name in [*names, "JSONDecodeError", "OddError"]:
        error = make(name, bases=["Exception"], args=[1], notes=["where"], cause={"message": "before"})
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - what this test is about
        assert type(copy) is type(error)
        assert (str(copy), copy.error_type, copy.traceback) == ("why", name, "where")
        assert (copy.__notes__, copy.args, str(copy.__cause__)) == (error.__notes__, (1,), "before")


def test_the_end_of_an_iterator_ends_no_loop_here() -> None:
    """The end of an iterator is not raised where it would end a loop of the program."""
    assert not isinstance(make("StopIteration"), StopIteration)
