"""A printed pod: a pipe backend beside its client, in a namespace that venvd does not know."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import cli
from harness.controller import Controller
from harness.kubernetes import REGISTRY_URL, Namespace, make_namespace, read_values
from harness.pod_security import list_violations
from harness.stack import make_home_id
from harness.waiting import wait_until

from venvd_engines.kubernetes.sidecars import CREDENTIALS

NAME = "calculator"
CALL = """
import os, sys, venvd
with venvd.connect(os.environ["VENVD_BACKEND"], token=os.environ["VENVD_BACKEND_TOKEN"]) as backend:
    print(backend.eval(sys.argv[1]))
"""
LINES = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as pipe:
    pipe.connect("/run/venvd/socket/pipe.sock")
    answers = pipe.makefile()
    for line in sys.argv[1:]:
        pipe.sendall(line.replace("TOKEN", os.environ.get("VENVD_BACKEND_TOKEN", "")).encode() + b"\\n")
        print(answers.readline(), end="")
"""

MAKE_SOCKET = """
import socket
try:
    result = str(socket.socket())
except OSError as error:
    result = error.strerror
result
"""


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A controller of this machine, with a venv that holds six; it leaves nothing in its namespace."""
    values = read_values()
    home = tmp_path_factory.mktemp("controller")
    (home / "id").write_text(make_home_id())
    with make_namespace("controller") as namespace:
        namespace.restrict()
        env = {
            "VENVD_KUBERNETES_NAMESPACE": namespace.name,
            "VENVD_KUBERNETES_IMAGES": json.dumps(values["images"]),
            "VENVD_KUBERNETES_REGISTRY": values["registry"]["prefix"],
            "VENVD_KUBERNETES_REGISTRY_URL": REGISTRY_URL or "",
            "VENVD_BASE_IMAGE": values.get("baseImage", ""),
            **{name: os.environ[name] for name in ("VENVD_CA_BUNDLE",) if name in os.environ},
        }
        controller = Controller("kubernetes", home, env).start()
        try:
            controller.venv("six", python="3.13", requirements=["six"])
            yield controller
            controller.api("DELETE", "/v1/venvs/six")
            wait_until(lambda: not namespace.list_names(), lambda: f"left: {namespace.list_names()}")
        finally:
            controller.stop()


@pytest.fixture(scope="module")
def printed(controller: Controller) -> Callable[..., str]:
    """Prints the manifest."""
    environment = {"VENVD_URL": controller.url, "VENVD_TOKEN": controller.token, "VENVD_HOME": str(controller.home)}

    def print_it(*options: str, name: str = NAME) -> str:
        return cli.run(environment, "backend", "manifest", name, "--venv", "six", *options).out

    return print_it


@pytest.fixture(scope="module")
def client(printed: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """A restricted namespace with the pod, which is ready."""
    with make_namespace("client") as namespace:
        namespace.restrict()
        apply(namespace, printed(), tmp_path_factory.mktemp("printed"))
        namespace.kubectl("wait", f"pod/{NAME}", "--for=condition=Ready", "--timeout=180s")
        yield namespace


def apply(namespace: Namespace, manifest: str, directory: Path) -> str:
    file = directory / "pod.yaml"
    file.write_text(manifest)
    return namespace.kubectl("apply", "--filename", file)


def run_python(namespace: Namespace, program: str, *words: str, check: bool = True) -> str:
    """Run a program in the container of the client."""
    python = ("/opt/venv/bin/python", "-c", program, *words)
    return namespace.kubectl("exec", NAME, "--container=client", "--", *python, check=check).strip()


def get_pod(namespace: Namespace) -> dict[str, Any]:
    [pod] = [each for each in namespace.get("pods") if each["metadata"]["name"] == NAME]
    return pod


def count_restarts(namespace: Namespace) -> dict[str, int]:
    return {each["name"]: each["restartCount"] for each in get_pod(namespace)["status"]["initContainerStatuses"]}


def list_work(namespace: Namespace) -> set[str]:
    """List the directories of sessions, which lie in a volume of the pod."""
    program = "import os; print(*os.listdir('/work'))"
    return set(namespace.kubectl("exec", NAME, "--container=worker", "--", "/env/bin/python", "-c", program).split())


def test_the_client_calls_over_the_socket(client: Namespace) -> None:
    """The SDK, a line of JSON and a direct client get answers from the venv; a line without the token gets none."""
    assert run_python(client, CALL, "__import__('six').__name__") == "six"
    line = {"command": "eval", "payload": {"expression": "6 * 7"}}
    assert json.loads(run_python(client, LINES, json.dumps(line)))["code"] == "unauthenticated"
    assert json.loads(run_python(client, LINES, json.dumps({**line, "token": "TOKEN"})))["result"] == {"value": 42}
    attach = {"command": "session.attach", "token": "TOKEN"}
    answers = run_python(client, LINES, json.dumps(attach), json.dumps(line)).splitlines()
    assert json.loads(answers[1])["result"] == {"value": 42}


def test_the_pod_is_hardened(client: Namespace) -> None:
    """The pod keeps to restricted security; the client has the socket and nothing else of the backend."""
    spec = get_pod(client)["spec"]
    assert list_violations(spec) == []
    assert spec["automountServiceAccountToken"] is False
    assert run_python(client, "import os; print(os.listdir('/run/venvd'))") == "['socket']"
    assert run_python(client, CALL, "__import__('os').path.exists('/run/venvd/socket')") == "False"
    assert run_python(client, CALL, f"__import__('os').path.exists('{CREDENTIALS}/token')") == "False"


def test_user_code_has_no_network(client: Namespace) -> None:
    """The client has a network, and user code of a venv without one makes no network socket in the same pod."""
    assert run_python(client, "import socket; socket.socket(); print('made')") == "made"
    assert "Address family" in run_python(client, CALL, MAKE_SOCKET)


def test_without_a_token(client: Namespace, printed: Callable[..., str], tmp_path: Path) -> None:
    """A server without a token takes the client, whose user is another one: no other container has its socket."""
    apply(client, printed("--no-token", name="open"), tmp_path)
    client.kubectl("wait", "pod/open", "--for=condition=Ready", "--timeout=180s")
    line = json.dumps({"command": "eval", "payload": {"expression": "6 * 7"}})
    python = ("exec", "open", "--container=client", "--", "/opt/venv/bin/python", "-c", LINES)
    assert json.loads(client.kubectl(*python, line))["result"] == {"value": 42}
    client.kubectl("delete", "pod/open", "secret/open", "--now")


def test_under_gvisor(client: Namespace, printed: Callable[..., str], tmp_path: Path) -> None:
    """Under gVisor all containers of the pod are one sandbox, and the client calls over the socket as well."""
    if "gvisor" not in client.kubectl("get", "runtimeclass", "--output", "name"):
        pytest.skip("the cluster has no runtime class gvisor")
    apply(client, printed("--oci-runtime", "runsc", name="walled"), tmp_path)
    client.kubectl("wait", "pod/walled", "--for=condition=Ready", "--timeout=180s")
    python = ("exec", "walled", "--container=client", "--", "/opt/venv/bin/python", "-c", CALL)
    assert client.kubectl(*python, "__import__('platform').release()").strip() != platform.release()
    client.kubectl("delete", "pod/walled", "secret/walled", "--now")


def test_the_kubelet_starts_the_pair_again(client: Namespace) -> None:
    """When the server ends, so does the worker host; both start again without the client, and with nothing left."""
    run_python(client, CALL, "globals().update(kept=1)")
    before, directories = count_restarts(client), list_work(client)
    client.kubectl("exec", NAME, "--container=server", "--", "/opt/venv/bin/python", "-c", "import os; os.kill(1, 15)")
    wait_until(
        lambda: all(count_restarts(client)[part] > before[part] for part in ("server", "worker")),
        lambda: f"no restart: {count_restarts(client)}",
    )
    client.kubectl("wait", f"pod/{NAME}", "--for=condition=Ready", "--timeout=180s")
    assert run_python(client, CALL, "'kept' in globals()") == "False"
    assert directories
    assert not list_work(client) & directories
    [status] = get_pod(client)["status"]["containerStatuses"]
    assert status["restartCount"] == 0


def test_a_job_ends_with_its_client(client: Namespace, printed: Callable[..., str], tmp_path: Path) -> None:
    """A job does not wait for the pair, which ends after the client. A token of its service account is the client's."""
    _, pod = yaml.safe_load_all(printed())
    spec = pod["spec"]
    spec["restartPolicy"] = "Never"
    spec["automountServiceAccountToken"] = True
    ask = f"__import__('os').path.exists('{CREDENTIALS}/token')"
    spec["containers"][0]["command"] = ["/opt/venv/bin/python", "-c", f"print({ask}){CALL}", ask]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": {"template": {"spec": spec}}}
    apply(client, json.dumps(job), tmp_path)
    client.kubectl("wait", "job/once", "--for=condition=Complete", "--timeout=180s")
    assert client.kubectl("logs", "job/once", "--container=client").split() == ["True", "False"]
    client.kubectl("delete", "job", "once")


def test_another_version_of_the_token_ends_the_one_before(
    client: Namespace, printed: Callable[..., str], tmp_path: Path
) -> None:
    """Equal requests print equal manifests. Another token changes the Secret alone, and the server takes no other."""
    assert printed() == printed()
    said = apply(client, printed("--token-version", "2"), tmp_path)
    assert f"secret/{NAME} configured" in said
    assert f"pod/{NAME} unchanged" in said
    client.kubectl("annotate", "pod", NAME, "look=again")  # the kubelet reads the Secret at once

    def is_refused() -> bool:
        return not run_python(client, CALL, "1", check=False)

    wait_until(is_refused, "the earlier token is still taken", 150)


def test_a_start_names_the_command(controller: Controller) -> None:
    """`start pipe` is not implemented on this engine, says what is, and leaves no backend."""
    environment = {"VENVD_URL": controller.url, "VENVD_TOKEN": controller.token, "VENVD_HOME": str(controller.home)}
    ran = cli.run(environment, "start", "pipe", "--venv", "six", "--json", status=1)
    assert ran.json["code"] == "not_implemented"
    assert "`venvd backend manifest six-pipe --venv six`" in ran.json["detail"]
    assert controller.api("GET", "/v1/backends")["items"] == []
