"""The engines that tests run on, as parameters of fixtures.

`VENVD_TEST_OCI_RUNTIME` names the OCI runtime of the worker hosts on the engine `docker`. The engine `local` has none,
and is left out then.
"""

from __future__ import annotations

import os

import pytest

OCI_RUNTIME = os.environ.get("VENVD_TEST_OCI_RUNTIME") or None

ENGINES = [
    *([] if OCI_RUNTIME else [pytest.param("local", id="local")]),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]
