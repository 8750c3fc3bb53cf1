"""The dependencies that a pyproject.toml declares."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from venvd_contract.errors import InvalidRequest

_PATCHES = 100
"""A minor version has releases from .0 to .99 at most."""
_DEEPEST = 50
"""The most extras or groups that include each other in a chain."""


class RequiresPython:
    """Which Pythons a project runs on.

    Raises:
        InvalidRequest: the text is not a version specifier.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._allowed = SpecifierSet(text)
        except InvalidSpecifier:
            raise InvalidRequest(f'requires-python: "{text[:80]}" is no version specifier such as >=3.11') from None

    def allows(self, version: str) -> bool:
        """Return whether a version is allowed. A minor version is allowed if one of its releases is."""
        releases = [version] if version.count(".") > 1 else [f"{version}.{patch}" for patch in range(_PATCHES)]
        return any(self._allowed.contains(release, prereleases=True) for release in releases)


class Pyproject:
    """The tables `project` and `dependency-groups` of a pyproject.toml.

    Raises:
        InvalidRequest: the text is not TOML, or declares no dependencies that can be read without a build.
    """

    def __init__(self, text: str) -> None:
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidRequest(f"pyproject: it is not TOML: {error}") from None
        self._project = _get_table(data, "project")
        self._groups = _get_table(data, "dependency-groups")
        if not self._project and not self._groups:
            raise InvalidRequest("pyproject: it has neither a table [project] nor [dependency-groups]")
        dynamic = self._project.get("dynamic", ())
        for name in ("dependencies", "optional-dependencies"):
            if name in dynamic:
                raise InvalidRequest(f"pyproject: its {name} are dynamic, so only a build knows them; list them there")
        self._name = canonicalize_name(str(self._project.get("name", "")))

    @property
    def requires_python(self) -> str | None:
        """The Pythons that the project runs on; None for any."""
        text = self._project.get("requires-python")
        return text if isinstance(text, str) else None

    def list_dependencies(self, extras: Sequence[str], groups: Sequence[str]) -> list[str]:
        """Return the project's dependencies, with those of extras and of dependency groups. Each of these counts once.

        Raises:
            InvalidRequest: there is no such extra or group; the message names those that exist.
        """
        lines = _get_lines(self._project, "dependencies", "project.dependencies")
        listed_extras: set[str] = set()
        for extra in extras:
            lines += self._list_extra(extra, (), listed_extras)
        listed_groups: set[str] = set()
        for group in groups:
            lines += self._list_group(group, (), listed_groups)
        return lines

    def _list_extra(self, extra: str, seen: tuple[str, ...], listed: set[str]) -> list[str]:
        table = {canonicalize_name(name): name for name in _get_table(self._project, "optional-dependencies")}
        name = _find(table, extra, "extra", seen)
        if name in listed:
            return []
        listed.add(name)
        lines = []
        for line in _get_lines(self._project["optional-dependencies"], name, f"the extra {name}"):
            own_extras = self._find_own_extras(line)
            if own_extras is None:
                lines.append(line)
            else:
                lines += [each for own in own_extras for each in self._list_extra(own, (*seen, name), listed)]
        return lines

    def _find_own_extras(self, line: str) -> set[str] | None:
        """Return the extras of a requirement that names the project itself; None for any other requirement."""
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            return None  # the check of the requirements reports what is wrong
        return requirement.extras if self._name and canonicalize_name(requirement.name) == self._name else None

    def _list_group(self, group: str, seen: tuple[str, ...], listed: set[str]) -> list[str]:
        name = _find({canonicalize_name(name): name for name in self._groups}, group, "dependency group", seen)
        if name in listed:
            return []
        listed.add(name)
        entries = self._groups[name]
        lines: list[str] = []
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, str):
                lines.append(entry)
            elif isinstance(entry, dict) and isinstance(entry.get("include-group"), str):
                lines += self._list_group(entry["include-group"], (*seen, name), listed)
            else:
                raise InvalidRequest(f"pyproject: the dependency group {name} takes requirements and include-group")
        return lines


def _find(names: dict[Any, str], wanted: str, kind: str, seen: tuple[str, ...]) -> str:
    name = names.get(canonicalize_name(wanted))
    if name is None:
        known = f"it has {', '.join(sorted(names.values()))}" if names else "it has none"
        raise InvalidRequest(f'pyproject: there is no {kind} "{wanted[:80]}"; {known}')
    if name in seen:
        raise InvalidRequest(f'pyproject: the {kind} "{name}" includes itself')
    if len(seen) > _DEEPEST:
        raise InvalidRequest(f'pyproject: the {kind} "{name}" is included through more than {_DEEPEST} others')
    return name


def _get_table(data: dict[str, Any], name: str) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise InvalidRequest(f"pyproject: {name} takes a table")
    return table


def _get_lines(data: dict[str, Any], name: str, shown: str) -> list[str]:
    lines = data.get(name, [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise InvalidRequest(f"pyproject: {shown} takes a list of requirements")
    return list(lines)
