"""Assemblies of .NET from a volume of the cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from harness.kubernetes import read_values
from harness.release import Release, prepare_release
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


COPY = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: libraries}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: copy}
spec:
  restartPolicy: Never
  containers:
    - name: copy
      image: IMAGE
      command: [sh, -c, cp /from/Environments.dll /to && chmod 0755 /to]
      securityContext: {runAsUser: 0}
      volumeMounts: [{name: from, mountPath: /from}, {name: to, mountPath: /to}]
  volumes:
    - {name: from, configMap: {name: libraries}}
    - {name: to, persistentVolumeClaim: {claimName: libraries}}
"""
"""A volume with the assembly of the ConfigMap. Other users than root cannot read new volumes in clusters for tests."""


@pytest.mark.parametrize("kind", ["configMap", "claim"])
def test_user_code_loads_an_assembly_of_a_volume(tmp_path: Path, kind: str) -> None:
    """A venv names the directory of a volume, and a session calls .NET code from it, and cannot change it."""
    made = tmp_path / "Environments.dll"
    subprocess.run(["mcs", "-target:library", f"-out:{made}", str(SOURCE)], check=True)
    with prepare_release("assemblies", tmp_path) as release:
        release.namespace.kubectl("create", "configmap", "libraries", f"--from-file={made}")
        if kind == "claim":
            fill_volume(release, tmp_path)
        values = ("backends.assemblies[0].name=own", f"backends.assemblies[0].{kind}=libraries")
        release.change("install", *(word for value in values for word in ("--set", value)))
        release.venvd("init", "3.13")
        directory = "/etc/venvd/assemblies/own"
        release.venvd("venv", "create", "net", "--python", "3.13", "--dotnet", "--assemblies", directory)
        started = json.loads(release.venvd("start", "http", "--venv", "net", "--json"))
        assert release.evaluate("net-http", started["token"], CODE) == ["/srv/science", False]
        release.helm("uninstall", "venvd", "--wait")


def fill_volume(release: Release, folder: Path) -> None:
    """Copy the assembly into a volume, which a pod of root does, and remove the ConfigMap."""
    copy = folder / "copy.yaml"
    copy.write_text(COPY.replace("IMAGE", read_values()["images"]["controller"]))
    release.namespace.enforce("privileged")
    release.namespace.kubectl("apply", "--filename", copy)
    release.namespace.kubectl("wait", "pod/copy", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
    release.namespace.kubectl("delete", "pod", "copy")
    release.namespace.enforce("restricted")
    release.namespace.kubectl("delete", "configmap", "libraries")
