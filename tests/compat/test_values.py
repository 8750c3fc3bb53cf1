"""Every value that goes through an old client arrives as what it is; the figures are the distance that is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from compat.cases import GROUPS
from compat.clients import Client
from compat.distance import measure

pytestmark = pytest.mark.about("everywhere")


@pytest.mark.parametrize("group", GROUPS)
def test_every_answer_is_right(client: Client, group: str, record_property: Callable[[str, object], None]) -> None:
    """Each operation gives the program the right value; none gives it another, and none fails."""
    distance = measure(client, GROUPS[group])
    record_property("figure", f"{type(client).__name__}, {group}: {distance}")
    assert not distance.faults, "\n".join(distance.faults)
