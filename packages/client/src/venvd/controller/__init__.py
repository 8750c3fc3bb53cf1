"""The controller's REST API: CONTRACT, "Controller"."""

from __future__ import annotations

from venvd.controller.client import Controller
from venvd.controller.client_async import AsyncController

__all__ = ["AsyncController", "Controller"]
