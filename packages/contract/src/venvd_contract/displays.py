"""The entries of a display that are not formats of its object: the ID for updates, and the data of a chart."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

DISPLAY_ID = "application/vnd.venvd.display-id+json"
"""The key of a bundle's ID. Its data is `{"id": text, "update": whether it replaces an earlier display}`."""
CHART = "application/vnd.venvd.chart+json"
"""The key of a figure's data."""


def find_places(displays: List[Dict[str, Any]], bundle: Dict[str, Any]) -> List[int]:
    """Return the indices of the displays that a bundle replaces; empty unless it is an update."""
    identity = _identity(bundle)
    if identity is None or not identity.get("update"):
        return []
    return [index for index, other in enumerate(displays) if (_identity(other) or {}).get("id") == identity.get("id")]


def add_display(displays: List[Dict[str, Any]], bundle: Dict[str, Any]) -> None:
    """Append a bundle; an update replaces all bundles with its ID instead.

    An update without such a bundle in `displays` is appended, and remains an update.
    """
    places = find_places(displays, bundle)
    for index in places:
        displays[index] = {**bundle, DISPLAY_ID: displays[index][DISPLAY_ID]}
    if not places:
        displays.append(bundle)


def _identity(bundle: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    identity = bundle.get(DISPLAY_ID)
    return identity if isinstance(identity, dict) else None
