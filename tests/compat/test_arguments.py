"""What an old client sends arrives as what it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from compat.cases import arguments
from compat.clients import Client
from compat.distance import measure

pytestmark = pytest.mark.about("everywhere")


def test_every_argument_arrives(client: Client, record_property: Callable[[str, object], None]) -> None:
    """Locals, args, kwargs, attributes and wrapped values are in the session what the program sent."""
    distance = measure(client, arguments())
    record_property("figure", f"{type(client).__name__}, arguments: {distance}")
    assert not distance.faults, "\n".join(distance.faults)
