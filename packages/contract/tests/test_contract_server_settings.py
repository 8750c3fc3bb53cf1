"""The map of server settings: what it takes, how it is merged, and what its errors say."""

from __future__ import annotations

from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest
from venvd_contract.server_settings import check_server_settings, merge_server_settings, parse_server_setting


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"maxSesions": 8}, 'is "maxSessions" meant?'),
        ({"VENVD_MAX_BODY": 2048}, 'is "maxBody" meant?'),
        ({"zzz": 1}, "known are acceptTimeout, attach, cancelOnDisconnect"),
        ({"noToken": True}, "the field token of the backend"),
        ({"tokenSha256": ""}, "venvd makes the token"),
        ({"channel": "/x"}, "the engine sets it"),
        ({"maxSessions": 0}, "a whole number of at least 1 and at most 4096"),
        ({"maxSessions": True}, "a whole number"),
        ({"grace": "2"}, "a number of more than 0"),
        ({"attach": 1}, "true or false"),
        ({"logLevel": "loud"}, "debug or info"),
        ({"sessionLimits": {"handels": 1}}, "handels"),
        ({"tlsCert": "server.pem"}, "the absolute path of a file"),
        ({"socketMode": "rw"}, "octal"),
        ({"socketUids": []}, "a list of user IDs"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any], says: str) -> None:
    """The error names the setting and what would be right."""
    with pytest.raises(InvalidRequest) as caught:
        check_server_settings(given)
    assert says in caught.value.message


def test_a_setting_of_another_type_of_server() -> None:
    """A venv may hold settings of every type; a backend only those of its own."""
    check_server_settings({"tlsCert": "/a.pem", "maxConnections": 5})
    with pytest.raises(InvalidRequest, match="type pipe has it"):
        check_server_settings({"maxConnections": 5}, "http")


def test_a_backend_overrides_its_venv() -> None:
    """The maps are merged key by key, and settings of other types are left out."""
    venv = {"maxSessions": 4, "attach": False, "maxCalls": 9, "tlsKey": "/k.pem"}
    assert merge_server_settings(venv, {"maxSessions": 8}, "pipe") == (
        {"VENVD_MAX_SESSIONS": "8", "VENVD_ATTACH": "0"},
        {},
    )
    assert merge_server_settings(venv, {}, "rpc")[1] == {"VENVD_TLS_KEY": "/k.pem"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("maxSessions", "8", 8),
        ("attach", "0", False),
        ("attach", "true", True),
        ("grace", "0.5", 0.5),
        ("logLevel", "debug", "debug"),
        ("socketMode", "0660", "0660"),
        ("socketUids", "any", "any"),
        ("socketUids", "0,1000", [0, 1000]),
        ("sessionLimits", '{"handles": 5}', {"handles": 5}),
        ("tlsCert", "/a.pem", "/a.pem"),
    ],
)
def test_words_of_a_command_line(name: str, text: str, value: Any) -> None:
    """A word becomes the value that the setting takes."""
    assert parse_server_setting(name, text) == value
