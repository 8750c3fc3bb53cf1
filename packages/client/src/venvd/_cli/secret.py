"""`venvd secret …`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import IO, TypeVar

import click

from venvd._cli.command import Group, State, pass_state, table
from venvd._sync.controller import Secrets
from venvd_contract.secrets import PLACE, Secret, SecretHeader

_Command = TypeVar("_Command", bound=Callable[..., None])


@click.group(cls=Group)
def secret() -> None:
    """Secrets of venvs and backends. No command shows the value of one."""


def _with_owner(command: _Command) -> _Command:
    command = click.argument("owner")(command)
    return click.option("--backend", is_flag=True, help="OWNER is a backend, and not a venv.")(command)


def _choose(state: State, *, backend: bool) -> Secrets:
    return state.controller.backend_secrets if backend else state.controller.venv_secrets


def _describe_use(item: Secret) -> str:
    if item.header is None:
        return f"the variable {item.env}"
    return f"the header {item.header.name} for {', '.join(item.header.hosts)}"


def _parse_header(text: str | None, hosts: Sequence[str]) -> SecretHeader | None:
    if text is None:
        if hosts:
            raise click.UsageError("--host goes with --header")
        return None
    name, colon, value = text.partition(":")
    if not colon or PLACE not in value:
        raise click.BadParameter(
            f'"{text}" is no header: write it as "Authorization: Bearer {PLACE}"', param_hint="--header"
        )
    if not hosts:
        raise click.UsageError("--header needs --host: the hosts that get the header")
    return SecretHeader(name.strip(), list(hosts), value.strip())


def _read_value(file: IO[bytes] | None) -> str:
    """Read the secret from a file, from a pipe, or twice from a terminal. Drop one line end at its end."""
    if file is None and os.isatty(0):
        return str(click.prompt("value", hide_input=True, confirmation_prompt=True, err=True))
    source: IO[bytes] = sys.stdin.buffer if file is None else file
    try:
        text = source.read().decode()
    except UnicodeDecodeError:
        raise click.UsageError("the secret is not UTF-8: encode it, for example as base64") from None
    return text.removesuffix("\n").removesuffix("\r")


@secret.command("set")
@_with_owner
@click.argument("name")
@click.option(
    "--from-file", "file", type=click.File("rb"), help="Read the value from this file. Default: the standard input."
)
@click.option("--env", metavar="VARIABLE", help="Code reads the value in this variable.")
@click.option(
    "--header",
    metavar="'NAME: FORMAT'",
    help=f"The broker adds this header, and code never has the value: 'Authorization: Bearer {PLACE}'.",
)
@click.option("--host", "hosts", multiple=True, help="A host that gets the header: api.example.com. Repeatable.")
@pass_state
def set_(
    state: State,
    owner: str,
    name: str,
    file: IO[bytes] | None,
    env: str | None,
    header: str | None,
    hosts: Sequence[str],
    *,
    backend: bool,
) -> None:
    """Set the secret NAME of the venv OWNER. New sessions and new requests have it within seconds."""
    parsed = _parse_header(header, hosts)
    if (env is None) == (parsed is None):
        raise click.UsageError("give --env VARIABLE, or --header and --host")
    stored = _choose(state, backend=backend).set(owner, name, _read_value(file), env=env, header=parsed)
    state.show(stored, f"{stored.name} is set: {_describe_use(stored)}")


@secret.command("list")
@_with_owner
@pass_state
def list_(state: State, owner: str, *, backend: bool) -> None:
    """List the secrets of the venv OWNER, without their values."""
    stored = _choose(state, backend=backend).list(owner)
    rows = [(item.name, _describe_use(item), item.setAt) for item in stored]
    state.show(stored, table(("name", "use", "set"), rows))


@secret.command("remove")
@_with_owner
@click.argument("name")
@pass_state
def remove(state: State, owner: str, name: str, *, backend: bool) -> None:
    """Remove the secret NAME of the venv OWNER. Sessions that have it as a variable keep it until they end."""
    _choose(state, backend=backend).remove(owner, name)
    state.show({"owner": owner, "name": name, "removed": True}, f"{name} is removed")
