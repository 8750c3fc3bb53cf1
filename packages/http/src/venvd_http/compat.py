"""`venv.ensure` as the older .NET host sends it; the setting `compat` of a server turns it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = {"providerName": "provider", "modelId": "model"}


def is_older(payload: Mapping[str, Any]) -> bool:
    """Return whether a `venv.ensure` has the older names."""
    return "providerName" in payload


def translate(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `venv.ensure` with the new names, which waits for the venv."""
    return {**{_NAMES.get(name, name): value for name, value in payload.items()}, "wait": True}


def shorten(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an answer that the older host had."""
    return {name: answer[name] for name in ("path", "success")}
