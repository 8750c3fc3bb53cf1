"""The methods behind `%time` and `%timeit` of notebooks. `cells` writes calls of them into the code."""

from __future__ import annotations

import os
import sys
from time import perf_counter
from typing import Any, List, Tuple

NAME = "__venvd_times__"
"""The built-in name of the `Times` of a session."""
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


class Times:
    """Measures code of the user and prints how long it took."""

    def __init__(self) -> None:
        self._began = (0.0, 0.0, 0.0)

    def start(self) -> None:
        self._began = _read_clocks()

    def stop(self, value: Any = None) -> Any:
        """Print the times since `start`, and return `value`."""
        user, system, wall = (clock - self._began[index] for index, clock in enumerate(_read_clocks()))
        total = user + system
        print(  # noqa: T201 - the output of the user's code
            "CPU times: user {}, sys: {}, total: {}\nWall time: {}".format(*map(_format, (user, system, total, wall)))
        )
        return value

    def repeat(self, statement: str, setup: str, loops: int, rounds: int) -> None:
        """Run a statement many times, and print the mean of the rounds.

        Args:
            statement: code that sees the names of its caller.
            setup: runs once before each round.
            loops: runs of the statement in a round; 0 for as many as take 0.2 s.
            rounds: number of rounds.
        """
        from timeit import Timer  # noqa: PLC0415 - few cells need it

        frame = sys._getframe(1)  # noqa: SLF001 - the code that `cells` wrote
        timer = Timer(statement, setup or "pass", perf_counter, {**frame.f_globals, **frame.f_locals})
        number = loops or timer.autorange()[0]
        means = [seconds / number for seconds in timer.repeat(rounds, number)]
        mean = sum(means) / len(means)
        deviation = (sum((one - mean) ** 2 for one in means) / len(means)) ** 0.5
        print(  # noqa: T201 - the output of the user's code
            "{} ± {} per loop (mean ± std. dev. of {} run{}, {:,} loop{} each)".format(
                _format(mean), _format(deviation), rounds, _plural(rounds), number, _plural(number)
            )
        )


def _read_clocks() -> Tuple[float, float, float]:
    spent = os.times()
    return spent.user, spent.system, perf_counter()


def _format(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return "{:.3g} {}".format(seconds / size, unit)
    return "{:.3g} ns".format(max(seconds, 0.0) * 1e9)


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def write_repeat(options: str, statement: str, setup: str = "") -> str:
    """Return the call of `repeat` for a `%timeit` with `options`.

    Raises:
        ValueError: an option is unknown, or its value is not a number.
    """
    loops, rounds = 0, 7
    words: List[str] = options.split()
    while words:
        word = words.pop(0)
        value = word[2:] or (words.pop(0) if words else "")
        if word[:2] not in {"-n", "-r"} or not value.isdigit() or int(value) < 1:
            raise ValueError("%timeit takes the options -n LOOPS and -r ROUNDS, two numbers from 1")
        if word[1] == "n":
            loops = int(value)
        else:
            rounds = int(value)
    return "{}.repeat({!r}, {!r}, {}, {})".format(NAME, statement, setup, loops, rounds)
