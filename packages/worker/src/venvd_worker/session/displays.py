"""The built-in `display` of sessions, with the arguments of IPython's `display`, and displays with an ID to update."""

from __future__ import annotations

import os
from typing import Any, Callable, Container, Dict, Optional

from venvd_contract.displays import DISPLAY_ID
from venvd_worker.session import bundles
from venvd_worker.session.reprs import make_repr

Bundle = Dict[str, Any]


class DisplayHandle:
    """A display that has an ID."""

    def __init__(self, displays: Displays, display_id: str) -> None:
        self._displays = displays
        self.display_id = display_id

    def __repr__(self) -> str:
        return "<DisplayHandle display_id={}>".format(self.display_id)

    def display(self, value: Any, **options: Any) -> None:
        """Show a value once more under the ID."""
        self._displays.display(value, display_id=self.display_id, **options)

    def update(self, value: Any, **options: Any) -> None:
        """Replace the display with this ID by a value."""
        self._displays.update(value, display_id=self.display_id, **options)


class Displays:
    """Shows values of the user's code.

    Args:
        show: takes a MIME bundle, and returns False if there is no output to show it in.
    """

    def __init__(self, show: Callable[[Bundle], bool]) -> None:
        self._show = show

    def display(
        self,
        *values: Any,
        include: Optional[Container[str]] = None,
        exclude: Optional[Container[str]] = None,
        metadata: Any = None,  # noqa: ARG002 - IPython has it
        transient: Any = None,  # noqa: ARG002 - IPython has it
        display_id: Any = None,
        raw: bool = False,
        update: bool = False,
    ) -> Optional[DisplayHandle]:
        """Show values richly in an `exec`, and print them elsewhere.

        Args:
            *values: any objects; with `raw`, MIME bundles.
            include: the formats to show. The text is always there.
            exclude: the formats to leave out.
            metadata: for the frontend of a notebook; has no effect here.
            transient: has no effect here.
            display_id: the ID for `update_display`; True makes a new one.
            raw: whether the values are bundles.
            update: whether to replace the display with this ID.

        Returns:
            A `DisplayHandle` for updates; None without an ID.
        """
        if display_id is True:
            display_id = os.urandom(16).hex()
        if update and not display_id:
            raise TypeError("display: update needs the display_id of the display to change")
        for value in values:
            if raw and not isinstance(value, dict):
                raise TypeError("display: with raw, each value is a dict of data by format")
            bundle = bundles.encode(value) if raw else bundles.bundle(value)
            bundle = {name: bundle[name] for name in bundle if name == "text/plain" or _wants(name, include, exclude)}
            if display_id is not None:
                bundle[DISPLAY_ID] = {"id": str(display_id), "update": update}
            if not self._show(bundle):
                print(bundle.get("text/plain", make_repr(value)))  # noqa: T201 - what display does without an output
        return None if display_id is None else DisplayHandle(self, str(display_id))

    def update(self, value: Any, *, display_id: str, **options: Any) -> None:
        """Replace the display with this ID by a value."""
        self.display(value, display_id=display_id, update=True, **options)

    def extend_ipython(self, module: Any) -> None:
        """Make `IPython.display` show where the built-in `display` does."""
        module.display = self.display
        module.update_display = self.update


def _wants(name: str, include: Optional[Container[str]], exclude: Optional[Container[str]]) -> bool:
    return (not include or name in include) and (not exclude or name not in exclude)
