"""Runtimes and venvs: the default runtime, providers, and what else a client may ask of an environment."""

from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from venvd_contract.errors import Forbidden, InvalidRequest, Unavailable
from venvd_contract.resources import BackendSpec, ProviderSpec, VenvSpec
from venvd_controller.database.tables import VenvRow
from venvd_controller.host_paths import HostPaths
from venvd_controller.manifest import read_manifest
from venvd_controller.providers import add_to_venv


def test_the_first_init_chooses_the_default(testbed: Any) -> None:
    """The first runtime that a client makes ready is the default; one that fails, and a later one, are not."""
    runtimes = testbed.controller.runtimes
    assert testbed.wait(runtimes.put("3.9")[1]).state == "failed"
    testbed.wait(runtimes.put("3.11")[1])
    testbed.wait(runtimes.put("3.13")[1])
    assert {item.version: item.default for item in runtimes.list_all()} == {"3.9": False, "3.11": True, "3.13": False}


def test_a_declared_runtime_is_not_chosen_by_itself(testbed: Any, engine: Any) -> None:
    """A build of a venv without a version may take it, and the default stays open."""
    gate = engine.gates["resolve"] = threading.Event()
    testbed.controller.runtimes.put("3.13", declared=True)
    operation = testbed.controller.venvs.put("x", VenvSpec())[1]
    gate.set()
    testbed.wait(operation)
    assert testbed.controller.venvs.get("x").python == "3.13.5"
    assert not testbed.controller.runtimes.get("3.13").default


def test_a_ready_runtime_becomes_the_default_when_it_is_asked_for(testbed: Any) -> None:
    """A build makes a runtime ready without choosing it; a later `init` of it chooses it."""
    testbed.wait(testbed.controller.venvs.put("x", VenvSpec(python="3.11"))[1])
    assert not testbed.controller.runtimes.get("3.11").default
    runtime, operation = testbed.controller.runtimes.put("3.11")
    assert operation is None
    assert runtime.default


def test_a_provider_gets_what_it_asks_for_more(testbed: Any) -> None:
    """Ensuring a provider's venv again adds packages or replaces their versions, and otherwise builds nothing."""
    providers = testbed.controller.providers
    venv, operation = providers.ensure("OpenAI", "gpt", lambda _: VenvSpec(python="3.11", requirements=["a==1", "b"]))
    testbed.wait(operation)
    assert venv.spec.labels == {"provider": "OpenAI", "model": "gpt"}
    assert providers.ensure("OpenAI", "gpt", lambda _: VenvSpec()) == (testbed.controller.venvs.get(venv.name), None)
    again, operation = providers.ensure("OpenAI", "gpt", lambda _: VenvSpec(requirements=["A==2", "c"], env={"X": "1"}))
    testbed.wait(operation)
    assert again.name == venv.name
    assert again.spec.requirements == ["a==2", "b", "c"]
    assert (again.spec.python, again.spec.env) == ("3.11", {"X": "1"})


def test_a_provider_with_a_list_of_packages(testbed: Any) -> None:
    """Its venvs have these packages from the first; a changed list reaches them when they are ensured again."""
    providers = testbed.controller.providers
    providers.put("OpenAI", ProviderSpec(["openai==1"], python="3.11"))
    venv, operation = providers.ensure("OpenAI", None, lambda _: VenvSpec(requirements=["extra"]))
    testbed.wait(operation)
    assert (venv.spec.python, venv.spec.requirements) == ("3.11", ["extra", "openai==1"])
    providers.put("OpenAI", ProviderSpec(["OpenAI==2"], python="3.13"))
    again, operation = providers.ensure("OpenAI", None, lambda _: VenvSpec())
    testbed.wait(operation)
    assert (again.name, again.spec.python, again.spec.requirements) == (venv.name, "3.11", ["extra", "openai==2"])
    with pytest.raises(InvalidRequest, match="cannot be read"):
        providers.put("OpenAI", ProviderSpec(["open ai"]))
    providers.delete("OpenAI")
    assert providers.list_all() == []


def test_providers_of_a_manifest(create_testbed: Any, tmp_path: Path, wait_until: Any) -> None:
    """A manifest declares what providers need: it brings back a deleted one and removes one that it no longer names."""
    path = tmp_path / "venvd.yaml"
    path.write_text("providers:\n- {name: OpenAI, requirements: [openai]}\n")
    with create_testbed(manifest=path).started() as testbed:
        providers = testbed.controller.providers
        assert providers.get("OpenAI").spec == ProviderSpec(["openai"])
        providers.put("mine", ProviderSpec(["x"]))
        providers.delete("OpenAI")
        wait_until(lambda: providers.list_declared() == {"OpenAI"})
        path.write_text("providers: []\n")
        wait_until(lambda: [item.name for item in providers.list_all()] == ["mine"])


def test_what_is_added_to_a_venv() -> None:
    """Lists grow without doubles, and a field with its default changes nothing."""
    spec = VenvSpec(python="3.11", aptPackages=["git"], preload=["a"], network=True)
    changed = add_to_venv(spec, VenvSpec(preload=["b", "a"]))
    assert changed == VenvSpec(python="3.11", aptPackages=["git"], preload=["a", "b"], network=True)


def test_servers_have_the_settings_of_venv_and_backend(create_testbed: Any, engine: Any, tmp_path: Path) -> None:
    """A backend overrides its venv key by key; a file below an allowed directory reaches the engine as a file."""
    certificate = tmp_path / "allowed" / "cert.pem"
    with create_testbed(host_dirs=str(tmp_path / "allowed"), session_limits='{"handles": 5}').started() as testbed:
        server = {"maxSessions": 4, "grace": 3, "maxConnections": 7, "tlsCert": str(certificate)}
        testbed.controller.venvs.put("x", VenvSpec(python="3.11", server=server))
        spec = BackendSpec("rpc", "x", "b", server={"maxSessions": 8, "sessionLimits": {"processes": 9}})
        testbed.wait(testbed.controller.backends.start(spec)[1])
        launch = engine.find_backend("b").launch
        assert launch.server_env["VENVD_MAX_SESSIONS"] == "8"
        assert launch.server_env["VENVD_GRACE"] == "3"
        assert launch.server_env["VENVD_SESSION_LIMITS"] == '{"handles": 5, "processes": 9}'
        assert "VENVD_MAX_CONNECTIONS" not in launch.server_env
        assert launch.server_files == {"VENVD_TLS_CERT": certificate}
        assert launch.url_scheme == "grpcs"


def test_paths_of_the_host_come_from_the_allow_list(create_testbed: Any, tmp_path: Path) -> None:
    """A file outside of VENVD_HOST_DIRS is refused, also by `..` and by a link; no directory is allowed by default."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to("/etc")
    with create_testbed(host_dirs=str(allowed)).started() as testbed:
        for path in ("/etc/hostname", f"{allowed}/../x", f"{allowed}/link/hostname", f"{allowed}x/y"):
            with pytest.raises(Forbidden, match="VENVD_HOST_DIRS"):
                testbed.controller.venvs.put("x", VenvSpec(server={"tlsKey": path}))
    with create_testbed().started() as testbed, pytest.raises(Forbidden, match="which is empty"):
        testbed.controller.venvs.put("x", VenvSpec(server={"tlsKey": str(allowed / "key")}))


def test_a_mounted_secret_may_be_renewed(tmp_path: Path) -> None:
    """Kubernetes leads the links of a Secret elsewhere at each renewal: the path stays; a link out of it is refused."""
    folder = tmp_path / "certificate"
    host_paths = HostPaths(tmp_path, [tmp_path])
    for number in range(2):
        made = folder / f"..{number}"
        made.mkdir(parents=True)
        (made / "tls.crt").touch()
        (folder / "..data").unlink(missing_ok=True)
        (folder / "..data").symlink_to(made.name)
        if not number:
            (folder / "tls.crt").symlink_to("..data/tls.crt")
        checked = host_paths.check("tlsCert", f"{folder}/tls.crt")
        assert checked == host_paths.check_again("tlsCert", checked) == f"{folder}/tls.crt"
    (folder / "out").symlink_to("/etc/hostname")
    with pytest.raises(Forbidden):
        host_paths.check("tlsCert", f"{folder}/out")


def test_dotnet_adds_its_packages_and_variables(create_testbed: Any, tmp_path: Path, engine: Any) -> None:
    """The lock has Python.NET and a runtime, and the launch has the directory of the operator."""
    with create_testbed(host_dirs=str(tmp_path)).started() as testbed:
        plain = testbed.controller.venvs.put("x", VenvSpec(python="3.11", requirements=["six"]))[1]
        testbed.wait(plain)
        assert "pythonnet" not in testbed.controller.venvs.get_lock("x")
        spec = VenvSpec(python="3.11", requirements=["six"], dotnet=True, assemblies=str(tmp_path))
        testbed.wait(testbed.controller.venvs.put("x", spec)[1])
        assert {"pythonnet", "dotnetcore2"} <= set(re.findall(r"[a-z0-9]+", testbed.controller.venvs.get_lock("x")))
        assert testbed.controller.venvs.put("x", spec)[1] is None
        testbed.wait(testbed.controller.backends.start(BackendSpec("http", "x", "b"))[1])
        launch = engine.find_backend("b").launch
        assert (launch.dotnet, launch.assemblies) == (True, tmp_path)
        env = launch.make_worker_env("/env", "/inside")
        assert env["DOTNET_ROOT"] == "/env/lib/python3.11/site-packages/dotnetcore2/bin"
        assert env["VENVD_ASSEMBLIES"] == "/inside"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"assemblies": "/srv"}, "set dotnet to true"),
        ({"dotnet": True, "assemblies": "srv"}, "no absolute path"),
        ({"dotnet": True, "assemblies": "/etc"}, "VENVD_HOST_DIRS"),
        ({"dotnet": True, "preload": ["clr"]}, "does not survive a fork"),
    ],
)
def test_wrong_fields_of_dotnet_are_refused(testbed: Any, fields: dict[str, Any], says: str) -> None:
    """The message says what would be right."""
    with pytest.raises((InvalidRequest, Forbidden), match=says):
        testbed.controller.venvs.put("x", VenvSpec(**fields))


def test_wrong_settings_of_servers_are_refused(testbed: Any) -> None:
    """A map is checked before anything is written."""
    with pytest.raises(InvalidRequest, match='is "maxBody" meant'):
        testbed.controller.venvs.put("x", VenvSpec(server={"maxBdy": 1}))
    testbed.controller.venvs.put("x", VenvSpec(python="3.11"))
    with pytest.raises(InvalidRequest, match="type pipe and rpc has it"):
        testbed.controller.backends.start(BackendSpec("http", "x", server={"drain": 1}))


def test_an_upgrade_locks_again(testbed: Any, engine: Any) -> None:
    """An unchanged venv and one with another check keep their lock; an upgrade resolves a new one."""
    venvs = testbed.controller.venvs
    testbed.wait(venvs.put("x", VenvSpec(python="3.11", requirements=["a"]))[1])
    engine.version = 1
    assert venvs.put("x", VenvSpec(python="3.11", requirements=["a"]))[1] is None
    testbed.wait(venvs.put("x", VenvSpec(python="3.11", requirements=["a"], checks=["a"]))[1])
    assert venvs.get_lock("x") == "a==0"
    operation = venvs.put("x", venvs.get("x").spec, upgrade=True)[1]
    with testbed.controller.database.read() as session:
        inputs = session.scalars(select(VenvRow.inputs).where(VenvRow.name == "x")).one()
    assert len(str(inputs)) <= VenvRow.__table__.c.inputs.type.length  # other databases than SQLite refuse more
    testbed.wait(operation)
    assert venvs.get_lock("x") == "a==1"
    assert venvs.put("x", venvs.get("x").spec)[1] is None


def test_an_upgrade_that_fails_leaves_the_venv(testbed: Any, engine: Any) -> None:
    """The venv stays ready with the lock that it had, and says why; the next request does not try again by itself."""
    venvs = testbed.controller.venvs
    testbed.wait(venvs.put("x", VenvSpec(python="3.11", requirements=["a"]))[1])
    engine.faults["lock"] = Unavailable("the package index is away")
    assert testbed.wait(venvs.put("x", venvs.get("x").spec, upgrade=True)[1]).state == "failed"
    venv = venvs.get("x")
    assert venv.state == "ready"
    assert "the package index is away" in str(venv.error)
    assert venvs.get_lock("x") == "a==0"
    assert venvs.put("x", venv.spec)[1] is None
    assert venvs.ensure("x", _Quiet()).key == venv.key


def test_a_start_during_an_upgrade_that_fails_has_the_image_before(testbed: Any, engine: Any) -> None:
    """The start waits for the upgrade, and does not fail with it."""
    venvs = testbed.controller.venvs
    testbed.wait(venvs.put("x", VenvSpec(python="3.11", requirements=["a"]))[1])
    engine.faults["lock"] = Unavailable("the package index is away")
    gate = engine.gates["lock"] = threading.Event()
    upgrade = venvs.put("x", venvs.get("x").spec, upgrade=True)[1]
    start = testbed.controller.backends.start(BackendSpec("http", "x", "b"))[1]
    gate.set()
    assert testbed.wait(upgrade).state == "failed"
    assert testbed.wait(start).state == "succeeded"
    assert testbed.controller.backends.get("b").key == venvs.get("x").key


def test_upgrades_soon_after_each_other(testbed: Any, engine: Any) -> None:
    """A second request joins an upgrade that is under way; one after a cancelled upgrade is an upgrade of its own."""
    venvs, operations = testbed.controller.venvs, testbed.controller.operations
    testbed.wait(venvs.put("x", VenvSpec(python="3.11", requirements=["a"]))[1])
    spec = venvs.get("x").spec
    engine.version = 1
    gate = engine.gates["lock"] = threading.Event()
    first = venvs.put("x", spec, upgrade=True)[1]
    assert venvs.put("x", spec, upgrade=True)[1].id == first.id
    operations.cancel(first.id)
    second = venvs.put("x", spec, upgrade=True)[1]
    gate.set()
    assert testbed.wait(second).state == "succeeded"
    assert venvs.get_lock("x") == "a==1"


class _Quiet:
    def phase(self, name: str) -> None: ...

    def log(self, line: str) -> None: ...

    def check(self) -> None: ...


LOCK = "a==1.5 --hash=sha256:00\n"


def test_a_lock_that_is_brought(testbed: Any, engine: Any) -> None:
    """A lock is installed as it is, without the lines for other platforms. Without it, the venv is resolved again."""
    venvs = testbed.controller.venvs
    lock = f"--index-url https://index.invalid\n{LOCK}b==1 ; sys_platform == 'win32' --hash=sha256:11\n"
    testbed.wait(venvs.put("x", VenvSpec(python="3.11", requirements=["a>=1"], lock=lock))[1])
    assert venvs.get_lock("x") == LOCK
    assert "lock" not in engine.steps
    with pytest.raises(InvalidRequest, match="a lock of its own"):
        venvs.put("x", venvs.get("x").spec, upgrade=True)
    testbed.wait(venvs.put("x", VenvSpec(python="3.11", requirements=["a>=1"]))[1])
    assert "lock" in engine.steps
    assert venvs.get_lock("x") != LOCK


def test_a_lock_has_what_extras_need(testbed: Any, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build resolves requirements with extras at the pinned versions, and names packages that the lock lacks."""
    venvs = testbed.controller.venvs
    asked = []

    def lock(_runtime: Any, lines: Any, _progress: Any, constraints: Any) -> str:
        asked.append((list(lines), list(constraints)))
        return f"{LOCK}h2==4 --hash=sha256:22\n"

    monkeypatch.setattr(engine, "lock", lock)
    spec = VenvSpec(python="3.11", requirements=["a[http2]"], lock=LOCK)
    failed = testbed.wait(venvs.put("x", spec)[1])
    assert (failed.error["code"], asked) == ("invalid_request", [(["a[http2]"], ["a==1.5"])])
    assert "it lacks h2" in failed.error["detail"]
    whole = dataclasses.replace(spec, lock=f"{LOCK}h2==4 --hash=sha256:22\n")
    assert testbed.wait(venvs.put("x", whole)[1]).state == "succeeded"


def test_a_project_gets_a_python_that_it_runs_on(testbed: Any) -> None:
    """Without a named Python, it is the default runtime if that fits, else the newest that does; or an error."""
    controller = testbed.controller
    needs = {text: f'[project]\nname = "p"\nrequires-python = "{text}"' for text in (">=3.12", "<3.12", "<3.9")}
    testbed.wait(controller.venvs.put("new", VenvSpec(pyproject=needs["<3.12"]))[1])
    assert controller.venvs.get("new").python.startswith("3.11.")
    testbed.wait(controller.runtimes.put("3.13")[1])
    for text, python in ((">=3.12", "3.13.5"), ("<3.12", "3.11.5")):
        testbed.wait(controller.venvs.put("x", VenvSpec(pyproject=needs[text]))[1])
        venv = controller.venvs.get("x")
        assert (venv.python, venv.spec.python, venv.spec.requiresPython) == (python, None, text)
    with pytest.raises(InvalidRequest, match=r"no supported Python is <3.9; supported are 3.14, "):
        controller.venvs.put("x", VenvSpec(pyproject=needs["<3.9"]))
    with pytest.raises(InvalidRequest, match=r"needs Python <3.12, and its python is 3.13"):
        controller.venvs.put("x", VenvSpec(pyproject=needs["<3.12"], python="3.13"))
    with pytest.raises(InvalidRequest, match="no version specifier"):
        controller.venvs.put("x", VenvSpec(requiresPython="new"))


def test_paths_of_the_host_are_checked_at_each_start(create_testbed: Any, tmp_path: Path, engine: Any) -> None:
    """A directory that became a link to elsewhere, or that is gone, is named by the error of the start."""
    allowed = tmp_path / "allowed"
    assemblies = allowed / "dlls"
    assemblies.mkdir(parents=True)
    with create_testbed(host_dirs=str(allowed)).started() as testbed:
        spec = VenvSpec(python="3.11", dotnet=True, assemblies=str(assemblies))
        testbed.wait(testbed.controller.venvs.put("x", spec)[1])
        assemblies.rmdir()
        gone = testbed.wait(testbed.controller.backends.start(BackendSpec("http", "x", "b"))[1])
        assert (gone.error["code"], f"{assemblies} does not exist" in gone.error["detail"]) == ("invalid_request", True)
        assemblies.symlink_to("/etc")
        swapped = testbed.wait(testbed.controller.backends.restart("b")[1])
        assert (swapped.error["code"], "VENVD_HOST_DIRS" in swapped.error["detail"]) == ("forbidden", True)
        assemblies.unlink()
        (allowed / "other").mkdir()
        assemblies.symlink_to(allowed / "other")
        moved = testbed.wait(testbed.controller.backends.restart("b")[1])
        assert f"is a link to {allowed}/other" in moved.error["detail"]
        assert "adopt" not in engine.steps
        assert not [each for each in engine.list_owned() if each.name == "b"]


def test_an_existing_virtual_environment_is_checked_before_it_is_read(
    create_testbed: Any, tmp_path: Path, engine: Any
) -> None:
    """The build fails if the path became a link to elsewhere since it was given."""
    folder = tmp_path / "allowed" / "env"
    folder.mkdir(parents=True)
    with create_testbed(host_dirs=str(folder.parent)).started() as testbed:
        testbed.wait(testbed.controller.venvs.put("x", VenvSpec(path=str(folder)))[1])
        folder.rmdir()
        folder.symlink_to("/etc")
        engine.images.clear()
        engine.steps.clear()
        with pytest.raises(Forbidden, match="VENVD_HOST_DIRS"):
            testbed.controller.venvs.ensure("x", _Quiet())
        assert "adopt" not in engine.steps


def test_a_list_has_the_digest_of_a_lock(client: Any) -> None:
    """The venv itself has the text."""
    client.put("/v1/venvs/x", json={"python": "3.11", "lock": LOCK})
    (listed,) = client.get("/v1/venvs").json()["items"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64} \(GET /v1/venvs/x has the text\)", listed["spec"]["lock"])
    assert client.get("/v1/venvs/x").json()["spec"]["lock"] == LOCK


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (VenvSpec(lock="a==1"), "pins no version by hash"),
        (VenvSpec(lock="-r other.txt"), "refers to something else"),
        (VenvSpec(lock=LOCK, requirements=["a>=2"]), 'pins a 1.5, and "a>=2" is asked for'),
        (VenvSpec(lock=LOCK, requirements=["c"]), 'does not pin "c"'),
        (VenvSpec(lock=LOCK, constraints=["a<2"]), "exclude each other"),
        (VenvSpec(extras=["dev"]), "the field pyproject is absent"),
        (VenvSpec(constraints=["git+https://x"]), "names an address"),
        (VenvSpec(checks=["a b"]), "no name of a module"),
    ],
)
def test_wrong_inputs_of_a_lock(testbed: Any, spec: VenvSpec, says: str) -> None:
    """What contradicts itself or cannot be installed is refused before anything is built."""
    with pytest.raises(InvalidRequest) as caught:
        testbed.controller.venvs.put("x", spec)
    assert says in caught.value.message


def test_a_manifest_names_files_beside_it(tmp_path: Path) -> None:
    """The files of requirements, constraints and pyproject.toml become fields of the venv."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "p"\ndependencies = ["b>=1"]\n')
    (tmp_path / "limits.txt").write_text("# versions\nb<2\n")
    (tmp_path / "venvd.yaml").write_text(
        "venvs:\n- {name: x, requirements: [a], pyprojectFile: pyproject.toml, constraintsFile: limits.txt}\n"
    )
    manifest = read_manifest(tmp_path / "venvd.yaml", HostPaths(tmp_path))
    assert manifest.venvs["x"] == VenvSpec(requirements=["a", "b>=1"], constraints=["b<2"])
    assert {path.name for path in manifest.files} == {"limits.txt", "pyproject.toml"}
    (tmp_path / "venvd.yaml").write_text("venvs:\n- {name: x, lockFile: nowhere.txt}\n")
    with pytest.raises(InvalidRequest, match=r"line 2: venvs\[0\].lockFile: .*nowhere.txt cannot be read"):
        read_manifest(tmp_path / "venvd.yaml", HostPaths(tmp_path))


def test_a_missing_file_of_a_manifest(create_testbed: Any, tmp_path: Path, wait_until: Any) -> None:
    """The manifest before stays in force until the file comes."""
    path = tmp_path / "venvd.yaml"
    path.write_text("venvs: []\n")
    with create_testbed(manifest=path).started() as testbed:
        sync = testbed.controller.manifest_sync
        path.write_text("venvs:\n- {name: x, requirementsFile: late.txt}\n")
        wait_until(lambda: "late.txt cannot be read" in str(sync.problem))
        (tmp_path / "late.txt").write_text("a\n")
        wait_until(lambda: testbed.controller.venvs.find_spec("x") == VenvSpec(requirements=["a"]))
        wait_until(lambda: sync.problem is None)


def test_a_backend_that_cannot_change_now(create_testbed: Any, tmp_path: Path, wait_until: Any) -> None:
    """The others of the manifest change at once. It changes as soon as it can, also under the next controller."""
    path = tmp_path / "venvd.yaml"

    def write(first: int, second: int) -> None:
        each = "- {{name: {}, type: http, venv: x, replicas: {}}}\n"
        backends = each.format("a", first) + each.format("b", second)
        # the size differs too, since two writes within a tick of the kernel's clock have the same time
        path.write_text(f"venvs: [{{name: x, python: '3.13'}}]\nbackends:\n{backends}{'#' * second}\n")

    def list_wanted(name: str) -> list[bool]:
        return [row.wanted for row in testbed.controller.backends.list_replicas(name)]

    write(2, 1)
    with create_testbed(manifest=path).started() as testbed:
        wait_until(lambda: {row.state for row in testbed.controller.backends.list_rows()} == {"running"})
        testbed.engine.gates["stop"] = threading.Event()
        write(1, 1)
        wait_until(lambda: list_wanted("a") == [True, False])
        write(2, 2)
        wait_until(lambda: list_wanted("b") == [True, True])
        wait_until(lambda: "replica 1 is being removed" in str(testbed.controller.manifest_sync.problem))
        testbed.controller.reconciler.stop()
    with create_testbed(manifest=path).started() as testbed:
        wait_until(lambda: list_wanted("a") == [True, True])
        wait_until(lambda: testbed.controller.manifest_sync.problem is None)


def test_a_virtual_environment_of_the_host(create_testbed: Any, engine: Any, tmp_path: Path) -> None:
    """Its path must be allowed and stands alone; nothing is locked or built, and no runtime is made."""
    with create_testbed(host_dirs=str(tmp_path)).started() as testbed:
        venvs = testbed.controller.venvs
        (tmp_path / "theirs").mkdir()
        testbed.wait(venvs.put("x", VenvSpec(path=f"{tmp_path}/theirs"))[1])
        venv = venvs.get("x")
        assert (venv.state, venv.image, venv.python) == ("ready", f"{tmp_path}/theirs", "3.11.9")
        assert not {"lock", "build", "resolve"} & set(engine.steps)
        assert venvs.put("x", VenvSpec(path=f"{tmp_path}/theirs"))[1] is None
        with pytest.raises(InvalidRequest, match="path and requirements exclude each other"):
            venvs.put("x", VenvSpec(path=f"{tmp_path}/theirs", requirements=["six"]))
        with pytest.raises(Forbidden, match="VENVD_HOST_DIRS"):
            venvs.put("x", VenvSpec(path="/usr"))
