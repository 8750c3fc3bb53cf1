"""Providers: each has a venv with a stable name, and another one for each of its models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

from sqlalchemy import select

from venvd_contract.errors import InvalidRequest, NotFound
from venvd_contract.resources import OperationInfo, Provider, ProviderSpec, Venv, VenvSpec, check_version
from venvd_controller.clock import now
from venvd_controller.database import Database, get_row
from venvd_controller.database.tables import ProviderRow
from venvd_controller.specs import check_venv, create_provider_name
from venvd_controller.venvs import Venvs
from venvd_engines import requirements

_MAX_NAME = 200


class Providers:
    """Stores what the venvs of providers need, and makes these venvs."""

    def __init__(self, database: Database, venvs: Venvs) -> None:
        self._database = database
        self._venvs = venvs

    def list_all(self, after: str | None = None, limit: int = 1000) -> list[Provider]:
        query = select(ProviderRow).where(ProviderRow.name > (after or "")).order_by(ProviderRow.name).limit(limit)
        with self._database.read() as session:
            return [_to_resource(row) for row in session.scalars(query)]

    def list_declared(self) -> set[str]:
        with self._database.read() as session:
            return set(session.scalars(select(ProviderRow.name).where(ProviderRow.declared)))

    def get(self, provider: str) -> Provider:
        with self._database.read() as session:
            return _to_resource(get_row(session, ProviderRow, "provider", provider))

    def put(self, provider: str, spec: ProviderSpec, *, declared: bool = False) -> Provider:
        """Create or change a provider. Its venvs change when they are ensured again."""
        spec = check_provider(provider, spec)
        with self._database.write() as session:
            row = session.get(ProviderRow, provider)
            if row is None:
                row = ProviderRow(name=provider, spec={}, created_at=now(), updated_at=now(), declared=declared)
                session.add(row)
            if row.spec != asdict(spec):
                row.spec, row.updated_at = asdict(spec), now()
            row.declared = row.declared or declared
            return _to_resource(row)

    def delete(self, provider: str) -> None:
        """Forget what a provider needs. Its venvs stay."""
        with self._database.write() as session:
            session.delete(get_row(session, ProviderRow, "provider", provider))

    def ensure(
        self, provider: str, model: str | None, choose: Callable[[VenvSpec | None], VenvSpec], *, upgrade: bool = False
    ) -> tuple[Venv, OperationInfo | None]:
        """Create the venv of a provider, or add to one that exists; see `add_to_venv`.

        The venv has the requirements of the provider and of the request. If both name a package, the request wins.

        Args:
            provider: the name of the provider.
            model: the name of its model, if any.
            choose: returns what is wanted, from the stored specification.
            upgrade: whether to resolve the lock of the venv again.

        Raises:
            InvalidRequest: a field is wrong, or the text cannot name a provider.
        """
        labels = {"provider": provider, **({"model": model} if model else {})}
        needed = ProviderSpec()
        with contextlib.suppress(NotFound):
            needed = self.get(provider).spec

        def add(existing: VenvSpec | None) -> VenvSpec:
            chosen = choose(existing)
            wanted = check_venv(replace(chosen, labels={**chosen.labels, **labels}), self._venvs.host_paths)
            python = needed.python if existing is None else None
            always = VenvSpec(python, requirements=needed.requirements, aptPackages=needed.aptPackages)
            wanted = add_to_venv(always, wanted)
            return wanted if existing is None else add_to_venv(existing, wanted)

        return self._venvs.change(create_provider_name(provider, model), add, upgrade=upgrade)


def check_provider(provider: str, spec: ProviderSpec) -> ProviderSpec:
    """Check a provider and return what it needs with canonical requirements.

    Raises:
        InvalidRequest: a field is wrong; the message names it and what it takes.
    """
    create_provider_name(provider, None)
    if len(provider) > _MAX_NAME or not provider.isprintable():
        raise InvalidRequest(f"a provider has a name of at most {_MAX_NAME} printable characters")
    if spec.python is not None:
        check_version(spec.python)
    return replace(
        spec,
        requirements=requirements.check(spec.requirements),
        aptPackages=requirements.check_apt(spec.aptPackages),
    )


def _to_resource(row: ProviderRow) -> Provider:
    return Provider(row.name, ProviderSpec(**row.spec), row.created_at, row.updated_at)


def add_to_venv(spec: VenvSpec, wanted: VenvSpec) -> VenvSpec:
    """Return a specification with the additions of another (checked) one.

    A requirement replaces those for the same package. Other lists and maps get the new items. A field with its default
    changes nothing.
    """
    default = VenvSpec()
    changes: dict[str, Any] = {}
    for name in (each.name for each in fields(VenvSpec)):
        value, before = getattr(wanted, name), getattr(spec, name)
        if value == getattr(default, name):
            continue
        if isinstance(value, dict):
            value = {**before, **value}
        elif name == "requirements":
            value = requirements.replace_packages(before, value)
        elif isinstance(value, list) and before is True:  # `network`: user code may reach everything already
            continue
        elif isinstance(value, list) and isinstance(before, list):
            value = list(dict.fromkeys([*before, *value]))
        changes[name] = value
    return replace(spec, **changes)
