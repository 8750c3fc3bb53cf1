"""Checks the contents of a venv before a build: requirements, Debian packages, modules to preload.

Requirement lines are those of PEP 508 with names, extras, versions and markers. The check refuses everything that
would let a line choose where a package comes from: index options, URLs, paths and variables.
"""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Collection, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from venvd_contract.errors import InvalidRequest, TooLarge

MAX_LINES = 1000
MAX_LINE = 1000
"""The most characters of a line."""

_RIGHT = 'write a package\'s name with versions, extras or a marker, such as "pandas[excel]>=2,<3" or "numpy==2.1.0"'
_COMMENT = re.compile(r"(^|\s)#.*$")
_DIRECT = re.compile(r"\s*[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^\]]*\])?\s*@")
_FILE = re.compile(r"[/\\]|^[.~]|\.(whl|zip|tar\.gz|tgz|tar\.bz2|txt|toml)\s*$", re.IGNORECASE)
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def check(lines: Sequence[str]) -> list[str]:
    """Return the requirements in their canonical form, sorted, without comments and blank lines.

    Two lines for one package with the same marker become one that demands both.

    Raises:
        InvalidRequest: a line is wrong; the message names it, what is wrong and what would be right.
        TooLarge: there are more lines than `MAX_LINES`.
    """
    if len(lines) > MAX_LINES:
        raise TooLarge(f"{len(lines)} requirement lines are more than the limit of {MAX_LINES}")
    combined: dict[tuple[str, str], Requirement] = {}
    for line in lines:
        text = _without_comment(line)
        if text:
            _add(combined, _parse(text))
    return sorted(str(requirement) for requirement in combined.values())


def replace_packages(lines: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the (checked) lines with the wanted ones. These replace the lines for the same packages."""
    names = {Requirement(line).name for line in wanted}
    return sorted([*(line for line in lines if Requirement(line).name not in names), *wanted])


def list_with_extras(lines: Sequence[str]) -> list[str]:
    """Return the (checked) lines that ask for extras."""
    return [line for line in lines if Requirement(line).extras]


def check_apt(names: Sequence[str]) -> list[str]:
    """Return the names of Debian packages, sorted, each once.

    Raises:
        InvalidRequest: a name is wrong; the message has the first that cannot be a package's.
    """
    for name in names:
        if len(name) > MAX_LINE or not _APT.fullmatch(name):
            raise InvalidRequest(f"{_show(name)} is no name of a Debian package: {_explain_apt(name)}")
    return sorted(set(names))


def check_apt_known(names: Sequence[str], known: Collection[str]) -> None:
    """Check that each name is a package's: apt would also take a pattern, or an action such as `tzdata+`.

    Raises:
        InvalidRequest: a name is unknown; the message has it and the nearest known name.
    """
    for name in names:
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1, cutoff=0.8)
            hint = f'; is "{similar[0]}" meant?' if similar else ""
            raise InvalidRequest(f"the base image's Debian has no package {_show(name)}{hint}")


def _explain_apt(name: str) -> str:
    if "=" in name or "/" in name:
        return "versions and releases cannot be chosen; write the name alone"
    if name.endswith("-"):
        return 'apt would remove the package; packages can only be added, as "libgomp1"'
    if name.endswith(".") or set(name) & set("*?^$|[]()"):
        return "patterns are not taken; write each name out"
    return "lower-case letters, digits, '+', '-' and '.', such as \"libgomp1\""


def check_modules(names: Sequence[str]) -> list[str]:
    """Return the names of modules to preload, in their order, each once.

    Raises:
        InvalidRequest: a name is wrong; the message has the first that cannot be a module's.
    """
    for name in names:
        if len(name) > MAX_LINE or not _MODULE.fullmatch(name) or any(map(keyword.iskeyword, name.split("."))):
            raise InvalidRequest(f'{_show(name)} is no name of a module: write it as "numpy" or "numpy.linalg"')
    return list(dict.fromkeys(names))


def _show(text: str) -> str:
    """Return the text for a message: short, and without characters that move a terminal's cursor."""
    visible = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:81])
    return f'"{visible[:80]}…"' if len(visible) > 80 else f'"{visible}"'


def _wrong(line: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"the requirement {_show(line)} {reason}")


def _without_comment(line: str) -> str:
    if len(line) > MAX_LINE:
        raise _wrong(line, f"is longer than {MAX_LINE} characters")
    text = line.strip()
    if not text.replace("\t", " ").isprintable():
        raise _wrong(line, "holds control characters or several lines: give each requirement as one line")
    return _COMMENT.sub("", text).strip()


def _parse(text: str) -> Requirement:
    _refuse_sources(text)
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        raise _wrong(text, f"cannot be read: {reason}; {_RIGHT}") from None
    if requirement.url is not None:
        raise _wrong(text, f"names an address: {_RIGHT}")
    if requirement.marker is not None and re.search(r"\bextra\b", str(requirement.marker)):
        raise _wrong(text, 'has a marker on "extra", which means nothing here: leave the marker out')
    _check_exact(text, requirement)
    requirement.name = canonicalize_name(requirement.name)
    return requirement


def _refuse_sources(text: str) -> None:
    if text.startswith("-"):
        raise _wrong(text, f"is an option; options, other files and indexes cannot be given here: {_RIGHT}")
    if "$" in text or re.search(r"%\w+%", text):
        raise _wrong(text, f"names an environment variable, which venvd does not replace: {_RIGHT}")
    if "://" in text or re.match(r"(git|hg|svn|bzr)\+|file:", text, re.IGNORECASE) or _DIRECT.match(text):
        raise _wrong(text, f"names an address; packages come from the package index only: {_RIGHT}")
    if text.endswith("\\"):
        raise _wrong(text, "goes on in another line: give each requirement as one line")
    if _FILE.search(text.partition(";")[0]):
        raise _wrong(text, f"is a path; packages come from the package index only: {_RIGHT}")


def _check_exact(text: str, requirement: Requirement) -> None:
    """Check the version after `===`: PEP 440 allows any text there, but installers do not."""
    for specifier in requirement.specifier:
        if specifier.operator == "===":
            try:
                Version(specifier.version)
            except InvalidVersion:
                raise _wrong(text, f'pins "{specifier.version}", which is no version: write it as ==1.2.3') from None


def _add(combined: dict[tuple[str, str], Requirement], requirement: Requirement) -> None:
    key = (requirement.name, str(requirement.marker or ""))
    before = combined.get(key)
    merged = requirement if before is None else _merge(before, requirement)
    if merged.specifier.is_unsatisfiable():
        asked = str(requirement) if before is None else f"{before} and {requirement}"
        raise InvalidRequest(f"no version can satisfy {_show(asked)}: ask for versions that exist together")
    combined[key] = merged


def _merge(first: Requirement, second: Requirement) -> Requirement:
    made = Requirement(str(first))
    made.extras = first.extras | second.extras
    made.specifier = first.specifier & second.specifier
    return made
