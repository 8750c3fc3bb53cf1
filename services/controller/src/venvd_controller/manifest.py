"""Reads and checks the manifest. Each error names the line and the field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_contract.resources import BackendLimits, BackendSpec, ProviderSpec, VenvSpec, check_name, check_version
from venvd_contract.suggestions import suggest
from venvd_controller.host_paths import HostPaths
from venvd_controller.providers import check_provider
from venvd_controller.requests import drop_nulls
from venvd_controller.specs import check_backend, check_venv

T = TypeVar("T")
Keys = tuple[str | int, ...]
"""The path to a value: keys and indexes."""

_FILES = {
    "requirementsFile": "requirements",
    "constraintsFile": "constraints",
    "pyprojectFile": "pyproject",
    "lockFile": "lock",
}
"""Keys of a venv that name a file beside the manifest, and the fields for the file's content."""
_SECTIONS = ("runtimes", "providers", "venvs", "backends")


@dataclass(frozen=True)
class Manifest:
    """The declared runtimes (versions), venvs, backends and providers (by name), all checked."""

    path: Path
    runtimes: Sequence[str] = ()
    venvs: Mapping[str, VenvSpec] = field(default_factory=dict)
    backends: Mapping[str, BackendSpec] = field(default_factory=dict)
    providers: Mapping[str, ProviderSpec] = field(default_factory=dict)
    files: Sequence[Path] = ()
    """The other files that the manifest names."""


def read_manifest(path: Path, host_paths: HostPaths, files: list[Path] | None = None) -> Manifest:
    """Read a manifest.

    Args:
        path: the path of the manifest.
        host_paths: the paths that it may name on the host.
        files: receives the other files that it names, also those before an error.

    Raises:
        InvalidRequest: the manifest is missing or wrong; the message names line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"the manifest {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"the manifest {path} is not UTF-8") from None
    if not text.strip():  # another program may be about to write it
        raise InvalidRequest(f"the manifest {path} is empty: write {{}} to declare nothing")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidRequest(f"the manifest {path} is not YAML: {error}") from None
    return _Reader(path, host_paths, node, [] if files is None else files).parse({} if data is None else data)


class _Reader:
    def __init__(self, path: Path, host_paths: HostPaths, node: yaml.Node | None, files: list[Path]) -> None:
        self._path = path
        self._host_paths = host_paths
        self._node = node
        self._files = files

    def parse(self, data: Any) -> Manifest:
        self._check_keys((), data, _SECTIONS)
        runtimes = [self._parse_version(keys, entry) for keys, entry in self._list_entries(data, "runtimes")]
        venvs = dict(self._parse_venv(keys, entry) for keys, entry in self._list_entries(data, "venvs"))
        backends = dict(self._parse_backend(keys, entry) for keys, entry in self._list_entries(data, "backends"))
        providers = dict(self._parse_provider(keys, entry) for keys, entry in self._list_entries(data, "providers"))
        for section, declared in (("venvs", venvs), ("backends", backends), ("providers", providers)):
            self._check_unique(section, data, len(declared))
        return Manifest(self._path, runtimes, venvs, backends, providers, tuple(self._files))

    def _create_error(self, keys: Keys, message: str) -> InvalidRequest:
        shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys).lstrip(".")
        at = f"{self._path}, line {_find_line(self._node, keys)}"
        return InvalidRequest(f"the manifest {at}: {shown}: {message}" if shown else f"the manifest {at}: {message}")

    def _check_keys(self, keys: Keys, data: Any, known: Sequence[str]) -> None:
        if not isinstance(data, dict):
            raise self._create_error(keys, f"takes {', '.join(known)}")
        for key in data:
            if key not in known:
                raise self._create_error((*keys, key), f"is unknown; {suggest(str(key), known)}")

    def _list_entries(self, data: Mapping[str, Any], section: str) -> Sequence[tuple[Keys, Any]]:
        entries = data.get(section) or []
        if not isinstance(entries, list):
            raise self._create_error((section,), "takes a list")
        return [((section, index), entry) for index, entry in enumerate(entries)]

    def _check_unique(self, section: str, data: Mapping[str, Any], count: int) -> None:
        names = [entry["name"] for _, entry in self._list_entries(data, section)]
        if len(names) != count:
            second = next(index for index, name in enumerate(names) if name in names[:index])
            raise self._create_error((section, second, "name"), f'"{names[second]}" is declared twice')

    def _parse_version(self, keys: Keys, entry: Any) -> str:
        version = entry
        if isinstance(entry, dict):
            self._check_keys(keys, entry, ("version",))
            keys, version = (*keys, "version"), entry.get("version")
        if not isinstance(version, str):
            raise self._create_error(keys, 'takes a version in quotes, such as "3.13"')
        return self._check(keys, lambda: check_version(version))

    def _parse_provider(self, keys: Keys, entry: Any) -> tuple[str, ProviderSpec]:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise self._create_error(keys, "needs a name")
        fields_given = {key: value for key, value in entry.items() if key != "name"}
        spec = self._parse_record(keys, ProviderSpec, fields_given, ("name",))
        return name, self._check(keys, lambda: check_provider(name, spec))

    def _parse_venv(self, keys: Keys, entry: Any) -> tuple[str, VenvSpec]:
        name = self._parse_name(keys, "venv", entry)
        venv_fields = {key: value for key, value in entry.items() if key != "name" and key not in _FILES}
        for key, name_of_field in _FILES.items():
            if entry.get(key) is not None:
                text = self._read_file((*keys, key), entry[key])
                lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
                given = venv_fields.get(name_of_field)
                whole = name_of_field in {"lock", "pyproject"}
                if given and (whole or not isinstance(given, list)):
                    raise self._create_error((*keys, key), f"{name_of_field} is given as well: use one of them")
                venv_fields[name_of_field] = text if whole else [*(given or []), *lines]
        spec = self._parse_record(keys, VenvSpec, venv_fields, ("name", *_FILES))
        return name, self._check(keys, lambda: check_venv(spec, self._host_paths))

    def _read_file(self, keys: Keys, value: Any) -> str:
        """Read a file that the manifest names. Its path is relative to the manifest."""
        if not isinstance(value, str):
            raise self._create_error(keys, "takes the path of a file")
        path = self._path.parent / value
        self._files.append(path)
        try:
            return path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise self._create_error(keys, f"{path} cannot be read: {reason}") from None

    def _parse_backend(self, keys: Keys, entry: Any) -> tuple[str, BackendSpec]:
        name = self._parse_name(keys, "backend", entry)
        if isinstance(entry.get("limits"), dict):
            self._check_keys((*keys, "limits"), entry["limits"], [each.name for each in fields(BackendLimits)])
        spec = self._parse_record(keys, BackendSpec, entry)
        if spec.ttl is not None:
            raise self._create_error((*keys, "ttl"), "is for backends that no manifest declares: remove it")
        return name, self._check(keys, lambda: check_backend(replace(spec, name=name), self._host_paths))

    def _parse_name(self, keys: Keys, kind: str, entry: Any) -> str:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise self._create_error(keys, "needs a name")
        return self._check((*keys, "name"), lambda: check_name(kind, name))

    def _parse_record(self, keys: Keys, kind: type[T], entry: dict[str, Any], other_keys: Sequence[str] = ()) -> T:
        known = dict.fromkeys([*other_keys, *(each.name for each in fields(kind))])  # type: ignore[arg-type]
        self._check_keys(keys, entry, list(known))
        try:
            return TypeAdapter(kind).validate_python(drop_nulls(entry))
        except ValidationError as error:
            detail = error.errors()[0]
            raise self._create_error((*keys, *detail["loc"]), detail["msg"]) from None

    def _check(self, keys: Keys, check: Callable[[], T]) -> T:
        try:
            return check()
        except VenvdError as error:
            raise self._create_error(keys, error.message) from None


def _find_line(node: yaml.Node | None, keys: Keys) -> int:
    """Find the line of a value, or of the nearest existing value around it. The first line is 1."""
    line = 1
    for part in (None, *keys):
        if part is not None:
            node = _find_child(node, part)
        if node is None:
            break
        line = node.start_mark.line + 1
    return line


def _find_child(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part]  # type: ignore[no-any-return]
    return None
