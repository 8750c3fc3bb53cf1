"""Clients that hold no code of venvd: the examples, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
from harness.stack import ROOT, Running

EXAMPLES = ROOT / "examples"
LIBRARIES = ("grpc", "grpc_status", "google", "typing_extensions.py")


def run(*command: object, token: str, expect: int = 0, **environment: str) -> str:
    """What a program prints."""
    finished = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PATH": os.environ["PATH"], "VENVD_TOKEN": token, **environment},
    )
    assert finished.returncode == expect, finished.stderr
    return finished.stdout


def path_of(pipe: Running) -> str:
    return urlsplit(pipe.url).path


AWKWARD = 'a = """x\ty\\\\"""\nb = "\'q\' ☃"\nprint("to the log, not the reply")\n[a, b]'


@pytest.mark.needs("nc")
def test_a_shell_with_nc(pipe: Running) -> None:
    """A shell script evaluates over the pipe, with quotes, backslashes, tabs and several lines in the code."""
    script = EXAMPLES / "shell" / "eval.sh"
    assert json.loads(run(script, path_of(pipe), "sum(range(10))", token=pipe.token)) == {"result": {"value": 45}}
    reply = json.loads(run(script, path_of(pipe), AWKWARD, token=pipe.token))
    assert reply == {"result": {"value": ["x\ty\\", "'q' ☃"]}}


@pytest.mark.needs("nc")
@pytest.mark.parametrize(("words", "status"), [(("1 / 0",), 1), (("1", "nobody"), 1), ((), 2)])
def test_a_shell_is_told_of_errors(pipe: Running, words: tuple[str, ...], status: int) -> None:
    """An error is printed, and the script's status says that it is one."""
    output = run(EXAMPLES / "shell" / "eval.sh", path_of(pipe), *words, token=pipe.token, expect=status)
    assert not words or "code" in json.loads(output)


@pytest.mark.needs("nc")
def test_a_shell_without_the_token(pipe: Running) -> None:
    """Without the token the script is refused."""
    output = run(EXAMPLES / "shell" / "eval.sh", path_of(pipe), "1", token="", expect=1)
    assert json.loads(output)["code"] == "unauthenticated"


@pytest.mark.needs("node")
def test_node_over_the_pipe(pipe: Running) -> None:
    """A program in another language: pipelined calls, streamed output, errors."""
    output = run("node", EXAMPLES / "node" / "pipe.mjs", path_of(pipe), token=pipe.token)
    assert output.splitlines() == [
        "mean 4, median 2.5",
        *(f"step {step}" for step in range(3)),
        "result: finished",
        "user_error: ZeroDivisionError: division by zero",
    ]


@pytest.mark.needs("node")
def test_node_over_http(http: Running) -> None:
    """A program in another language: a session of its own, objects, output, errors."""
    output = run("node", EXAMPLES / "node" / "http.mjs", http.url, token=http.token)
    assert output.splitlines() == [
        'most common: [["a",2]]',
        "on linux",
        "422 user_error: NameError: name 'missing' is not defined",
    ]


FIRST = ["sum 6", "denominator 4", "rounded 1", "user_error: division by zero"]
CSHARP = ("System.Net.Http", "System.Runtime.Serialization", "System.Xml", "System.Xml.Linq")


@pytest.mark.needs("curl")
def test_the_first_program_with_curl(http: Running) -> None:
    """The first program runs in a shell."""
    assert run(EXAMPLES / "first" / "first.sh", http.url, token=http.token).splitlines() == FIRST


@pytest.mark.needs("node")
def test_the_first_program_in_javascript(http: Running) -> None:
    """The first program runs in Node."""
    assert run("node", EXAMPLES / "first" / "first.mjs", http.url, token=http.token).splitlines() == FIRST


@pytest.mark.long  # Go compiles its HTTP library first
@pytest.mark.needs("go")
def test_the_first_program_in_go(http: Running) -> None:
    """The first program runs in Go, with its standard library alone."""
    words = ("go", "run", EXAMPLES / "first" / "first.go", http.url)
    assert run(*words, token=http.token, HOME=str(Path.home()), GO111MODULE="off").splitlines() == FIRST


@pytest.mark.needs("mcs")
def test_the_first_program_in_csharp(http: Running, tmp_path: Path) -> None:
    """The first program runs in C#, with the class library alone."""
    program = tmp_path / "First.exe"
    libraries = [f"-r:{name}" for name in CSHARP]
    run("mcs", f"-out:{program}", *libraries, EXAMPLES / "first" / "First.cs", token="")
    assert run("mono", program, http.url, token=http.token).splitlines() == FIRST


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stubs made from the proto files, beside nothing but what gRPC itself needs."""
    made = tmp_path_factory.mktemp("stubs")
    sources = [str(path) for path in sorted((ROOT / "proto").rglob("*.proto"))]
    outputs = [f"--{kind}_out={made}" for kind in ("python", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *outputs, *sources]
    subprocess.run(command, check=True, timeout=120)
    site = Path(grpc.__file__).parent.parent
    for name in LIBRARIES:
        (made / name).symlink_to(site / name)
    return made


def test_grpc_from_the_proto_alone(rpc: Running, stubs: Path) -> None:
    """A client made from the proto files: objects, streamed output, the Session stream, errors with their details."""
    client = EXAMPLES / "grpc" / "client.py"
    address = urlsplit(rpc.url).netloc
    output = run(sys.executable, "-S", client, address, token=rpc.token, PYTHONPATH=str(stubs))
    assert output.splitlines() == [
        "denominator 4",
        "step 0",
        "step 1",
        "on one stream [(3, '{\"value\":9}'), (4, '{\"value\":16}')]",
        "UNKNOWN user_error: ZeroDivisionError",
    ]
