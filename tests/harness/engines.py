"""The engines that tests run on, as parameters of fixtures."""

from __future__ import annotations

import pytest

ENGINES = [
    pytest.param("local", id="local"),
    pytest.param("docker", id="docker", marks=pytest.mark.docker),
]
