"""Python.NET in a venv: what it needs beside the user's requirements."""

from __future__ import annotations

from collections.abc import Sequence

_REQUIREMENTS = ("pythonnet>=3", "dotnetcore2>=3.1.23")
"""Python.NET, and the .NET runtime as a package."""


def add_requirements(lines: Sequence[str], dotnet: bool) -> list[str]:
    """Return the requirements of a venv, with those of Python.NET if it asks for .NET."""
    return [*lines, *(_REQUIREMENTS if dotnet else ())]
