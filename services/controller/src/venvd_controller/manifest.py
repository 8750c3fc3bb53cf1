"""The manifest as a file: read and checked whole, every error with its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_contract.resources import BackendLimits, BackendSpec, VenvSpec, check_name, check_version
from venvd_controller.requests import cleaned
from venvd_controller.specs import checked_backend, checked_venv

T = TypeVar("T")
Place = tuple[str | int, ...]
"""The way to a value: keys and indexes."""

_SECTIONS = ("runtimes", "venvs", "backends")


@dataclass(frozen=True)
class Manifest:
    """What is declared: versions of runtimes, venvs and backends by name, all of it checked."""

    path: Path
    runtimes: Sequence[str] = ()
    venvs: Mapping[str, VenvSpec] = field(default_factory=dict)
    backends: Mapping[str, BackendSpec] = field(default_factory=dict)


def read(path: Path, run_dir: Path) -> Manifest:
    """The manifest at `path`; directories of sockets are below `run_dir`.

    Raises:
        InvalidRequest: it is missing or wrong; says in which line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"the manifest {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"the manifest {path} is not UTF-8") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"the manifest {path} is not YAML: {error}") from None
    return _Reader(path, run_dir, node).manifest({} if data is None else data)


class _Reader:
    def __init__(self, path: Path, run_dir: Path, node: yaml.Node | None) -> None:
        self._path = path
        self._run_dir = run_dir
        self._node = node

    def manifest(self, data: Any) -> Manifest:
        self._check_keys((), data, _SECTIONS)
        runtimes = [self._version(("runtimes", index), entry) for index, entry in self._entries(data, "runtimes")]
        venvs = dict(self._venv(("venvs", index), entry) for index, entry in self._entries(data, "venvs"))
        backends = dict(self._backend(("backends", index), entry) for index, entry in self._entries(data, "backends"))
        for section, count in (("venvs", len(venvs)), ("backends", len(backends))):
            self._check_unique(section, data, count)
        return Manifest(self._path, runtimes, venvs, backends)

    def _wrong(self, place: Place, message: str) -> InvalidRequest:
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        at = f"{self._path}, line {_line(self._node, place)}"
        return InvalidRequest(f"the manifest {at}: {shown}: {message}" if shown else f"the manifest {at}: {message}")

    def _check_keys(self, place: Place, data: Any, known: Sequence[str]) -> None:
        if not isinstance(data, dict):
            raise self._wrong(place, f"takes {', '.join(known)}")
        for key in data:
            if key not in known:
                raise self._wrong((*place, key), f"is not known here; known are {', '.join(known)}")

    def _entries(self, data: Mapping[str, Any], section: str) -> Sequence[tuple[int, Any]]:
        found = data.get(section) or []
        if not isinstance(found, list):
            raise self._wrong((section,), "takes a list")
        return list(enumerate(found))

    def _check_unique(self, section: str, data: Mapping[str, Any], count: int) -> None:
        names = [entry["name"] for _, entry in self._entries(data, section)]
        if len(names) != count:
            twice = next(index for index, name in enumerate(names) if name in names[:index])
            raise self._wrong((section, twice, "name"), f'"{names[twice]}" is declared twice')

    def _version(self, place: Place, entry: Any) -> str:
        version = entry
        if isinstance(entry, dict):
            self._check_keys(place, entry, ("version",))
            place, version = (*place, "version"), entry.get("version")
        if not isinstance(version, str):
            raise self._wrong(place, 'takes a version in quotes, such as "3.13"')
        return self._checked(place, lambda: check_version(version))

    def _venv(self, place: Place, entry: Any) -> tuple[str, VenvSpec]:
        name = self._name(place, "venv", entry)
        spec = self._record(place, VenvSpec, {key: value for key, value in entry.items() if key != "name"}, ("name",))
        return name, self._checked(place, lambda: checked_venv(spec))

    def _backend(self, place: Place, entry: Any) -> tuple[str, BackendSpec]:
        name = self._name(place, "backend", entry)
        if isinstance(entry.get("limits"), dict):
            self._check_keys((*place, "limits"), entry["limits"], [one.name for one in fields(BackendLimits)])
        spec = self._record(place, BackendSpec, entry)
        return name, self._checked(place, lambda: checked_backend(replace(spec, name=name), self._run_dir))

    def _name(self, place: Place, kind: str, entry: Any) -> str:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise self._wrong(place, "needs a name")
        return self._checked((*place, "name"), lambda: check_name(kind, name))

    def _record(self, place: Place, kind: type[T], entry: dict[str, Any], more: Sequence[str] = ()) -> T:
        known = dict.fromkeys([*more, *(one.name for one in fields(kind))])  # type: ignore[arg-type]
        self._check_keys(place, entry, list(known))
        try:
            return TypeAdapter(kind).validate_python(cleaned(entry))
        except ValidationError as error:
            found = error.errors()[0]
            raise self._wrong((*place, *found["loc"]), found["msg"]) from None

    def _checked(self, place: Place, check: Callable[[], T]) -> T:
        try:
            return check()
        except VenvdError as error:
            raise self._wrong(place, error.message) from None


def _line(node: yaml.Node | None, place: Place) -> int:
    """The line, from 1, of the value at a place, or of the nearest around it that is there."""
    line = 1
    for part in (None, *place):
        if part is not None:
            node = _below(node, part)
        if node is None:
            break
        line = node.start_mark.line + 1
    return line


def _below(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part]  # type: ignore[no-any-return]
    return None
