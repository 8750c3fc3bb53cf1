"""Assemblies of .NET from a volume of the cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from harness.release import prepare_release
from harness.stack import ROOT

pytestmark = pytest.mark.needs("mcs")

SOURCE = ROOT / "tests" / "dotnet" / "Environments.cs"
CODE = """
import clr, os
from Example.Environments import VenvManager
try:
    open(os.environ["VENVD_ASSEMBLIES"] + "/new.dll", "w")
    written = True
except OSError:
    written = False
[VenvManager("/srv").Create("science"), written]
"""


def test_user_code_loads_an_assembly_of_a_config_map(tmp_path: Path) -> None:
    """A venv names the directory of a ConfigMap, and a session calls .NET code from it, and cannot change it."""
    made = tmp_path / "Environments.dll"
    subprocess.run(["mcs", "-target:library", f"-out:{made}", str(SOURCE)], check=True)
    with prepare_release("assemblies", tmp_path) as release:
        release.namespace.kubectl("create", "configmap", "libraries", f"--from-file={made}")
        values = ("backends.assemblies[0].name=own", "backends.assemblies[0].configMap=libraries")
        release.change("install", *(word for value in values for word in ("--set", value)))
        release.venvd("init", "3.13")
        directory = "/etc/venvd/assemblies/own"
        release.venvd("venv", "create", "net", "--python", "3.13", "--dotnet", "--assemblies", directory)
        started = json.loads(release.venvd("start", "http", "--venv", "net", "--json"))
        assert release.evaluate("net-http", started["token"], CODE) == ["/srv/science", False]
        release.helm("uninstall", "venvd", "--wait")
