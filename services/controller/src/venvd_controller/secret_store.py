"""The secrets of venvs and backends: encrypted in the database, and in the clear only in the files of servers."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from venvd_contract.errors import Conflict, InvalidRequest, LimitExceeded, NotFound, Unavailable
from venvd_contract.secrets import (
    LARGEST_VARIABLES,
    MOST_SECRETS,
    PLACE,
    Secret,
    SecretHeader,
    SecretSpec,
    check_secret,
)
from venvd_controller.clock import now
from venvd_controller.database import Database, Reading, after_commit, get_row
from venvd_controller.database.tables import LaunchRow, SecretRow, VenvRow
from venvd_controller.home import Home
from venvd_controller.launch_rows import read_spec
from venvd_controller.site_authorities import SiteAuthorities
from venvd_egress.destinations import Destination, parse_destination, parse_destinations

Kind = Literal["venv", "backend"]
_NONCE_BYTES = 12
_TLS_PORT = 443
_PURPOSE = "venvd: secrets of venvs and backends"


class SecretStore:
    """Stores and finds secrets.

    Args:
        authorities: the authorities of the site, for hosts that get headers.

    Attributes:
        on_change: functions called after a secret was set or removed.
    """

    def __init__(self, database: Database, home: Home, authorities: SiteAuthorities) -> None:
        self._database = database
        query = select(SecretRow).order_by(SecretRow.name)
        self._rows = Reading(database, lambda session: session.scalars(query).all())
        self._authorities = authorities
        self._cipher = AESGCM(home.derive_key(_PURPOSE))
        self.on_change: list[Callable[[], None]] = []

    def list_all(self, kind: Kind, owner: str) -> list[Secret]:
        """List the secrets of an owner, without their values."""
        with self._database.read() as session:
            _get_owner(session, kind, owner)
            return [_to_resource(row) for row in _list_rows(session, kind, owner)]

    def put(self, kind: Kind, owner: str, name: str, spec: SecretSpec) -> Secret:
        """Set a secret. Running servers get it within seconds.

        Raises:
            InvalidRequest: a field is wrong, or the broker does not reach a host of the header.
            Conflict: another secret of the owner has the same use.
            LimitExceeded: the owner has too many secrets, or too much text in variables.
        """
        check_secret(name, spec)
        with self._database.write() as session:
            owner_row = _get_owner(session, kind, owner)
            if spec.header is not None:
                hosts = _check_hosts(spec.header.hosts, _find_network(session, owner_row))
                spec = replace(spec, header=replace(spec.header, hosts=hosts))
            others = [row for row in _list_rows(session, kind, owner) if row.name != name]
            self._check_others(spec, others)
            row = session.get(SecretRow, (kind, owner, name))
            if row is None:
                row = SecretRow(kind=kind, owner=owner, name=name)
                session.add(row)
            row.use = {"env": spec.env, "header": None if spec.header is None else asdict(spec.header)}
            row.ciphertext, row.set_at = self._encrypt(row, spec.value), now()
            after_commit(session, self._announce_change)
            return _to_resource(row)

    def remove(self, kind: Kind, owner: str, name: str) -> None:
        """Remove a secret. New sessions and requests do not have it.

        Raises:
            NotFound: there is no such secret.
        """
        with self._database.write() as session:
            _get_owner(session, kind, owner)
            row = session.get(SecretRow, (kind, owner, name))
            if row is None:
                raise NotFound(f'the {kind} "{owner}" has no secret "{name[:80]}"')
            session.delete(row)
            after_commit(session, self._announce_change)

    def _check_others(self, spec: SecretSpec, others: Sequence[SecretRow]) -> None:
        if len(others) >= MOST_SECRETS:
            raise LimitExceeded(f"there are {MOST_SECRETS} secrets, and no more are kept: remove one")
        if spec.env is not None:
            rows = [row for row in others if row.use["env"] is not None]
            for row in rows:
                if row.use["env"] == spec.env:
                    raise Conflict(f'the secret "{row.name}" has the variable {spec.env}: remove it, or set that one')
            sizes = [len(row.use["env"]) + len(self._decrypt(row).encode()) for row in rows]
            if sum(sizes) + len(spec.env) + len(spec.value.encode()) > LARGEST_VARIABLES:
                raise LimitExceeded(f"value: all variables together have more than {LARGEST_VARIABLES} bytes")
        for row in others:
            other = _read_header(row)
            if spec.header is not None and other is not None and _meet(spec.header, other):
                raise Conflict(f'the secret "{row.name}" is the header {other.name} of one of these hosts')

    def render_files(self, rows: Sequence[LaunchRow]) -> dict[str, bytes | Unavailable]:
        """Return the file of secrets for each backend's server, or why there is none, by the name of the row."""
        stored = self._rows.get()
        files: dict[str, bytes | Unavailable] = {}
        for row in rows:
            owners = () if row.is_router else (("venv", row.venv), ("backend", row.replica_of or row.name))
            sets = [[each for each in stored if (each.kind, each.owner) == owner] for owner in owners]
            try:
                files[row.name] = self._render(*sets) if sets else self._render((), ())
            except Unavailable as error:
                files[row.name] = error
        return files

    def render_file(self, row: LaunchRow) -> bytes:
        """Return the content of the file of secrets for a backend's server.

        Raises:
            Unavailable: a secret cannot be decrypted.
        """
        content = self.render_files([row])[row.name]
        if isinstance(content, Unavailable):
            raise content
        return content

    def _render(self, of_venv: Sequence[SecretRow], of_backend: Sequence[SecretRow]) -> bytes:
        """Render the secrets of a venv and of a backend. The backend's win by name, by variable and by header."""
        names = {row.name for row in of_backend}
        kept = [row for row in of_venv if row.name not in names]
        variables: dict[str, str] = {}
        headers: list[dict[str, Any]] = []
        own_headers = [header for row in of_backend if (header := _read_header(row)) is not None]
        for row in (*kept, *of_backend):
            value, header = self._decrypt(row), _read_header(row)
            if row.use["env"] is not None:
                variables[row.use["env"]] = value
            if header is None or (row.kind == "venv" and any(_meet(header, own) for own in own_headers)):
                continue
            text = header.format.replace(PLACE, value)
            headers.append({"name": header.name, "value": text, "hosts": header.hosts})
        authorities = self._authorities.read() if headers else ""
        return json.dumps({"variables": variables, "headers": headers, "authorities": authorities}).encode()

    def _encrypt(self, row: SecretRow, value: str) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, value.encode(), _bind(row))).decode()

    def _decrypt(self, row: SecretRow) -> str:
        try:
            data = base64.b64decode(row.ciphertext, validate=True)
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bind(row)).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise Unavailable(
                f'the secret "{row.name}" of the {row.kind} "{row.owner}" cannot be decrypted with the secret of this '
                "home: set it again, or remove it"
            ) from None

    def _announce_change(self) -> None:
        for callback in self.on_change:
            callback()


def remove_secrets(session: Session, kind: Kind, owner: str) -> None:
    """Remove the secrets of a deleted owner."""
    session.execute(delete(SecretRow).where(SecretRow.kind == kind, SecretRow.owner == owner))


def _bind(row: SecretRow) -> bytes:
    """Return the text that binds a ciphertext to its owner, name and use, so that it is not valid for others."""
    return json.dumps([row.kind, row.owner, row.name, row.use], sort_keys=True).encode()


def _list_rows(session: Session, kind: Kind, owner: str) -> Sequence[SecretRow]:
    query = select(SecretRow).where(SecretRow.kind == kind, SecretRow.owner == owner).order_by(SecretRow.name)
    return session.scalars(query).all()


def _get_owner(session: Session, kind: Kind, owner: str) -> VenvRow | LaunchRow:
    if kind == "venv":
        return get_row(session, VenvRow, kind, owner)
    row = get_row(session, LaunchRow, kind, owner)
    if row.replica_of is not None:
        raise NotFound(f'no backend "{owner[:80]}": its secrets are those of "{row.replica_of}"')
    return row


def _find_network(session: Session, owner: VenvRow | LaunchRow) -> Any:
    """Return what the user code of an owner may reach."""
    if isinstance(owner, LaunchRow):
        network = read_spec(owner).network
        if network is not None:
            return network
        owner = get_row(session, VenvRow, "venv", owner.venv)
    spec: Mapping[str, Any] = owner.spec
    return spec.get("network")


def _check_hosts(hosts: Sequence[str], network: Any) -> list[str]:
    """Return the hosts of a header in canonical form.

    Raises:
        InvalidRequest: a text is not a host, or the broker does not reach the host.
    """
    reached = parse_destinations(network) if isinstance(network, list) else []
    checked = []
    for text in hosts:
        try:
            host = parse_destination(text, (_TLS_PORT,))
        except ValueError as error:
            raise InvalidRequest(f"header.hosts: {error}") from None
        if host.host.startswith("*"):
            raise InvalidRequest(f'header.hosts: "{text[:80]}" stands for many hosts: name each host')
        if not any(each.matches(host.host, host.ports[0]) for each in reached):
            raise InvalidRequest(
                f"header.hosts: only the broker adds headers, and it does not reach {host}: make `network` a list that "
                f'has "{text[:80]}"'
            )
        checked.append(str(host))
    return checked


def _read_header(row: SecretRow) -> SecretHeader | None:
    return None if row.use["header"] is None else SecretHeader(**row.use["header"])


def _meet(one: SecretHeader, other: SecretHeader) -> bool:
    """Return whether two headers have the same name and share a host."""
    return one.name.lower() == other.name.lower() and not _parse_hosts(one).isdisjoint(_parse_hosts(other))


def _parse_hosts(header: SecretHeader) -> set[Destination]:
    return {parse_destination(host, (_TLS_PORT,)) for host in header.hosts}


def _to_resource(row: SecretRow) -> Secret:
    return Secret(name=row.name, setAt=row.set_at, env=row.use["env"], header=_read_header(row))
