"""Changes an existing venv: adds or removes requirements, and shows the difference."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import click

from venvd._cli.command import State
from venvd.errors import NotFound
from venvd_contract.resources import VenvChange, VenvSpec
from venvd_contract.suggestions import check_names

_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_PART = 200


def add_requirements(spec: VenvSpec, packages: Sequence[str]) -> VenvSpec:
    """Return a specification with further requirements. Each one replaces a requirement for the same package."""
    named = {parse_package(word) for word in packages}
    kept = [line for line in spec.requirements if parse_package(line) not in named]
    return dataclasses.replace(spec, requirements=[*kept, *packages])


def remove_requirements(spec: VenvSpec, packages: Sequence[str]) -> VenvSpec:
    """Return a specification without the requirements for some packages.

    Raises:
        InvalidRequest: a package has no requirement. The message names the nearest one.
    """
    named = [parse_package(word) for word in packages]
    check_names(named, sorted(map(parse_package, spec.requirements)), "the requirement")
    return dataclasses.replace(
        spec, requirements=[line for line in spec.requirements if parse_package(line) not in named]
    )


def parse_package(requirement: str) -> str:
    """Return the normalised name of the package that a requirement is for.

    Raises:
        click.UsageError: the requirement does not begin with a name.
    """
    match = _PACKAGE.match(requirement.strip())
    if match is None:
        raise click.UsageError(f'"{requirement}" is no requirement; one is "numpy" or "numpy>=2"')
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def put_venv(state: State, name: str, spec: VenvSpec, *, upgrade: bool = False) -> VenvChange:
    """Create or change a venv. Say what changes in an existing one."""
    venvs = state.controller.venvs
    try:
        before = venvs.get(name).spec
    except NotFound:
        return venvs.put(name, spec, upgrade=upgrade)
    change = venvs.put(name, spec, upgrade=upgrade)
    lines = describe_change(before, change.venv.spec)
    if lines:
        state.say("\n".join([f"{name} exists, and changes:", *lines]))
    return change


def describe_change(before: VenvSpec, after: VenvSpec) -> list[str]:
    """Return the difference of two specifications. Lines that begin with `-` are gone, and those with `+` are new."""
    lines = []
    for field in dataclasses.fields(VenvSpec):
        old, new = _list_parts(getattr(before, field.name)), _list_parts(getattr(after, field.name))
        lines += [f"  - {field.name}: {part}" for part in old if part not in new]
        lines += [f"  + {field.name}: {part}" for part in new if part not in old]
    return lines


def _list_parts(value: Any) -> list[str]:
    """Return the parts of a field's value, each as one line. An empty value has no parts."""
    if isinstance(value, dict):
        return [f"{name}={part}" for name, part in value.items()]
    if isinstance(value, list):
        return [str(part) for part in value]
    return [str(value).replace("\n", " ")[:_LONGEST_PART]] if value else []
