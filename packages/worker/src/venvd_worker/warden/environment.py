"""The environment that user code finds: an allow-list, what the venv asks for, what the session asks for."""

from __future__ import annotations

import json
import os
import sys
from typing import Dict, Mapping

from venvd_contract.internal.environment import WORKER_ENV
from venvd_worker.common.directories import Directory

_KEPT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_BINARIES = os.path.dirname(sys.executable)
_ROOT = os.path.dirname(_BINARIES)
_IS_VENV = os.path.exists(os.path.join(_ROOT, "pyvenv.cfg"))
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def take_worker_env() -> Dict[str, str]:
    """The variables that the venv and the backend ask for; they are taken out of this process's environment.

    Raises:
        ValueError: the variable holds no JSON object of strings.
    """
    found = json.loads(os.environ.pop(WORKER_ENV, "") or "{}")
    if type(found) is not dict or any(type(value) is not str for value in found.values()):
        raise ValueError("{} must hold a JSON object of strings".format(WORKER_ENV))
    return found


def session_environment(asked: Mapping[str, str], directory: Directory) -> Dict[str, str]:
    """The whole environment of a session; `asked` wins over everything else."""
    found = {name: os.environ[name] for name in _KEPT if name in os.environ}
    found.setdefault("LANG", "C.UTF-8")
    found["PATH"] = os.pathsep.join((_BINARIES, os.environ.get("PATH") or _DEFAULT_PATH))
    found["HOME"] = directory.home
    found["TMPDIR"] = directory.temporary
    found["MPLBACKEND"] = "Agg"  # there is no screen
    if _IS_VENV:
        found["VIRTUAL_ENV"] = _ROOT
    found.update(asked)
    return found
