"""The distance between an old client's expectations and what a backend gives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compat.cases import Case
from compat.clients import Client


@dataclass(frozen=True)
class Distance:
    """How many operations were right, silently wrong (the program got another value) or failing (the client logged)."""

    right: int
    wrong: list[str]
    failing: list[str]

    @property
    def faults(self) -> list[str]:
        return [*(f"wrong: {each}" for each in self.wrong), *(f"failing: {each}" for each in self.failing)]

    def __str__(self) -> str:
        return f"{self.right} operations right, {len(self.wrong)} silently wrong, {len(self.failing)} failing"


def measure(client: Client, cases: Sequence[Case]) -> Distance:
    """Run the cases one after the other."""
    right, wrong, failing = 0, [], []
    for case in cases:
        client.log.clear()
        value = case.run(client)
        if client.log:
            failing.append(f"{case.what}: {client.log[0][:300]}")
        elif type(value) is type(case.answer) and value == case.answer:
            right += 1
        else:
            wrong.append(f"{case.what}: {value!r:.200}, not {case.answer!r:.200}")
    return Distance(right, wrong, failing)
