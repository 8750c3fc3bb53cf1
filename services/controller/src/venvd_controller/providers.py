"""Providers: each has a venv with a stable name, and one more for each of its models."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from typing import Any

from venvd_contract.errors import NotFound
from venvd_contract.resources import OperationInfo, Venv, VenvSpec
from venvd_controller.specs import check_venv, create_provider_name
from venvd_controller.venvs import Venvs
from venvd_engines import requirements


class Providers:
    def __init__(self, venvs: Venvs) -> None:
        self._venvs = venvs

    def ensure(self, provider: str, model: str | None, wanted: VenvSpec) -> tuple[Venv, OperationInfo | None]:
        """Create the venv of a provider, or bring one that exists to what is wanted; see `add_to_venv`.

        Raises:
            InvalidRequest: a field is wrong, or the text cannot name a provider.
        """
        name = create_provider_name(provider, model)
        labels = {"provider": provider, **({"model": model} if model else {})}
        wanted = check_venv(replace(wanted, labels={**wanted.labels, **labels}), self._venvs.host_paths)
        with contextlib.suppress(NotFound):
            wanted = add_to_venv(self._venvs.get(name).spec, wanted)
        return self._venvs.put(name, wanted)


def add_to_venv(spec: VenvSpec, wanted: VenvSpec) -> VenvSpec:
    """Return a specification with what else is wanted (checked).

    A requirement replaces those for the same package. Other lists and maps are added to, and a field with its default
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
        elif isinstance(value, list):
            value = list(dict.fromkeys([*before, *value]))
        changes[name] = value
    return replace(spec, **changes)
