"""Secrets from the command line and the SDK, with a real controller and its backend."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.cli import Cli

import venvd
from venvd import SecretHeader
from venvd.errors import InvalidRequest, NotFound
from venvd_contract.resources import VenvSpec

pytestmark = pytest.mark.slow

HEADER = ("--header", "Authorization: Bearer {}", "--host", "api.example.com")


@pytest.fixture(scope="module")
def controller(site: Any) -> Iterator[venvd.Controller]:
    """A client of the controller, which has a venv `listed` whose network is a list."""
    with venvd.Controller(site.url, site.token) as made:
        change = made.venvs.put("listed", VenvSpec(python=f"3.{sys.version_info.minor}", network=["api.example.com"]))
        made.operations.wait(change.operation)
        yield made
        made.venvs.delete("listed")


def test_words_of_the_command_line(
    cli: Cli, controller: venvd.Controller, site: Any, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    """`set` takes the value from a pipe or a file, code has it, `list` shows its use, and `remove` ends it."""

    def read() -> Any:
        with venvd.connect(site.backend.url, site.backend.token) as backend, backend.sessions.create() as session:
            return session.eval("__import__('os').environ.get('DB_PASSWORD')")

    assert (
        "db is set: the variable DB_PASSWORD"
        in cli(*("secret", "set", "--backend", "main", "db", "--env", "DB_PASSWORD"), stdin="open sesame\n").out
    )
    eventually(lambda: read() == "open sesame")
    file = tmp_path / "value"
    file.write_bytes(b"from a file\r\n")
    cli("secret", "set", "--backend", "main", "db", "--env", "DB_PASSWORD", "--from-file", str(file))
    eventually(lambda: read() == "from a file")
    stored = cli("secret", "set", "listed", "api", *HEADER, "--json", stdin="sesame").json
    assert stored["header"] == {"name": "Authorization", "format": "Bearer {}", "hosts": ["api.example.com:443"]}
    listed = cli("secret", "list", "listed").out
    assert "the header Authorization for api.example.com:443" in listed
    assert [item["name"] for item in cli("secret", "list", "--backend", "main", "--json").json] == ["db"]
    assert "sesame" not in listed + cli("secret", "list", "listed", "--json").out
    assert "db is removed" in cli("secret", "remove", "--backend", "main", "db").out
    eventually(lambda: read() is None)
    assert cli("secret", "remove", "listed", "api", "--json").json == {
        "owner": "listed",
        "name": "api",
        "removed": True,
    }
    assert controller.venv_secrets.list("listed") == []


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("set", "plain", "a"), 2, "give --env VARIABLE, or --header and --host"),
        (("set", "plain", "a", "--env", "A", *HEADER), 2, "give --env VARIABLE, or --header and --host"),
        (("set", "plain", "a", "--env", "A", "--host", "x.example"), 2, "--host goes with --header"),
        (("set", "plain", "a", "--header", "Authorization: Bearer {}"), 2, "--header needs --host"),
        (
            ("set", "plain", "a", "--header", "Bearer {}", "--host", "x"),
            2,
            'is no header: write it as "Authorization: Bearer {}"',
        ),
        (("set", "plain", "a", "--env", "A", "--from-file", "/nowhere"), 2, "/nowhere"),
        (("set", "plain", "a", "--env", "PATH"), 2, "PATH"),
        (("set", "plain", "a", *HEADER), 2, "make `network` a list"),
        (("set", "nothing", "a", "--env", "A"), 3, "nothing"),
        (("list", "nothing"), 3, "nothing"),
        (("remove", "plain", "a"), 3, "a"),
    ],
)
@pytest.mark.usefixtures("controller")
def test_words_that_are_refused(cli: Cli, words: tuple[str, ...], status: int, said: str) -> None:
    """What cannot be set is refused with the reason, and the value is not shown."""
    ran = cli("secret", *words, stdin="open sesame", status=status)
    assert said in ran.err
    assert "sesame" not in ran.out + ran.err


def test_methods_of_the_sdk(controller: venvd.Controller, site: Any) -> None:
    """Both flavours set, list and remove; no answer has the value."""
    stored = controller.backend_secrets.set("main", "db", "open sesame", env="DB_PASSWORD")
    assert (stored.name, stored.env, stored.header) == ("db", "DB_PASSWORD", None)
    assert controller.backend_secrets.list("main") == [stored]
    assert "sesame" not in repr(stored)
    controller.backend_secrets.remove("main", "db")
    with pytest.raises(NotFound):
        controller.backend_secrets.remove("main", "db")
    with pytest.raises(InvalidRequest, match="either env"):
        controller.venv_secrets.set("listed", "a", "x")

    async def run() -> None:
        async with venvd.AsyncController(site.url, site.token) as client:
            header = SecretHeader("Authorization", ["api.example.com"], "Bearer {}")
            await client.venv_secrets.set("listed", "api", "sesame", header=header)
            (secret,) = await client.venv_secrets.list("listed")
            assert secret.header is not None
            assert secret.header.hosts == ["api.example.com:443"]
            await client.venv_secrets.remove("listed", "api")
            assert await client.venv_secrets.list("listed") == []

    asyncio.run(run())
