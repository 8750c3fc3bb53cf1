"""The dependencies of a pyproject.toml."""

from __future__ import annotations

import pytest

from venvd_contract.errors import InvalidRequest
from venvd_engines.pyproject import Pyproject, RequiresPython

TEXT = """
[project]
name = "My.Project"
requires-python = ">=3.11"
dependencies = ["a>=1"]
[project.optional-dependencies]
fast = ["b"]
all = ["my-project[fast]", "c"]
loop = ["my-project[loop]"]
[dependency-groups]
test = ["d", {include-group = "Lint_Tools"}]
lint-tools = ["e"]
"""

DEEP = "[dependency-groups]\n" + "\n".join(f'g{n} = [{{include-group = "g{n + 1}"}}]' for n in range(2000))


def test_dependencies_with_extras_and_groups() -> None:
    """Extras may name the project's other extras, and groups include groups; names are compared as packages are."""
    pyproject = Pyproject(TEXT)
    assert pyproject.list_dependencies([], []) == ["a>=1"]
    assert pyproject.list_dependencies(["ALL"], ["test"]) == ["a>=1", "b", "c", "d", "e"]


def test_what_is_included_often_counts_once() -> None:
    """Groups and extras that include others twice do not grow from level to level."""
    groups = [f'g{n} = [{{include-group = "g{n + 1}"}}, {{include-group = "g{n + 1}"}}]' for n in range(40)]
    extras = [f'e{n} = ["p[e{n + 1}]", "p[e{n + 1}]"]' for n in range(40)]
    text = ["[project]", 'name = "p"', "[project.optional-dependencies]", *extras, 'e40 = ["a"]']
    text += ["[dependency-groups]", *groups, 'g40 = ["b"]']
    assert Pyproject("\n".join(text)).list_dependencies(["e0", "e1"], ["g0", "g1"]) == ["a", "b"]


def test_the_python_that_a_project_needs() -> None:
    """A minor version fits if any of its releases does."""
    assert Pyproject(TEXT).requires_python == ">=3.11"
    for version in ("3.11", "3.13.1"):
        assert RequiresPython(">=3.11").allows(version)
    for needed in ("<=3.13.5", "==3.13.2", ">=3.13.4", "==3.13.*"):
        assert RequiresPython(needed).allows("3.13")
    assert not RequiresPython(">=3.11").allows("3.9")
    with pytest.raises(InvalidRequest, match="no version specifier"):
        RequiresPython("3.11 or so")


@pytest.mark.parametrize(
    ("text", "extras", "groups", "says"),
    [
        ("[project", (), (), "not TOML"),
        ("[tool.other]\nx = 1", (), (), "neither a table"),
        ('[project]\nname = "p"\ndynamic = ["dependencies"]', (), (), "only a build knows them"),
        (TEXT, ("nope",), (), 'there is no extra "nope"; it has all, fast, loop'),
        (TEXT, (), ("nope",), "there is no dependency group"),
        (TEXT, ("loop",), (), "includes itself"),
        (DEEP, (), ("g0",), "through more than"),
        ('[project]\ndependencies = "a"', (), (), "takes a list"),
    ],
)
def test_what_cannot_be_read(text: str, extras: tuple[str, ...], groups: tuple[str, ...], says: str) -> None:
    """The error says what is wrong with the file, or which names it has."""
    with pytest.raises(InvalidRequest) as caught:
        Pyproject(text).list_dependencies(extras, groups)
    assert says in caught.value.message
