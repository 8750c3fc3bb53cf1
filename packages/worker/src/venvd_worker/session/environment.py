"""Environment variables that a call sets while it runs."""

from __future__ import annotations

import os
from typing import Dict, Optional

from venvd_contract.internal.environment import check_session


class Environment:
    """Sets variables at the begin of a `with` block, and restores their values at its end.

    A process has one environment. So all threads of the session see the variables meanwhile, and processes that start
    meanwhile keep them.

    Raises:
        InvalidRequest: a process cannot have such variables.
    """

    def __init__(self, variables: Dict[str, str]) -> None:
        check_session(variables)
        self._variables = variables
        self._before: Dict[str, Optional[str]] = {}

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._variables}
        for name, value in self._variables.items():
            os.environ[name] = value

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
