"""A Compose project of its own name, ports and run directory, removed at the end with everything it made."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.ports import free_port
from harness.stack import ROOT, remove_images
from harness.waiting import TIMEOUT


class ComposeProject:
    """A project of compose.yaml.

    Args:
        manifest: the text of the manifest.
        env: further variables of compose.yaml.
    """

    def __init__(self, manifest: str, env: dict[str, str]) -> None:
        self.port = free_port()
        self.name = f"venvd-test-{self.port}"
        self.directory = Path(tempfile.mkdtemp(prefix="venvd-c-"))
        self.directory.chmod(0o711)  # the controller reaches the run directory through /tmp, which it mounts too
        path = self.directory / "venvd.yaml"
        path.write_text(manifest)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")} | {
            "VENVD_PUBLISHED_PORT": str(self.port),
            "VENVD_HOST_RUN_DIR": str(self.directory / "run"),
            "VENVD_MANIFEST": str(path),
            **env,
        }

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` and return its output."""
        return self.stream(*arguments).decode().strip()

    def stream(self, *arguments: str, data: bytes = b"") -> bytes:
        """Run `docker compose` with this standard input and return its output as it is."""
        command = ["docker", "compose", "--project-directory", str(ROOT), "--project-name", self.name, *arguments]
        result = subprocess.run(command, env=self.env, input=data, capture_output=True, timeout=580, check=False)
        assert result.returncode == 0, result.stderr.decode(errors="replace")
        return result.stdout

    def run_in_controller(self, *command: str) -> str:
        return self.compose("exec", "-T", "controller", *command)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the controller and return its JSON."""
        token = self.run_in_controller("cat", "/var/lib/venvd/token")
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse().read()
            return json.loads(answer) if answer else None

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        command = ["docker", "inspect", self.compose("ps", "--quiet", service)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        container: dict[str, Any] = json.loads(text)[0]
        return container

    def read_home_id(self) -> str:
        return self.run_in_controller("cat", "/var/lib/venvd/id")


def list_containers(home: str, *options: str) -> list[str]:
    """List the IDs of the containers that a home's label marks."""
    command = ["docker", "ps", "--quiet", "--filter", f"label=dev.venvd.home={home}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@contextlib.contextmanager
def running_project(manifest: str, env: dict[str, str]) -> Iterator[ComposeProject]:
    for script in ("deploy/compose-plugin", "scripts/compose-env"):
        subprocess.run([ROOT / script], check=True)
    project = ComposeProject(manifest, env)
    home = ""
    try:
        project.compose("up", "--detach", "--wait", "--build")
        home = project.read_home_id()
        yield project
    finally:
        with contextlib.suppress(AssertionError):
            project.compose("stop")
        if home:
            if containers := list_containers(home, "--all"):
                subprocess.run(["docker", "rm", "--force", *containers], capture_output=True, check=False)
            remove_images(home)
        project.compose("down", "--volumes", "--timeout", "1")
        shutil.rmtree(project.directory, ignore_errors=True)
