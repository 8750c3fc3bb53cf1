"""Remote errors are caught as what they are, and pickled."""

from __future__ import annotations

import builtins
import pickle

import pytest

from venvd.errors import UserError, error_from_reply


def make(name: str) -> UserError:
    error = error_from_reply({"code": "user_error", "error": "why", "errorType": name, "traceback": "where"})
    assert isinstance(error, UserError)
    return error


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("JSONDecodeError", ValueError),
        ("UnicodeDecodeError", ValueError),
        ("ConnectionRefusedError", OSError),
        ("gaierror", OSError),
        ("UnboundLocalError", NameError),
        ("AttributeError", AttributeError),
    ],
)
def test_errors_are_caught_by_their_base(name: str, base: type[Exception]) -> None:
    """`except ValueError` catches what it catches with local objects."""
    with pytest.raises(base, match="why"):
        raise make(name)


def test_errors_are_pickled_whole() -> None:
    """An error keeps its type, message and traceback, whatever user code raised."""
    names = [
        name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
    ]
    for name in [*names, "JSONDecodeError", "OddError"]:
        error = make(name)
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - what this test is about
        assert type(copy) is type(error)
        assert (str(copy), copy.error_type, copy.traceback) == ("why", name, "where")
        assert copy.__notes__ == error.__notes__


def test_the_end_of_an_iterator_ends_no_loop_here() -> None:
    """The end of an iterator is not raised where it would end a loop of the program."""
    assert not isinstance(make("StopIteration"), StopIteration)
