"""What the tests of the local engine share: wheels made by hand, and small programs in place of the real parts."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uv
from harness.ports import free_port
from harness.stack import Quiet

from venvd_engines.engine import Image, Launch, Port
from venvd_engines.local import environment, processes, state
from venvd_engines.local.launches import Launches, Place
from venvd_engines.local.processes import Identity, wait_until
from venvd_engines.local.secret_files import SecretFiles
from venvd_engines.local.starter import Starter
from venvd_engines.local.venvs import Tools, Venvs
from venvd_worker.common import process_tree


def make_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, str] | None = None, requires: Sequence[str] = ()
) -> Path:
    """A pure wheel in `folder`; without files it holds one module that says its version."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    members = {
        **(files if files is not None else {f"{name}.py": f'version = "{version}"\n'}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in members.items())
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


MakeWheel = Callable[..., Path]


@pytest.fixture
def wheel(tmp_path: Path) -> MakeWheel:
    """Makes wheels in the folder where the installer of `venvs` looks."""

    def make(name: str, version: str, files: Mapping[str, str] | None = None, requires: Sequence[str] = ()) -> Path:
        return make_wheel(tmp_path / "wheels", name, version, files, requires)

    return make


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    """An installer that knows only the wheels made by hand."""
    (tmp_path / "wheels").mkdir(exist_ok=True)
    offline = {"UV_OFFLINE": "1", "UV_FIND_LINKS": str(tmp_path / "wheels"), "UV_CACHE_DIR": str(tmp_path / "cache")}
    return Tools(uv.find_uv_bin(), {**environment.for_installer({}, None), **offline}, 120.0, source_builds=False)


@pytest.fixture
def venvs(tmp_path: Path, tools: Tools) -> Venvs:
    return Venvs(tmp_path / "venvs", tools)


# ---- backends ------------------------------------------------------------------------------------------------------

LISTEN = """
import http.server, json, os, socket, sys
print("server says", flush=True)
print("server complains", file=sys.stderr, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd()}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
second = os.environ.get("VENVD_HTTP_PORT") and socket.create_server(("127.0.0.1", int(os.environ["VENVD_HTTP_PORT"])))
http.server.ThreadingHTTPServer((os.environ["VENVD_HOST"], int(os.environ["VENVD_PORT"])), Handler).serve_forever()
"""
WAIT = """
import json, os, sys, time
print("worker says", flush=True)
with open("seen.json", "w") as file:
    json.dump({"argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd()}, file)
time.sleep(300)
"""


@dataclass
class Site:
    """A home with launches of small programs: `server` and `worker` are their sources."""

    place: Place
    launches: Launches
    folder: Path
    server: str = LISTEN
    worker: str = WAIT

    def start(self, launch: Launch, progress: Quiet | None = None) -> state.State:
        archive = self.folder / "archive.py"
        archive.write_text(self.worker)
        starter = Starter(self.place, self.launches, lambda _: [sys.executable, "-I", "-c", self.server])
        return starter.start(launch, archive, progress or Quiet())

    @staticmethod
    def again(launch: Launch) -> Launch:
        """Another launch of the same backend."""
        return replace(launch, id=secrets.token_hex(6))

    def restarted(self) -> Launches:
        """What a new controller sees."""
        return Launches(self.place)

    def directory(self, launch: Launch) -> Path:
        return self.place.directory(launch.id)

    def record(self, launch_id: str) -> state.State:
        launch_record = state.read(self.place.directory(launch_id))
        assert launch_record is not None
        return launch_record

    def part(self, launch: Launch, name: str) -> Identity:
        record = self.record(launch.id)
        process_identity = record.part(name).identity(record.boot)
        assert process_identity is not None
        return process_identity

    def supervisor(self, launch: Launch) -> Identity:
        process_identity = self.record(launch.id).supervisor_identity()
        assert process_identity is not None
        return process_identity

    def everything(self, launch: Launch) -> list[Identity]:
        """Every process of a launch that runs now."""
        supervisor = self.supervisor(launch)
        below = [processes.identify(pid) for pid in process_tree.list_below(supervisor.pid)]
        return [supervisor, *(one for one in below if one is not None)]

    def wait_worker(self, launch: Launch) -> dict[str, Any]:
        """What the worker program says of itself, once it runs."""
        path = self.directory(launch) / "work" / "seen.json"
        assert wait_until(lambda: path.exists() and path.read_text().endswith("}"), 60)
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def wait_ended(self, launch: Launch, part: str) -> None:
        def ended() -> bool:
            launch_status = self.launches.inspect(launch.id)
            return (launch_status.server if part == "server" else launch_status.worker).state == "exited"

        assert wait_until(ended, 20)

    @staticmethod
    def ask(url: str) -> dict[str, Any]:
        """What the server program says of itself."""
        with urllib.request.urlopen(url, timeout=20) as response:  # noqa: S310 - it is ours
            answer: dict[str, Any] = json.load(response)
            return answer


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = Path("/tmp") / f"venvd-test-{secrets.token_hex(4)}"  # socket paths are short
    place = Place(root / "backends", "test-home", root / "run", root, SecretFiles("test-home", (), root))
    made = Site(place, Launches(place), tmp_path)
    yield made
    for owned in made.launches.list_owned():
        made.launches.destroy(owned.launch_id)
    subprocess.run(["rm", "-r", "-f", str(root)], check=True)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A launch whose venv is, as far as a launch can tell, one: a directory with an interpreter."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    return Launch(
        id=secrets.token_hex(6),
        name="mine",
        type="http",
        image=Image("0" * 32, str(tmp_path / "venv"), "3.11.7"),
        server_env={"VENVD_TOKEN_SHA256": "digest"},
        worker_env={"USERS": "own"},
        ports=(Port("main", 5678, free_port()),),
        labels={"team": "a"},
    )
