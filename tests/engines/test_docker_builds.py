"""What only the docker engine's builds do: clean images, no secrets, nothing run that should not be."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import ipaddress
import json
import secrets
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.bench import PYTHON, Bench, opened
from harness.index import PASSWORD, serving
from harness.stack import ROOT, Quiet

from venvd_contract.errors import InvalidRequest, NotFound, Unavailable
from venvd_engines.docker import server_images
from venvd_engines.docker.engine import DockerEngine
from venvd_engines.engine import Image, VenvBuild

pytestmark = [pytest.mark.docker, pytest.mark.network]

EVIL = {
    "evil.pth": "import os; os.path.isdir('/tmp/venvd/cache') and open('/tmp/venvd/cache/poison', 'w').close()\n",
    "evil.py": "",
}
SEED = {"seed.pth": EVIL["evil.pth"], "seed.py": ""}
GADGET = {
    "gadget/__init__.py": "def main():\n    import sys\n    print(sys.prefix)\n",
    "gadget/data.txt": "",
    "gadget-1.0.dist-info/entry_points.txt": "[console_scripts]\nthe-gadget = gadget:main\n",
}
TWIN = {"shouting.py": "# of another package\n"}
DEADLY = {"deadly.pth": "import os; os._exit(3)\n", "deadly.py": ""}
SHOUTING = {"shouting.pth": "import sys; print('hello from a pth file')\n", "shouting.py": ""}
TOOL = {
    "tool.py": "def main():\n    import sys\n    print(sys.prefix)\n",
    "tool-1.0.dist-info/entry_points.txt": "[console_scripts]\nthe-tool = tool:main\n",
}


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def inside(image: Image, *command: str) -> str:
    """The output of a command in a container of the image."""
    return docker("run", "--rm", "--network", "none", "--read-only", "--user", "0", image.ref, *command)


def of_home(bench: Bench, kind: str) -> list[str]:
    everything = ["--all"] if kind == "container" else []
    return docker(kind, "ls", *everything, "-q", "--filter", f"label=dev.venvd.home={bench.settings.home_id}").split()


@pytest.fixture(scope="module")
def private() -> Iterator[Bench]:
    """An engine whose index is ours, and asks for a password."""
    subnet = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Subnet"]
    gateway = str(next(ipaddress.ip_network(subnet).hosts()))
    packages = {
        "evil": EVIL,
        "deadly": DEADLY,
        "shouting": SHOUTING,
        "tool": TOOL,
        "twin": TWIN,
        "seed": SEED,
        "gadget": GADGET,
    }
    with serving(gateway, packages) as url, opened("docker", index_url=url) as made:
        yield made


def test_an_image_holds_the_venv_and_nothing_of_the_build(docker_bench: Bench) -> None:
    """One layer on its base, and in it no cache, no tool, no mount point and no lock file."""
    wanted = docker_bench.wanted("six==1.16.0")
    image = docker_bench.engine.build(wanted, Quiet())
    layers, below = (
        json.loads(docker("image", "inspect", ref))[0]["RootFS"]["Layers"] for ref in (image.ref, wanted.runtime.base)
    )
    assert layers[:-1] == below
    assert inside(image, "find", "/tmp", "-mindepth", "1") == ""
    assert inside(image, "find", "/env", "-name", ".lock") == ""


def test_an_image_runs_the_venv_as_an_unprivileged_user(docker_bench: Bench, docker_image: Image) -> None:
    """Its configuration is explicit, not inherited from the build: the venv's Python, no root, no entrypoint."""
    config = json.loads(docker("image", "inspect", docker_image.ref))[0]["Config"]
    assert config["Cmd"] == ["/env/bin/python"]
    assert not config["Entrypoint"]
    assert config["User"] == "10002:10000"
    assert config["Labels"]["dev.venvd.role"] == "venv"
    assert config["Labels"]["dev.venvd.home"] == docker_bench.settings.home_id


def test_bytecode_is_there_and_never_checked(docker_bench: Bench) -> None:
    """Modules are compiled, with the hash-based kind that is not compared with its source."""
    image = docker_bench.engine.build(docker_bench.wanted("six==1.16.0"), Quiet())
    code = "import six; data = open(six.__cached__, 'rb').read(8); print(data[4])"
    assert inside(image, "/env/bin/python", "-c", code).strip() == "1"


def test_the_index_and_its_password_are_nowhere(private: Bench) -> None:
    """Neither lock, log, image nor its history holds the address of the index."""
    progress = Quiet()
    runtime = private.engine.resolve(PYTHON, progress)
    lock = private.engine.lock(runtime, ["tool"], progress)
    image = private.engine.build(VenvBuild(runtime, lock), progress)
    told = "\n".join(
        [lock, *progress.lines, docker("image", "inspect", image.ref), docker("history", "--no-trunc", image.ref)]
    )
    assert PASSWORD not in told
    command = ["grep", "-rIl", PASSWORD, "/env", "/etc", "/root", "/tmp"]
    with pytest.raises(subprocess.CalledProcessError):
        inside(image, *command)


def test_scripts_start_the_venvs_python(private: Bench) -> None:
    """A console script runs on the venv's interpreter, not on the base one that installed it."""
    image = private.engine.build(private.wanted("tool"), Quiet())
    assert inside(image, "/env/bin/the-tool").strip() == "/env"


def test_what_is_installed_does_not_run_beside_the_cache(private: Bench) -> None:
    """The code of a `.pth` file is not run in the build container, where other venvs' cache is mounted."""
    private.engine.build(private.wanted("evil"), Quiet())
    listed = list_cache(private)
    assert "poison" not in listed
    assert listed


def list_cache(bench: Bench) -> list[str]:
    volumes = docker("volume", "ls", "-q", "--filter", f"label=dev.venvd.home={bench.settings.home_id}").split()
    (cache,) = [name for name in volumes if "uv-cache" in name]
    return docker("run", "--rm", "-v", f"{cache}:/cache", bench.runtime.base, "ls", "/cache").split()


def list_files(image: Image) -> str:
    """Every file of an environment with its mode and a digest of its content."""
    code = (
        "import hashlib, os, pathlib\n"
        "for path in sorted(pathlib.Path('/env').rglob('*')):\n"
        "    linked = os.fsencode(os.readlink(path)) if path.is_symlink() else b''\n"
        "    data = linked or (path.read_bytes() if path.is_file() else b'')\n"
        "    print(path, oct(path.lstat().st_mode), hashlib.sha256(data).hexdigest())"
    )
    return inside(image, "python3", "-I", "-S", "-B", "-c", code)


@pytest.mark.long
def test_a_build_on_an_image_gives_what_one_from_nothing_gives(private: Bench) -> None:
    """Added packages are installed on the image of the others; files, packages and configuration are the same."""
    few = private.engine.build(private.wanted("seed"), Quiet())
    wanted, progress = private.wanted("seed", "gadget"), Quiet()
    image = private.engine.build(wanted, progress)
    assert f"adding gadget to {few.ref}" in progress.lines
    with opened("docker", index_url=private.settings.index_url) as other:
        fresh = other.engine.build(wanted, Quiet())
        assert list_files(image) == list_files(fresh)
        assert image.packages == fresh.packages
        configs = [json.loads(docker("image", "inspect", each.ref))[0]["Config"] for each in (image, fresh)]
        first, second = ({**config, "Labels": sorted(config["Labels"])} for config in configs)
        assert first == second
    assert "poison" not in list_cache(private)
    private.engine.remove_image(few.key)
    assert inside(image, "/env/bin/the-gadget").strip() == "/env"
    progress = Quiet()
    private.engine.build(private.wanted("gadget"), progress)
    assert not any(line.startswith("adding ") for line in progress.lines), "the lock lacks a package of the image"


@pytest.mark.long
def test_packages_that_share_files_are_built_from_nothing(private: Bench) -> None:
    """Which file is left depends on the order of installation, so no image of one of them is built on."""
    private.engine.build(private.wanted("shouting"), Quiet())
    progress = Quiet()
    image = private.engine.build(private.wanted("shouting", "twin"), progress)
    assert "twin and shouting share files: building from nothing" in progress.lines
    assert [package.name for package in image.packages] == ["shouting", "twin"]


def test_a_venv_whose_python_does_not_start_is_refused(private: Bench) -> None:
    """A package that ends the interpreter fails the check; its image is gone."""
    wanted = private.wanted("deadly")
    with pytest.raises(InvalidRequest, match="does not start"):
        private.engine.build(wanted, Quiet())
    assert private.engine.find_image(wanted.key()) is None
    assert not docker("image", "ls", "-q", "--filter", f"label=dev.venvd.key={wanted.key()}").split()


def test_what_a_package_prints_does_not_disturb_the_check(private: Bench) -> None:
    """Output of a `.pth` file is not mistaken for the check's answer."""
    image = private.engine.build(private.wanted("shouting"), Quiet())
    assert [package.name for package in image.packages] == ["shouting"]


def test_a_wrong_password_says_that_the_index_refused(private: Bench) -> None:
    """The error for an index that refuses access says so, without its address."""
    wrong = str(private.settings.index_url).replace(PASSWORD, "wrong")
    with opened("docker", index_url=wrong) as bench:
        with pytest.raises((InvalidRequest, Unavailable)) as caught:
            bench.wanted("tool")
        assert "wrong" not in caught.value.message
        assert "://" not in caught.value.message


@pytest.mark.long
def test_debian_packages_are_installed(docker_bench: Bench) -> None:
    """A venv's Debian packages are in its image; their lists and archives are not."""
    image = docker_bench.engine.build(VenvBuild(docker_bench.runtime, "", ("hostname", "libgomp1")), Quiet())
    assert "libgomp1" in inside(image, "dpkg-query", "-W", "-f", "${Package}\n").split()
    assert inside(image, "find", "/var/lib/apt/lists", "/var/cache/apt", "-type", "f") == ""


@pytest.mark.long
def test_an_unknown_debian_package_is_named(docker_bench: Bench) -> None:
    """A Debian package that does not exist is a wrong request, and no image is left."""
    wanted = VenvBuild(docker_bench.runtime, "", ("no-such-package-of-venvd",))
    with pytest.raises(InvalidRequest, match="no-such-package-of-venvd"):
        docker_bench.engine.build(wanted, Quiet())
    assert docker_bench.engine.find_image(wanted.key()) is None


@pytest.mark.long
def test_a_killed_build_is_swept_and_done_again() -> None:
    """What a process that was killed in a build left is removed by the next one, which then builds as if new."""
    with opened("docker") as bench:
        wanted = bench.wanted("six==1.12.0")
        program = textwrap.dedent(f"""
            import sys, time
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parents[1])!r})
            from harness.stack import Quiet
            from venvd_engines.docker.engine import DockerEngine
            from venvd_engines.engine import *
            class Slow(Quiet):
                def phase(self, name):
                    if name == "commit":
                        print("now", flush=True); time.sleep(60)
            DockerEngine({bench.settings!r}).build({wanted!r}, Slow())
        """).replace("PosixPath", "Path")
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "now\n"
            process.send_signal(signal.SIGKILL)
        assert of_home(bench, "container")
        fresh = bench.another()
        fresh.sweep()
        assert not of_home(bench, "container")
        assert fresh.build(wanted, Quiet()).packages[0].version == "1.12.0"


@pytest.mark.long
def test_a_build_of_this_process_is_not_swept(docker_bench: Bench) -> None:
    """`sweep` of the engine object that is building leaves its build container alone."""

    class Sweeping(Quiet):
        def phase(self, name: str) -> None:
            super().phase(name)
            if name == "compile":
                docker_bench.engine.sweep()

    wanted = docker_bench.wanted("six==1.11.0")
    assert docker_bench.engine.build(wanted, Sweeping()).packages[0].version == "1.11.0"


def test_an_unchecked_image_is_not_taken(docker_bench: Bench, docker_image: Image) -> None:
    """An image with the right label that never passed its check is not found, and goes when swept."""
    key = "0" * 32
    container = docker("create", docker_image.ref).strip()
    change = f"LABEL dev.venvd.key={key} dev.venvd.instance=another"
    ref = docker("commit", "--change", change, container).strip()
    docker("rm", container)
    assert docker_bench.engine.find_image(key) is None
    docker_bench.engine.sweep()
    with pytest.raises(subprocess.CalledProcessError):
        docker("image", "inspect", ref)


@pytest.mark.long
def test_volumes_that_are_half_filled_or_gone_are_filled_again() -> None:
    """A volume of tools without its mark, as a killed process leaves it, is filled; so is one removed meanwhile."""
    with opened("docker") as bench:
        bench.engine.lock(bench.runtime, ["six==1.16.0"], Quiet())
        volumes = [name for name in docker("volume", "ls", "-q").split() if f"{bench.settings.home_id}-tools" in name]
        assert len(volumes) == 1
        docker("volume", "rm", volumes[0])
        bench.engine.lock(bench.runtime, ["six==1.16.0"], Quiet())
        docker("volume", "rm", volumes[0])
        docker("volume", "create", "--label", f"dev.venvd.home={bench.settings.home_id}", volumes[0])
        assert bench.another().lock(bench.runtime, ["six==1.16.0"], Quiet())


@pytest.mark.long
def test_another_base_image_is_a_setting(docker_bench: Bench) -> None:
    """A base named by its template is used; the library's bytecode, if it lacks that, is in the venv's image."""
    base = docker_bench.runtime.base
    container = docker("create", base, "find", "/usr/lib/", "/usr/local/lib/", "-name", "*.pyc", "-delete").strip()
    try:
        docker("start", "--attach", container)
        label = f"LABEL dev.venvd.home={docker_bench.settings.home_id}"
        docker("commit", "--change", label, container, f"venvd-test-bare:{PYTHON}")
    finally:
        docker("rm", "--force", container)
    with opened("docker", base_image="venvd-test-bare:{minor}") as bench:
        image = bench.engine.build(bench.wanted(), Quiet())
        code = "import os, json; print(os.path.exists(json.__spec__.cached))"
        assert inside(image, "/env/bin/python", "-c", code).strip() == "True"


def test_a_base_of_another_version_is_refused(docker_bench: Bench) -> None:
    """A template that leads to a CPython of another version is told, not used."""
    base = f"venvd-base:{PYTHON}"
    with opened("docker", base_image=base) as bench, pytest.raises(InvalidRequest, match="was asked for"):
        bench.engine.resolve("3.99", Quiet())


def test_a_base_that_is_gone_is_told(docker_bench: Bench) -> None:
    """A runtime whose base image was removed says that it must be initialised again."""
    runtime = docker_bench.runtime
    gone = VenvBuild(type(runtime)(runtime.version, runtime.resolved, f"sha256:{'1' * 64}"), "")
    with pytest.raises(NotFound, match="init its runtime again"):
        docker_bench.engine.build(gone, Quiet())


def test_an_oci_runtime_that_is_not_there_is_told() -> None:
    """A setting for a runtime that the engine does not have is found by `check`, with those that it has."""
    with opened("docker") as bench, pytest.raises(Unavailable, match="runc"):
        DockerEngine(replace(bench.settings, oci_runtime="no-such-runtime")).check()


@pytest.mark.parametrize("text", ["", "x" * 400_000 + "\nend\n", "\N{EURO SIGN}\N{GRINNING FACE}\n" * 30_000])
def test_files_of_any_size_reach_the_build_container(docker_bench: Bench, text: str) -> None:
    """A file comes in whole, also where it is larger than what one environment variable carries."""
    engine = docker_bench.engine
    assert isinstance(engine, DockerEngine)
    base = docker_bench.runtime.base
    with engine._venvs._containers.open(base, Quiet()) as container:
        container.write("/tmp/venvd/file", text.encode())
        digest = container.run(["sha256sum", "/tmp/venvd/file"]).stdout.split()[0]
    assert digest == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.long
def test_two_processes_build_a_servers_image_once(tmp_path: Path) -> None:
    """Two homes that need the same absent image at the same time both get it; one build runs, nothing dangles."""
    sources = tmp_path / "sources"
    for name, content in server_images._read_context(ROOT, "pipe").items():
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        (sources / name).write_bytes(content)
    fresh = sources / "services" / "pipe-backend" / "src" / "venvd_pipe_backend" / "fresh.py"
    fresh.write_text(f'"""{secrets.token_hex(8)}"""\n')
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from harness.stack import Quiet
        from venvd_engines.docker.engine import DockerEngine
        from venvd_engines.engine import *
        progress = Quiet()
        DockerEngine(SETTINGS).prepare("pipe", progress)
        print("\\n".join(progress.lines))
    """)
    with opened("docker", source_dir=sources) as one, opened("docker", source_dir=sources) as other:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program.replace("SETTINGS", repr(bench.settings)).replace("PosixPath", "Path")],
                stdout=subprocess.PIPE,
                text=True,
            )
            for bench in (one, other)
        ]
        logs = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert sum("building venvd/pipe-backend" in log for log in logs) == 1
        tags = [[left for left in bench.engine.leftovers(set()) if left.kind == "server"] for bench in (one, other)]
        digest = tags[0][0].name.rpartition("-")[2]
        assert [left.name.rpartition("-")[2] for (left,) in tags] == [digest, digest]
        label = f"label=dev.venvd.key={digest}"
        assert not docker("image", "ls", "-q", "--filter", "dangling=true", "--filter", label)
        assert not docker("container", "ls", "--all", "-q", "--filter", label)
        for bench, (left,) in zip((one, other), tags, strict=True):
            bench.engine.discard(left)
        assert not docker("image", "ls", "--all", "-q", "--filter", label)


# ---- an engine that goes away ------------------------------------------------------------------------------------

RELAY = """
import socket, socketserver, sys, threading

def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(sys.argv[2])
            back = threading.Thread(target=copy, args=(engine, self.request), daemon=True)
            back.start()
            copy(self.request, engine)
            back.join()

class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

with Server(sys.argv[1], Handler) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


@contextlib.contextmanager
def relay(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A way to the engine that can be cut by killing it: what a stopped engine looks like."""
    command = [sys.executable, "-c", RELAY, str(path), "/var/run/docker.sock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.parametrize("phase", ["install", "commit"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_stops_mid_way_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """A build whose engine goes away raises Unavailable; once the engine is back, sweeping clears what was left."""
    with opened("docker") as bench:
        wanted = bench.wanted("six==1.10.0")
        with relay(tmp_path / "engine.sock") as way:

            class Cutting(Quiet):
                def phase(self, name: str) -> None:
                    super().phase(name)
                    if name == phase:
                        way.kill()

            monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
            cut_off = bench.another()
            with pytest.raises(Unavailable, match="does not answer"):
                cut_off.build(wanted, Cutting())
            monkeypatch.delenv("DOCKER_HOST")
        bench.engine.sweep()
        assert not of_home(bench, "container")
        assert bench.engine.find_image(wanted.key()) is None
        gc.collect()
