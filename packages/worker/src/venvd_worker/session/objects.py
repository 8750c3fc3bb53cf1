"""Objects that a request names: classes, functions and modules."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from venvd_contract.errors import InvalidRequest


def find_object(path: str) -> Any:
    """Return what `module:name` stands for, with dots for nested names. Without a name, that is the module.

    Raises:
        InvalidRequest: the session cannot import the module, or the module has no such name.
    """
    module, _, name = path.partition(":")
    try:
        target: Any = sys.modules.get(module) or import_module(module)
        for part in name.split(".") if name else ():
            target = getattr(target, part)
    except (ImportError, ValueError, AttributeError) as error:
        raise InvalidRequest(
            "a value of the request is {}, which this session does not have: {}".format(
                path.replace(":", ".").rstrip(".")[:200], error
            )
        ) from None
    return target
