"""A client in a process of its own. `ClientProcess` starts it and requests batches; `main` runs in that process."""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from benchmarks import machine
from benchmarks.figure import Address, Side, UnmeasurableError

MODULE = "benchmarks.client_process"
BATCH_TIMEOUT = 600
"""Seconds."""


class ClientProcess:
    """A running client of one side, on the given cores."""

    def __init__(self, side: Side, address: Address, cores: set[int]) -> None:
        self._client = f"{side.client.__module__}:{side.client.__wrapped__.__name__}"  # type: ignore[attr-defined]
        job = {
            "client": self._client,
            "address": asdict(address),
            "options": side.options,
            "cores": sorted(cores),
        }
        command = [sys.executable, "-m", MODULE, json.dumps(job)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=machine.ENVIRONMENT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()

    def probe(self, batch: int) -> float:
        """Run one batch and return its figure.

        Raises:
            UnmeasurableError: the client gave a reason instead of a figure, or no answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # a client that has exited has written its reason
            print(batch, file=self._process.stdin, flush=True)
        if not select.select([self._process.stdout], [], [], BATCH_TIMEOUT)[0]:
            self._process.kill()
            raise UnmeasurableError(f"no answer within {BATCH_TIMEOUT} s")
        answer = json.loads(self._process.stdout.readline() or "{}")
        if "figure" not in answer:
            raise UnmeasurableError(answer.get("why", f"{self._client} exited before it answered"))
        return float(answer["figure"])


@contextmanager
def _open_client(job: dict[str, Any]) -> Iterator[Any]:
    module, _, name = job["client"].partition(":")
    client = getattr(importlib.import_module(module), name)
    with client(Address(**job["address"]), **job["options"]) as probe:
        yield probe


def _answer(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    job = json.loads(sys.argv[1])
    machine.pin([os.getpid()], set(job["cores"]))
    try:
        with _open_client(job) as probe:
            gc.freeze()
            for line in sys.stdin:
                _answer(figure=probe(int(line)))
    except UnmeasurableError as error:
        _answer(why=str(error))
    except ModuleNotFoundError as error:
        _answer(why=f"the package {error.name} is not installed (`make bench` installs it)")
    except Exception as error:
        _answer(why=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
