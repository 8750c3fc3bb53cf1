"""The public API: the names that programs may import."""

from __future__ import annotations

import inspect
import pkgutil
from pathlib import Path
from typing import Any

import venvd
import venvd.errors

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def describe(name: str, member: Any) -> list[str]:
    """A line for a function or class, and one for each public method of a class that the client defines."""
    if not inspect.isclass(member) or member.__module__ != "venvd":
        return [f"{name}{inspect.signature(member)}" if inspect.isfunction(member) else name]
    lines = [name]
    for attribute in sorted(dir(member)):
        value = inspect.getattr_static(member, attribute)
        if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            lines.append(f"{name}.{attribute}" + (str(inspect.signature(value)) if inspect.isfunction(value) else ""))
    return lines


def test_the_public_names_are_those_of_the_snapshot() -> None:
    """Names and signatures change only together with `public_api.txt`, which holds what stands here."""
    lines = [line for name in sorted(venvd.__all__) for line in describe(name, getattr(venvd, name))]
    lines += [f"errors.{name}" for name in sorted(venvd.errors.__all__)]
    assert lines == SNAPSHOT.read_text().splitlines()


def test_modules_that_are_not_api_begin_with_an_underscore() -> None:
    """Of the modules of the package, `errors` alone is public."""
    names = {module.name for module in pkgutil.iter_modules(venvd.__path__)}
    assert {name for name in names if not name.startswith("_")} == {"errors"}


def test_every_public_name_explains_itself() -> None:
    """Each class and function of the client has a docstring, and so has each of its public methods."""
    silent = []
    for name in venvd.__all__:
        member = getattr(venvd, name)
        if getattr(member, "__module__", "") != "venvd":
            continue
        silent += [name] if not member.__doc__ else []
        for attribute, value in vars(member).items() if inspect.isclass(member) else ():
            if not attribute.startswith("_") and callable(value) and not value.__doc__:
                silent.append(f"{name}.{attribute}")
    assert not silent
