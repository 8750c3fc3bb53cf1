"""What only the docker engine's backends do: containers that vanish, networks, directories for others' sockets."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.bench import PYTHON, TOKEN, Bench, evaluate, opened
from harness.callers import HttpCaller
from harness.stack import Quiet, make_home_id, wait_ready
from harness.waiting import wait_until

from venvd_contract.errors import Conflict, InUse, InvalidRequest
from venvd_engines import compat
from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient
from venvd_engines.docker.compat import PipeNames
from venvd_engines.docker.engine import DockerEngine
from venvd_engines.docker.oci_runtimes import OciRuntimes
from venvd_engines.docker.socket_directories import OPEN, SocketDirectories
from venvd_engines.docker.user_ids import BLOCK, UserIds
from venvd_engines.engine import Image, LaunchRecord, Port, VenvBuild

pytestmark = [pytest.mark.docker, pytest.mark.network]

NOBODY = 65534


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def inspected(record: LaunchRecord, part: str) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(docker("container", "inspect", f"venvd-{record.launch_id}-{part}"))[0]
    return details


@pytest.mark.parametrize("part", ["server", "worker"])
def test_a_container_that_was_removed_is_missed(docker_bench: Bench, docker_image: Image, part: str) -> None:
    """A backend of which one container is gone says which, is no longer complete, and is removed whole."""
    launch = docker_bench.launch(docker_image)
    with docker_bench.running(launch) as record:
        docker("rm", "--force", f"venvd-{launch.id}-{part}")
        state = docker_bench.engine.inspect(record)
        assert {"server": state.server, "worker": state.worker}[part].state == "missing"
        owned = next(owned for owned in docker_bench.engine.list_owned() if owned.launch_id == launch.id)
        assert not owned.complete
        docker_bench.engine.destroy_owned(owned)
        assert not docker_bench.owned(launch.id)


@pytest.mark.parametrize("part", ["server", "worker"])
def test_the_end_of_a_part_is_reported(docker_bench: Bench, docker_image: Image, part: str) -> None:
    """The engine reports a container that is killed, and its list says that the backend does not run."""
    launch = docker_bench.launch(docker_image)
    with docker_bench.running(launch), contextlib.closing(docker_bench.engine.watch()) as events:
        next(events)
        (owned,) = [owned for owned in docker_bench.engine.list_owned() if owned.launch_id == launch.id]
        assert owned.running
        docker("kill", f"venvd-{launch.id}-{part}")
        next(events)
        (owned,) = [owned for owned in docker_bench.engine.list_owned() if owned.launch_id == launch.id]
        assert (owned.complete, owned.running) == (True, False)


def test_a_channel_alone_is_found_and_removed(docker_bench: Bench) -> None:
    """What a start leaves that was killed after its first step is listed, and removed."""
    launch_id, home_id = secrets.token_hex(6), docker_bench.settings.home_id
    name = f"venvd-{launch_id}-channel"
    labels = {"home": home_id, "role": "channel", "launch": launch_id, "name": "half"}
    docker("volume", "create", *(f"--label=dev.venvd.{key}={value}" for key, value in labels.items()), name)
    owned = next(owned for owned in docker_bench.engine.list_owned() if owned.launch_id == launch_id)
    assert (owned.name, owned.record, owned.complete) == ("half", None, False)
    docker_bench.engine.destroy_owned(owned)
    assert name not in docker("volume", "ls", "-q").split()


def test_a_backend_leaves_no_container_and_no_channel(docker_bench: Bench, docker_image: Image) -> None:
    """After `destroy` nothing carries the launch's label."""
    launch = docker_bench.launch(docker_image)
    with docker_bench.running(launch):
        pass
    label = f"label=dev.venvd.launch={launch.id}"
    assert docker("ps", "--all", "-q", "--filter", label) == docker("volume", "ls", "-q", "--filter", label) == ""


def test_the_worker_archive_has_the_bytecode_of_the_venvs_python(docker_bench: Bench) -> None:
    """A worker host compiles none of our sources: the CPython of its venv accepts the bytecode in the archive."""
    engine = docker_bench.engine
    runtime = engine.resolve("3.11" if PYTHON == "3.13" else "3.13", Quiet())
    image = engine.build(VenvBuild(runtime, engine.lock(runtime, (), Quiet())), Quiet())
    code = (
        "import glob, importlib.util, zipfile\n"
        "archive = zipfile.ZipFile(glob.glob('/venvd/worker/*.pyz')[0])\n"
        "magic = {archive.read(name)[:4] for name in archive.namelist() if name.endswith('.pyc')}\n"
        "magic == {importlib.util.MAGIC_NUMBER}"
    )
    with docker_bench.running(docker_bench.launch(image)) as record:
        assert evaluate(record, code) is True


def test_a_server_without_secrets_waits_for_none(docker_bench: Bench, docker_image: Image) -> None:
    """Where a backend has no secrets the engine writes no file of them, and the server takes one that comes later."""
    launch = docker_bench.launch(docker_image)
    with docker_bench.running(launch) as record, contextlib.closing(HttpCaller(record.url, TOKEN)) as call:
        assert docker("exec", f"venvd-{launch.id}-server", "ls", "/run/venvd/secrets").split() == []
        docker_bench.engine.write_secrets(record, b'{"variables": {"LATE": "yes"}, "headers": []}')

        def has_come() -> bool:
            session = call("session.create", {})["id"]
            value = call("eval", {"expression": "import os\nos.environ.get('LATE')", "session": session})["value"]
            call("session.delete", {"id": session})
            return bool(value == "yes")

        wait_until(has_come, "no session has the secret")


def test_the_network_goes_with_the_last_backend(docker_bench: Bench, docker_image: Image) -> None:
    """The home's network is there while a backend is, and not longer, also where many start and go at once."""
    name = f"venvd-{docker_bench.settings.home_id}"
    with docker_bench.running(docker_bench.launch(docker_image)):
        with docker_bench.running(docker_bench.launch(docker_image)):
            pass
        assert name in docker("network", "ls", "--format", "{{.Name}}").split()
    assert name not in docker("network", "ls", "--format", "{{.Name}}").split()

    def once(_: int) -> None:
        docker_bench.engine.destroy(docker_bench.engine.start(docker_bench.launch(docker_image), Quiet()))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(once, range(6)))
    assert name not in docker("network", "ls", "--format", "{{.Name}}").split()


def test_ports_are_published_where_asked_and_nowhere_else(docker_bench: Bench, docker_image: Image) -> None:
    """The server listens on the address of the launch; the worker host publishes nothing."""
    with docker_bench.running(docker_bench.launch(docker_image)) as record:
        bound = [rule for rules in inspected(record, "server")["NetworkSettings"]["Ports"].values() for rule in rules]
        assert [rule["HostIp"] for rule in bound] == ["127.0.0.1"]
        assert not inspected(record, "worker")["NetworkSettings"]["Ports"]
        assert inspected(record, "worker")["HostConfig"]["NetworkMode"] == "none"


def test_a_pipe_server_has_no_network(docker_bench: Bench, docker_image: Image) -> None:
    """The server of a pipe backend has no interface but loopback either."""
    with docker_bench.running(docker_bench.launch(docker_image, "pipe")) as record:
        assert inspected(record, "server")["HostConfig"]["NetworkMode"] == "none"


def address(record: LaunchRecord, part: str) -> str:
    networks = inspected(record, part)["NetworkSettings"]["Networks"]
    return str(next(iter(networks.values()))["IPAddress"])


CONNECT = """
import socket
try: socket.create_connection(('{host}', {port}), 2).close(); answer = 'reached'
except OSError as error: answer = 'not reached'
answer
"""


def test_backends_with_a_network_do_not_reach_each_other(docker_bench: Bench, docker_image: Image) -> None:
    """User code that may use the network reaches neither another backend's server nor its own past the channel."""
    first = docker_bench.launch(docker_image, network=True)
    second = docker_bench.launch(docker_image, network=True)
    with docker_bench.running(first) as one, docker_bench.running(second) as other:
        assert evaluate(one, "import socket; len(socket.if_nameindex()) > 1") is True
        for record in (one, other):
            assert evaluate(one, CONNECT.format(host=address(record, "server"), port=5678)) == "not reached"


def test_a_networked_session_reaches_what_the_machine_does(docker_bench: Bench, docker_image: Image) -> None:
    """Where the network was asked for, user code gets out: it reaches a listener on the machine's own address."""
    with docker_bench.running(docker_bench.launch(docker_image, network=True)) as record:
        networks = inspected(record, "worker")["NetworkSettings"]["Networks"]
        gateway = next(iter(networks.values()))["Gateway"]
        with socket.create_server((gateway, 0)) as listener:
            code = CONNECT.format(host=gateway, port=listener.getsockname()[1])
            assert evaluate(record, code) == "reached"


def test_an_owner_in_a_network_reaches_servers_by_name(docker_bench: Bench, docker_image: Image) -> None:
    """With a network given, servers join it and are probed by their container's name; clients use published ports."""
    network = f"venvd-test-{secrets.token_hex(4)}"
    docker("network", "create", "--label", f"dev.venvd.home={docker_bench.settings.home_id}", network)
    engine = DockerEngine(replace(docker_bench.settings, docker_network=network))
    engine.prepare("http", Quiet())
    record = engine.start(docker_bench.launch(docker_image), Quiet())
    try:
        assert record.probe_url == f"http://venvd-{record.launch_id}-server:5678"
        wait_ready(record.url)
        code = f"import urllib.request as u; print(u.urlopen('{record.probe_url}/livez').status)"
        assert docker("run", "--rm", "--network", network, docker_image.ref, "python", "-c", code).strip() == "200"
    finally:
        engine.destroy(record)
        docker("network", "rm", network)


def test_a_container_makes_a_link_that_only_root_may(
    docker_bench: Bench, docker_image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link of a pipe in a shared directory belongs to the owner of that directory, also if this user is another."""
    directory, client = docker_bench.settings.home / "names", DockerClient(docker_bench.settings)
    directory.mkdir()
    directory.chmod(0o1777)
    link, path, names = directory / "CoreFxPipe_a", docker_bench.settings.run_dir / "a" / "pipe.sock", PipeNames(client)
    link.symlink_to("/nowhere/pipe.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    names.make(link, path, docker_image.ref)
    assert (link.readlink(), link.lstat().st_uid) == (path, directory.stat().st_uid)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(compat, "remove_link", refuse)
    names.remove(link, path.parent, docker_image.ref)
    assert link.is_symlink()
    names.remove(link, path, docker_image.ref)
    assert not link.is_symlink()


def test_a_directory_that_is_mounted_stays_over_a_restart(docker_bench: Bench, docker_image: Image) -> None:
    """A client in a container finds the sockets of the next launch where those of the last were; the end takes all."""
    engine, launch = docker_bench.engine, docker_bench.launch(docker_image, "pipe")
    engine.prepare("pipe", Quiet())
    first = engine.start(launch, Quiet())
    directory = docker_bench.settings.run_dir / str(launch.socket_name)
    wait_ready(first.probe_url)
    look = ["sh", "-c", "while ! test -e /sockets/again; do sleep 0.1; done; ls /sockets"]
    home = f"dev.venvd.home={docker_bench.settings.home_id}"
    client = docker("run", "-d", f"--label={home}", f"--volume={directory}:/sockets", docker_image.ref, *look).strip()
    try:
        engine.destroy(first, again=True)
        assert list(directory.iterdir()) == []
        second = engine.start(replace(launch, id=secrets.token_hex(6)), Quiet())
        wait_ready(second.probe_url)
        (directory / "again").touch()
        docker("wait", client)
        assert docker("logs", client).split() == ["again", "http.sock", "pipe.sock"]
        engine.destroy(second)
        assert not directory.exists()
    finally:
        docker("rm", "--force", client)


def test_a_port_that_only_the_engine_sees_taken_is_passed_over(docker_bench: Bench, docker_image: Image) -> None:
    """An owner in a container cannot look at the host's ports: what the engine refuses is left for the next one."""
    network = f"venvd-test-{secrets.token_hex(4)}"
    docker("network", "create", "--label", f"dev.venvd.home={docker_bench.settings.home_id}", network)
    engine = DockerEngine(replace(docker_bench.settings, docker_network=network))
    engine.prepare("http", Quiet())
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(docker, "network", "rm", network)
        holder = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        taken = holder.getsockname()[1]
        record = engine.start(docker_bench.launch(docker_image, ports=(Port("main", 5678, taken),)), Quiet())
        cleanup.callback(engine.destroy, record)
        assert record.url != f"http://127.0.0.1:{taken}"
        wait_ready(record.url)
        exact = docker_bench.launch(docker_image, ports=(Port("main", 5678, taken, exact=True),))
        with pytest.raises(Conflict, match=str(taken)):
            engine.start(exact, Quiet())
        assert not docker_bench.owned(exact.id)


def test_an_image_in_use_is_not_removed(docker_bench: Bench) -> None:
    """Removing the image of a running backend is refused, and names the backend."""
    wanted = docker_bench.wanted("six==1.9.0")
    image = docker_bench.engine.build(wanted, Quiet())
    launch = docker_bench.launch(image)
    with docker_bench.running(launch):
        with pytest.raises(InUse, match=launch.name):
            docker_bench.engine.remove_image(wanted.key())
        assert docker_bench.engine.find_image(wanted.key()) == image
    docker_bench.engine.remove_image(wanted.key())


def test_homes_do_not_touch_each_other(docker_bench: Bench, docker_image: Image) -> None:
    """Another home sees neither backends nor images of this one, and its sweeping leaves them alone."""
    with docker_bench.running(docker_bench.launch(docker_image)) as record, opened("docker") as stranger:
        assert stranger.engine.list_owned() == []
        assert stranger.engine.find_image(docker_image.key) is None
        stranger.engine.sweep()
        stranger.engine.remove_image(docker_image.key)
        assert evaluate(record, "1 + 1") == 2


# ---- directories of sockets --------------------------------------------------------------------------------------


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """The process as a user who is in the socket's group and in no other."""
    groups = os.getgroups()
    os.setgroups([Path("/var/run/docker.sock").stat().st_gid])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root can")
@pytest.mark.parametrize("owner", [0, NOBODY])
def test_an_unprivileged_owner_has_its_directories_made(
    docker_bench: Bench, docker_image: Image, tmp_path: Path, owner: int
) -> None:
    """Who may not give a directory to the servers' group has a container do it, also below a directory of root's."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.chown(run_dir, owner, owner)
    directories = SocketDirectories(DockerClient(replace(docker_bench.settings, run_dir=run_dir)))
    with unprivileged():
        made = directories.make("mine", OPEN, docker_image.ref)
    stat = made.stat()
    assert (stat.st_uid, stat.st_gid, oct(stat.st_mode & 0o7777)) == (NOBODY, 10000, oct(OPEN))
    (made / "left.sock").touch()
    os.chown(made / "left.sock", 10001, 10000)
    with unprivileged():
        directories.remove("mine", docker_image.ref, keep=True)
    assert list(made.iterdir()) == []
    (made / "left.sock").touch()
    os.chown(made / "left.sock", 10001, 10000)
    with unprivileged():
        directories.remove("mine", docker_image.ref)
        directories.remove("mine", docker_image.ref)
    assert not made.exists()


def test_homes_have_different_user_ids(docker_bench: Bench) -> None:
    """Each home has a block of user IDs, which it keeps while it has launches and gives back when it is swept."""
    settings = replace(docker_bench.settings, uid_base=1_900_000_000)
    first, second = (UserIds(DockerClient(replace(settings, home_id=make_home_id()))) for _ in range(2))
    try:
        blocks = [ids.claim() for ids in (first, second)]
        assert not set(blocks[0]) & set(blocks[1])
        assert all(block[0] >= 1_900_000_000 and len(block) == BLOCK for block in blocks)
        assert first.claim() == blocks[0]
        first.release()
        assert second.claim() == blocks[1]
    finally:
        first.release()
        second.release()
    assert f"venvd-users-{blocks[1][0]}" not in docker("volume", "ls", "--quiet").split()


@pytest.mark.parametrize("runtime", ["runc", "runsc"])
def test_a_runtime_is_tried(docker_bench: Bench, docker_image: Image, runtime: str) -> None:
    """Server and worker host can pass sockets and memory with the OCI runtimes that venvd is made for."""
    client = DockerClient(docker_bench.settings)
    if runtime not in client.api.info()["Runtimes"]:
        assert runtime != "runc"  # every engine has it; the next test tries one that an engine does not have
        return
    assert OciRuntimes(client)._try(runtime, docker_image.ref) is None
    assert not client.api.volumes(client.filters(labels.HELPER))["Volumes"]


def test_a_runtime_that_the_engine_does_not_have_is_refused(docker_bench: Bench, docker_image: Image) -> None:
    """A launch with an unknown OCI runtime is a wrong request, which names those of the engine; nothing is left."""
    launch = docker_bench.launch(docker_image, oci_runtime="no-such-runtime")
    with pytest.raises(InvalidRequest, match=r'no OCI runtime "no-such-runtime"; it has .*runc'):
        docker_bench.engine.start(launch, Quiet())
    assert not docker_bench.owned(launch.id)


@pytest.mark.long
def test_a_runtime_that_cannot_work_is_refused(docker_bench: Bench, docker_image: Image) -> None:
    """The reason is what the two halves of the probe said."""
    client = DockerClient(docker_bench.settings)
    assert "does not start" in (OciRuntimes(client)._try("no-such-runtime", docker_image.ref) or "")
