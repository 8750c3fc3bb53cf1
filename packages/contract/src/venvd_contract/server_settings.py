"""The settings of servers that a venv or a backend may set, in its map `server`.

The names are those of the environment variables without the prefix, in camel case: `maxSessions` is
`VENVD_MAX_SESSIONS`. The settings classes of the servers read and check these variables. This table lets the
controller, which does not import them, check a map before anything starts. A test compares the table with the classes.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from venvd_contract.errors import InvalidRequest
from venvd_contract.internal.limits import merge_limits
from venvd_contract.resources import LONGEST_LEASE, MOST_QUEUED
from venvd_contract.session_requests import Limits
from venvd_contract.spinning import MOST_MICROSECONDS
from venvd_contract.suggestions import suggest

_ALL = ("http", "pipe", "rpc")
_YEAR = 365 * 86400


@dataclass(frozen=True)
class ServerSetting:
    """One setting.

    Attributes:
        field: the name in the settings class.
        kind: `flag`, `int`, `float`, `choice`, `limits`, `mode`, `uids` or `file`.
        types: the types of backend whose servers have it.
        least: the smallest number.
        above: the number must be greater than this.
        most: the greatest number.
        choices: the texts of a `choice`.
    """

    field: str
    kind: str
    types: Tuple[str, ...] = _ALL
    least: Optional[float] = None
    above: Optional[float] = None
    most: Optional[float] = None
    choices: Tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in a map `server`."""
        return to_camel_case(self.field)

    @property
    def variable(self) -> str:
        """The environment variable of the server."""
        return "VENVD_" + self.field.upper()


def to_camel_case(field: str) -> str:
    """Return `max_sessions` as `maxSessions`."""
    first, *rest = field.split("_")
    return first + "".join(word.title() for word in rest)


SERVER_SETTINGS: Tuple[ServerSetting, ...] = (
    ServerSetting("default_timeout", "float", above=0, most=_YEAR),
    ServerSetting("grace", "float", above=0, most=3600),
    ServerSetting("queue_limit", "int", least=0, most=MOST_QUEUED),
    ServerSetting("queue_bytes", "int", least=0),
    ServerSetting("max_queued_bytes", "int", least=0),
    ServerSetting("max_sessions", "int", least=1, most=4096),
    ServerSetting("standby", "int", least=0, most=64),
    ServerSetting("spin_microseconds", "int", least=0, most=MOST_MICROSECONDS),
    ServerSetting("max_body", "int", least=1024, most=1 << 30),
    ServerSetting("session_limits", "limits"),
    ServerSetting("max_session_limits", "limits"),
    ServerSetting("session_idle_timeout", "float", least=0),
    ServerSetting("handle_lease", "float", least=0, most=LONGEST_LEASE),
    ServerSetting("cancel_on_disconnect", "flag"),
    ServerSetting("attach", "flag"),
    ServerSetting("max_attached", "int", least=0, most=1_000_000),
    ServerSetting("max_attached_per_session", "int", least=0, most=100_000),
    ServerSetting("kept_calls", "int", least=1, most=1_000_000),
    ServerSetting("kept_call_seconds", "float", above=0, most=_YEAR),
    ServerSetting("kept_call_bytes", "int", least=0),
    ServerSetting("max_file_bytes", "int", least=0, most=1 << 50),
    ServerSetting("upload_timeout", "float", above=0),
    ServerSetting("compat", "flag"),
    ServerSetting("log_level", "choice", choices=("debug", "info", "warning", "error")),
    ServerSetting("stall_timeout", "float", above=0),
    ServerSetting("accept_timeout", "float", above=0, most=3600),
    ServerSetting("max_unaccepted", "int", least=1, most=1024),
    ServerSetting("unaccepted_bytes", "int", least=4096, most=1 << 30),
    ServerSetting("max_wrong_tokens", "int", least=1, most=1_000_000),
    ServerSetting("socket_mode", "mode", ("pipe",), least=0, most=0o777),
    ServerSetting("socket_owner", "int", ("pipe",), least=0),
    ServerSetting("socket_group", "int", ("pipe",), least=0),
    ServerSetting("socket_uids", "uids", ("pipe",)),
    ServerSetting("max_connections", "int", ("pipe",), least=1),
    ServerSetting("max_attachment_bytes", "int", ("pipe",), least=0, most=1 << 30),
    ServerSetting("max_held_bytes", "int", ("pipe",), least=1 << 20),
    ServerSetting("max_pipelined", "int", ("pipe", "rpc"), least=1),
    ServerSetting("max_unread_bytes", "int", ("pipe", "rpc"), least=1 << 16),
    ServerSetting("drain", "float", ("pipe", "rpc"), least=0),
    ServerSetting("open_docs", "flag", ("http",)),
    ServerSetting("tls_cert", "file", ("http", "rpc")),
    ServerSetting("tls_key", "file", ("http", "rpc")),
    ServerSetting("tls_client_ca", "file", ("http", "rpc")),
    ServerSetting("keepalive", "float", ("rpc",), above=0),
    ServerSetting("keepalive_timeout", "float", ("rpc",), above=0),
    ServerSetting("max_calls", "int", ("rpc",), least=1),
)

MANAGED_SETTINGS: Mapping[str, str] = {
    "channel": "the engine sets it",
    "sidecar": "the engine knows what starts server and worker host again",
    "name": "it is the name of the backend",
    "replica": "venvd numbers the replicas of a backend",
    "venv": "it is the name of the venv",
    "engine_name": "it is the engine of the controller",
    "token_sha256": "venvd makes the token of a backend",
    "no_token": "the field token of the backend says whether clients need a token",
    "metrics_token_sha256": "venvd makes the token for metrics",
    "host": "the field host of the backend is the address to publish on",
    "port": "the field port of the backend is the port to publish on",
    "network": "the field network of the backend or its venv names the destinations",
    "private_networks": "VENVD_PRIVATE_NETWORKS of the controller names them",
    "egress_broker_file": "the engine names the broker that makes the connections",
    "own_hosts": "the engine knows the names of the container",
    "trusted_proxies": "VENVD_TRUSTED_PROXIES of the controller names them",
    "allowed_hosts": "the field allowedHosts of the backend names them",
    "allowed_origins": "the field allowedOrigins of the backend names them",
    "keys_file": "venvd writes the file of access keys",
    "secrets_file": "venvd writes the file of secrets",
    "await_secrets": "venvd knows whether the backend has secrets",
    "manages_key_file": "venvd writes the key of a backend with `manages`",
    "controller_socket": "the engine mounts the socket of the controller",
    "controller_url": "the engine knows the address of the controller",
    "controller_ca_file": "venvd writes the certificate of the controller",
    "http_port": "venvd chooses the port of probes and metrics",
    "socket_prefix": "the engine chooses the names of the sockets",
    "socket_dir": "the field socketDir of the backend names the directory",
}
"""Settings that venvd sets itself, with the reason."""

_BY_NAME = {setting.name: setting for setting in SERVER_SETTINGS}
_MANAGED_BY_NAME = {to_camel_case(field): reason for field, reason in MANAGED_SETTINGS.items()}


def check_server_settings(given: Mapping[str, Any], backend_type: Optional[str] = None) -> None:
    """Check a map `server`: of a backend of this type, or, with None, of a venv, whose backends may have any type.

    Raises:
        InvalidRequest: a setting is wrong; the message names it and its valid values.
    """
    for name, value in given.items():
        setting = _find(name)
        if backend_type is not None and backend_type not in setting.types:
            raise InvalidRequest(
                "server.{}: a backend of type {} has no such setting; type {} has it".format(
                    name, backend_type, " and ".join(setting.types)
                )
            )
        _check_value(setting, value)


def _find(name: str) -> ServerSetting:
    setting = _BY_NAME.get(name)
    if setting is not None:
        return setting
    if name in _MANAGED_BY_NAME:
        raise InvalidRequest("server.{} cannot be set: {}".format(name, _MANAGED_BY_NAME[name]))
    word = re.sub(r"^(server\.|VENVD_)", "", name[:80])
    hint = suggest(to_camel_case(word.lower()) if "_" in word else word, sorted(_BY_NAME))
    raise InvalidRequest('server: "{}" is no setting of a server; {}'.format(name[:80], hint))


def _check_value(setting: ServerSetting, value: Any) -> None:
    if setting.kind == "limits":
        if not isinstance(value, dict):
            raise InvalidRequest('server.{} takes a map of limits, such as {{"handles": 1000}}'.format(setting.name))
        merge_limits(Limits(), value)
    elif not _is_valid(setting, value):
        raise InvalidRequest(
            "server.{} takes {}, and not {}".format(setting.name, _describe(setting), json.dumps(value)[:80])
        )


def _is_valid(setting: ServerSetting, value: Any) -> bool:
    if setting.kind == "flag":
        return isinstance(value, bool)
    if setting.kind == "choice":
        return value in setting.choices
    if setting.kind == "mode":
        return isinstance(value, str) and bool(re.fullmatch("[0-7]{3,4}", value)) and int(value, 8) <= 0o777
    if setting.kind == "uids":
        return value == "any" or (
            isinstance(value, list) and bool(value) and all(_is_number(uid, int) for uid in value)
        )
    if setting.kind == "file":
        return isinstance(value, str) and value.startswith("/") and "\0" not in value and len(value) <= 4096
    in_range = _is_number(value, int if setting.kind == "int" else (int, float)) and (
        (setting.least is None or value >= setting.least)
        and (setting.above is None or value > setting.above)
        and (setting.most is None or value <= setting.most)
    )
    return bool(in_range)


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def _describe(setting: ServerSetting) -> str:
    texts = {
        "flag": "true or false",
        "choice": " or ".join(setting.choices),
        "mode": 'a file mode in octal as text, such as "0660"',
        "uids": 'a list of user IDs, or "any"',
        "file": "the absolute path of a file",
        "int": "a whole number",
        "float": "a number",
    }
    bounds: List[str] = []
    if setting.kind in {"int", "float"}:
        for words, bound in (("at least", setting.least), ("more than", setting.above), ("at most", setting.most)):
            if bound is not None:
                bounds.append("{} {:.15g}".format(words, bound))
    return texts[setting.kind] + (" of " + " and ".join(bounds) if bounds else "")


def parse_server_setting(name: str, text: str) -> Any:
    """Parse and check the value of a setting in a command line.

    Raises:
        InvalidRequest: the setting is unknown, or takes other values.
    """
    setting = _find(name)
    value: Any = text
    if setting.kind not in {"choice", "mode", "file"}:
        words = text.replace(",", " ").split()
        if setting.kind == "uids" and all(word.isdecimal() for word in words):
            value = [int(word) for word in words]
        else:
            try:
                value = json.loads(text)
            except ValueError:
                value = text
    if setting.kind == "flag" and type(value) is int and value in {0, 1}:
        value = bool(value)
    check_server_settings({name: value})
    return value


def merge_server_settings(
    venv: Mapping[str, Any], backend: Mapping[str, Any], backend_type: str
) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Merge the (checked) maps of a venv and its backend; single values of the backend override those of the venv.

    The result has no settings that this type of server lacks.

    Returns:
        The environment variables of the server, and for each setting that names a file its path, by variable.
    """
    merged = {**venv, **backend}
    settings = {setting: merged[setting.name] for setting in SERVER_SETTINGS if setting.name in merged}
    settings = {setting: value for setting, value in settings.items() if backend_type in setting.types}
    files = {setting.variable: str(value) for setting, value in settings.items() if setting.kind == "file"}
    return {setting.variable: _to_text(value) for setting, value in settings.items() if setting.kind != "file"}, files


def list_files(given: Mapping[str, Any]) -> Dict[str, str]:
    """Return the settings of a (checked) map that name files, with their paths."""
    return {name: str(value) for name, value in given.items() if _BY_NAME[name].kind == "file"}


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)
