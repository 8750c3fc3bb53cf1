"""Locking and installing with uv: its arguments, its output and its errors.

All engines use this. Each runs uv in its own way, in a process or a container. A lock is a requirements file in which
every line is `name==version` with the hashes of its files. It contains no address. The index and its credentials reach
uv only through `index_environment`, so they are in no lock, no image and no list of processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from venvd_contract.errors import Internal, InvalidRequest, Unavailable, VenvdError
from venvd_contract.package_names import find_similar

MAX_MESSAGE = 4000
"""Characters of uv's output that an error carries."""

_QUIET = ("--no-config", "--no-progress", "--color", "never")
_HASH = re.compile(r"--hash=(sha(?:256|384|512):[0-9a-f]+)")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^\s`'\")>\]]+", re.IGNORECASE)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_UNAVAILABLE = re.compile(
    r"Failed to fetch|error sending request|dns error|tcp connect error|timed out|Connection (refused|reset)"
    r"|certificate|operation was canceled|No space left|HTTP status (server error|client error \(4(01|03|07|29))"
    r"|Network (connectivity is disabled|is unreachable)|Hash mismatch",
    re.IGNORECASE,
)
_INVALID = re.compile(
    r"No solution found|unsatisfiable|Failed to build|Couldn't parse|Failed to parse|not a valid|no wheel"
)


def compile_arguments(
    source: str,
    output: str,
    *,
    python_version: str,
    python: str | None = None,
    constraints: str | None = None,
    source_builds: bool = False,
) -> list[str]:
    """Return the arguments of uv that resolve the requirements file `source` into the lock `output`.

    Args:
        source: the path of the requirements.
        output: the path of the lock. It must not exist: uv would prefer its versions.
        python_version: the exact version that the lock is for.
        python: the path of that interpreter; without it uv looks for one of the version.
        constraints: the path of a file with versions that packages must have if they are installed.
        source_builds: also take packages that have no wheel; their build runs their code.
    """
    return [
        *("pip", "compile", source, "--output-file", output),
        *("--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate", "--no-sources"),
        *("--python-version", python_version),
        *(("--python", python) if python else ()),
        *(("--constraints", constraints) if constraints else ()),
        *("--no-python-downloads", *_wheels(source_builds), *_QUIET),
    ]


def install_arguments(
    lock: str, *, python: str, prefix: str | None = None, source_builds: bool = False, link_mode: str = "copy"
) -> list[str]:
    """Return the arguments of uv that install the file `lock` into `prefix`, or into the environment of `python`.

    uv checks hashes, and installs nothing that the lock does not name. It does not compile bytecode: for that it would
    run the environment's own `.pth` code, beside a cache that other venvs share. Compile afterwards with the base
    interpreter. In the default link mode, user code that changes its files does not change the cache.
    """
    return [
        *("pip", "install", "--requirements", lock, "--require-hashes", "--no-deps", "--no-sources"),
        *("--python", python),
        *(("--prefix", prefix) if prefix else ()),
        *("--link-mode", link_mode, "--no-python-downloads", *_wheels(source_builds), *_QUIET),
    ]


def install_projects_arguments(projects: Sequence[str], *, python: str, prefix: str) -> list[str]:
    """Return the arguments of uv that install directories with a `pyproject.toml`, without their dependencies.

    The environment of `python` has their build backend. uv fetches nothing and uses no cache.
    """
    return [
        *("pip", "install", "--offline", "--no-cache", "--no-deps", "--no-build-isolation", "--no-sources"),
        *("--python", python, "--prefix", prefix, "--no-python-downloads", *_QUIET),
        *projects,
    ]


def _wheels(source_builds: bool) -> tuple[str, ...]:
    return () if source_builds else ("--only-binary", ":all:")


def index_environment(index_url: str | None, ca_bundle: str | None) -> dict[str, str]:
    """Return the variables that tell uv its index and its certificates; `ca_bundle` is a path that uv can read."""
    env = {}
    if index_url:
        env["UV_DEFAULT_INDEX"] = index_url
    if ca_bundle:
        env["SSL_CERT_FILE"] = ca_bundle
    return env


# ---- the lock --------------------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Return a lock in its canonical form: sorted, without comments, options or addresses; empty for no packages.

    Raises:
        Internal: a line is not a pinned, hashed package.
    """
    entries = sorted(_entry(line) for line in _logical_lines(text))
    return "".join(f"{entry}\n" for entry in entries)


def adopt(text: str) -> str:
    """Return a client's lock in the canonical form, without options that choose an index.

    Raises:
        InvalidRequest: the lock refers to other files, or a line is not a package with a pinned version and hashes.
    """
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if re.match(r"\s*(-[rce]\b|--(requirement|constraint|editable)\b)", line):
            raise InvalidRequest(f"lock: it refers to something else: {without_addresses(line.strip())[:200]}")
    try:
        return clean(text)
    except Internal as error:
        how = "make one with: uv pip compile --generate-hashes"
        raise InvalidRequest(f"lock: {error.message.removeprefix('the lock holds ')}; {how}") from None


def select(lock: str, python_version: str) -> str:
    """Return the packages of a lock whose markers match a version of CPython on this machine, without the markers."""
    environment = {
        **{name: str(value) for name, value in default_environment().items()},
        "implementation_name": "cpython",
        "implementation_version": python_version,
        "platform_python_implementation": "CPython",
        "python_full_version": python_version,
        "python_version": ".".join(python_version.split(".")[:2]),
    }
    lines = []
    for line in lock.splitlines():
        requirement = Requirement(_HASH.sub("", line))
        if requirement.marker is None or requirement.marker.evaluate(environment):
            lines.append(" ".join([f"{requirement.name}{requirement.specifier}", *_list_hashes(line)]))
    return "".join(f"{line}\n" for line in sorted(lines))


def check_covers(lock: str, requirements: Sequence[str]) -> None:
    """Check that a (canonical) lock pins what each of the (checked) requirements asks for.

    Raises:
        InvalidRequest: a package is missing, or its pinned version does not fit; the message says which.
    """
    versions: dict[str, list[str]] = {}
    for line in lock.splitlines():
        name, _, version = line.split(" ", 1)[0].partition("==")
        versions.setdefault(name, []).append(version)
    for line in requirements:
        requirement = Requirement(line)
        pinned = versions.get(canonicalize_name(requirement.name), [])
        if not pinned and requirement.marker is None:
            raise InvalidRequest(f'lock: it does not pin "{line}": make it from these requirements')
        if pinned and not any(requirement.specifier.contains(version, prereleases=True) for version in pinned):
            raise InvalidRequest(f'lock: it pins {requirement.name} {" and ".join(pinned)}, and "{line}" is asked for')


def _list_hashes(line: str) -> list[str]:
    return [f"--hash={digest}" for digest in sorted(set(_HASH.findall(line)))]


def pins(lock: str) -> dict[str, str]:
    """Return the version of each package of a lock, by the package's canonical name."""
    return dict(line.split(" ", 1)[0].split("==", 1) for line in lock.splitlines() if "==" in line)


def _logical_lines(text: str) -> Iterator[str]:
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        bare = re.sub(r"(^|\s)#.*$", "", line).strip()
        if bare and not bare.startswith("-"):
            yield bare


def _entry(line: str) -> str:
    hashes = sorted(set(_HASH.findall(line)))
    try:
        requirement = Requirement(_HASH.sub("", line))
    except InvalidRequirement:
        raise Internal(f"the lock holds a line that is no package: {without_addresses(line)[:200]}") from None
    pinned = [specifier.version for specifier in requirement.specifier if specifier.operator in {"==", "==="}]
    if requirement.url is not None or len(pinned) != 1 or len(requirement.specifier) != 1 or not hashes:
        raise Internal(f"the lock holds a line that pins no version by hash: {without_addresses(line)[:200]}")
    marker = f" ; {requirement.marker}" if requirement.marker else ""
    return " ".join([f"{canonicalize_name(requirement.name)}=={pinned[0]}{marker}", *_list_hashes(line)])


# ---- errors ----------------------------------------------------------------------------------------------------


def without_addresses(text: str) -> str:
    """Return the text with every address replaced, including any credentials in it."""
    return _ADDRESS.sub("<address>", _ESCAPE.sub("", text))


def explain(stderr: str) -> str:
    """Return the errors of uv as one sentence. It names the requirement and the cause, but no package host."""
    causes, hints = _parse_errors(without_addresses(stderr))
    if not causes:
        return "the installer failed without a message"
    if _UNAVAILABLE.search(" ".join(causes)) and not _INVALID.search(causes[0]):
        return _shorten(_explain_unavailable(causes))
    if causes[0].startswith("No solution found"):
        return _shorten(f"the requirements cannot be resolved: {_explain_conflict(causes[1:], hints)}")
    whole = ": ".join([*causes, *hints])
    return _shorten(re.sub(r" in `[^`]*` at position \d+", "", whole))


def failure(stderr: str) -> VenvdError:
    """Return the exception for errors of uv: `InvalidRequest`, `Unavailable`, or else `Internal`."""
    causes, _ = _parse_errors(without_addresses(stderr))
    whole = " ".join(causes)
    if causes and _INVALID.search(causes[0]):
        return InvalidRequest(explain(stderr))
    if _UNAVAILABLE.search(whole):
        return Unavailable(explain(stderr))
    return InvalidRequest(explain(stderr)) if _INVALID.search(whole) else Internal(explain(stderr))


def _parse_errors(stderr: str) -> tuple[list[str], list[str]]:
    """Return the error and its causes, outermost first, and the hints."""
    causes: list[str] = []
    hints: list[str] = []
    into: list[str] | None = None
    for line in stderr.splitlines():
        label, _, text = line.strip().partition(": ")
        if label in {"error", "cause", "Caused by"}:
            into = causes
            into.append(text)
        elif label == "hint":
            into = hints
            into.append(text)
        elif label == "warning":
            into = None
        elif into and line.strip():
            into[-1] += f" {line.strip()}"
    return causes, hints


def _explain_conflict(causes: list[str], hints: list[str]) -> str:
    text = " ".join(causes)
    text = re.sub(r",? we can conclude that your requirements are unsatisfiable\.?", "", text)
    text = text.replace(", we can conclude that ", ", hence ").removeprefix("Because ")
    text = text.replace(". And because ", "; and ").replace(". And ", "; and ")
    text = re.sub(r"(\S{1,200}) was not found in the package registry", _explain_missing, text)
    if any("building from source is disabled" in hint for hint in hints):
        text += (
            "; building from source, which runs a package's code, is switched off: an operator allows it with the "
            "controller's setting VENVD_ALLOW_SOURCE_BUILDS=1, or name a version that has wheels"
        )
    return text.strip() or "no reason was given"


def _explain_missing(match: re.Match[str]) -> str:
    similar = find_similar(match[1])
    return f"the package index has no package {match[1]}" + (f' (is "{similar}" meant?)' if similar else "")


def _explain_unavailable(causes: list[str]) -> str:
    whole = ": ".join(causes)
    if "Hash mismatch" in whole:
        return f"a file of the package index is not the one that was locked: {whole}"
    if "No space left" in whole:
        return f"the disk is full: {whole}"
    return f"the package index cannot be reached: {causes[-1]}"


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} …"
