"""The command line, run as a program against a real controller on the local engine."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from harness.cli import Cli, run
from harness.ports import free_port
from harness.programs import started

import venvd
from venvd._cli.backend import describe_walls
from venvd_contract.resources import Walls

pytestmark = pytest.mark.slow

MINOR = f"3.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("walls", "says"),
    [
        (Walls(7, callFilter=True, networkSockets=False), "Landlock 7, system calls filtered, without network sockets"),
        (
            Walls(0, callFilter=True, kernel="4.19.0-gvisor", namespaces=True),
            "namespaces, system calls filtered, with network sockets, kernel 4.19.0-gvisor",
        ),
        (Walls(3), "Landlock 3, system calls not filtered"),
        (Walls(0), "no Landlock, system calls not filtered"),
    ],
)
def test_the_walls_of_a_backend_are_said(walls: Walls, says: str) -> None:
    """Landlock, the filter of system calls and the kernel are one line."""
    assert describe_walls(walls) == says


def runs(pid: int) -> bool:
    """Whether a process is there and more than its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of a home in which nothing has happened."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
    return {**kept, "VENVD_HOME": str(tmp_path / "home"), "VENVD_ENGINE": "local"}


def test_eval_prints_the_value(cli: Cli) -> None:
    """Strings as they are, other values as Python writes them, None not at all."""
    assert cli("eval", "6 * 7", "--backend", "main").out == "42\n"
    assert cli("eval", "'text'").out == "text\n"
    assert cli("eval", "None").out == ""
    assert cli("eval", "-", stdin="x = 5\nx + 1").out == "6\n"


def test_eval_as_json(cli: Cli) -> None:
    """The contract's *result*, one object."""
    assert cli("eval", "--json", "(1, float('inf'), __import__('decimal').Decimal('1.10'))").json == {
        "value": [1, None, 1.1]
    }
    result = cli("eval", "--json", "object").json
    assert result == {"isHandle": True, "typeName": "type", "repr": "<class 'object'>"}


def test_exec_keeps_the_streams_apart(cli: Cli) -> None:
    """What the code prints goes where it was printed to."""
    ran = cli("exec", "import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 + 1")
    assert ran.out == "out\n2\n"
    assert ran.err == "err\n"


def test_errors_of_the_code(cli: Cli) -> None:
    """The user's traceback on stderr and exit code 1; with --json the error is in the output."""
    ran = cli("exec", "print('before')\n1 / 0", status=1)
    assert ran.out == "before\n"
    assert "ZeroDivisionError: division by zero" in ran.err
    assert "ZeroDivisionError" in cli("eval", "1 / 0", status=1).err
    assert cli("exec", "--json", "1 / 0", status=1).json["error"]["errorType"] == "ZeroDivisionError"


def test_a_timeout(cli: Cli) -> None:
    """Code over its time is an error that says so."""
    assert "time" in cli("eval", "--timeout", "0.3", "import time\ntime.sleep(30)", status=1).err


def test_a_backend_by_url(cli: Cli, site: Any) -> None:
    """No controller is needed for it; the token is an option."""
    assert cli("eval", "2", "--backend", site.backend.url, "--token", site.backend.token).out == "2\n"
    assert "token" in cli("eval", "2", "--backend", site.backend.url, "--token", "wrong", status=1).err


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["status"], dict),
        (["list"], dict),
        (["config"], dict),
        (["runtime", "list"], list),
        (["runtime", "status", MINOR], dict),
        (["venv", "list"], list),
        (["venv", "status", "plain"], dict),
        (["venv", "packages", "plain"], list),
        (["venv", "lock", "plain"], dict),
        (["backend", "list"], list),
        (["backend", "status", "main"], dict),
        (["backend", "metrics", "main"], dict),
        (["logs", "main"], list),
        (["operation", "list"], list),
        (["completion", "bash"], dict),
    ],
)
def test_every_reading_command_speaks_json_and_text(cli: Cli, words: list[str], kind: type) -> None:
    """With --json one object or array and nothing else on stdout; without it, text."""
    assert type(cli(*words, "--json").json) is kind
    assert cli(*words).out is not None


def test_config_tells_where_each_setting_is_from(elsewhere: dict[str, str], site: Any) -> None:
    """By the variable that sets it, or another that its default follows."""
    settings = {item["name"]: item for item in run(site.environment(), "config", "--json").json["settings"]}
    assert settings["VENVD_HOME"]["variable"] == "VENVD_HOME"
    assert (settings["VENVD_MAX_BODY"]["source"], settings["VENVD_MAX_BODY"]["variable"]) == ("default", None)
    theirs = {**elsewhere, "SSL_CERT_FILE": "/nowhere.pem", "VENVD_PORT": str(free_port())}
    run(theirs, "up", "--detach")
    try:
        text = run(theirs, "config", status=1).out
    finally:
        run(theirs, "down")
    assert re.search(r"VENVD_CA_BUNDLE +/nowhere.pem +environment: SSL_CERT_FILE +CA certificates for builds", text)
    assert "broken: SSL_CERT_FILE" in text


def test_up_tells_of_another_url(elsewhere: dict[str, str]) -> None:
    """VENVD_URL, where it is not the controller's own address."""
    theirs = {**elsewhere, "VENVD_URL": "http://127.0.0.1:1", "VENVD_PORT": str(free_port())}
    assert "VENVD_URL is http://127.0.0.1:1, " in run(theirs, "up", "--detach").err
    run(theirs, "down")


def test_up_tells_what_it_has_chosen(elsewhere: dict[str, str], tmp_path: Path) -> None:
    """The engine with its reason and what it does not guard against, and the manifest with its path."""
    manifest = tmp_path / "venvd.yaml"
    manifest.write_text("venvs: []\n")
    nowhere = {"VENVD_ENGINE": "auto", "DOCKER_HOST": "unix:///nowhere.sock"}
    theirs = {**elsewhere, **nowhere, "VENVD_PORT": str(free_port())}
    said = run({**theirs, "VENVD_MANIFEST": str(manifest)}, "up", "--detach").err
    config = run(theirs, "config").out
    run(theirs, "down")
    assert "engine local: no Docker Engine can be used at unix:///nowhere.sock" in said
    assert "User code runs as the user of the controller" in said
    assert f"manifest {manifest}: the controller starts what it declares" in said
    assert "unguarded: User code runs as the user of the controller" in config
    assert "unsafe:" not in config


def test_lists_show_what_there_is(cli: Cli) -> None:
    """Names, states and versions are in the tables."""
    text = cli("list").out
    assert {"main", "plain", "running", "ready", MINOR} <= set(text.split())


def test_a_venv_and_a_backend_come_and_go(cli: Cli) -> None:
    """Create, start, use, restart, stop, delete; `start --json` prints the fields of the contract."""
    made = cli("venv", "create", "cli-venv", "--python", MINOR, "--json").json
    assert made["state"] == "ready"
    start = ["start", "http", "--venv", "cli-venv", "--name", "cli", "--port", str(free_port())]
    started = cli(*start, "--env", "COLOUR=green", "--json").json
    assert list(started) == ["name", "type", "venv", "url", "httpUrl", "token", "state"]
    assert started["state"] == "running"
    assert cli("eval", "--backend", "cli", "__import__('os').environ['COLOUR']").out == "green\n"
    which = cli("eval", "1", status=2).err
    assert "which backend? --backend NAME is one of" in which
    assert "main" in which
    assert cli("venv", "delete", "cli-venv", status=1).err.count("cli") >= 1
    assert cli("restart", "cli", "--json").json["url"] == started["url"]
    assert cli("stop", "cli", "--json").json == {"name": "cli", "stopped": True}
    assert cli("venv", "delete", "cli-venv").out == "cli-venv is removed\n"


def test_a_wrong_name_is_told_with_the_one_that_may_be_meant(cli: Cli) -> None:
    """A typo in the name of a backend or a venv; a name like no other is told alone."""
    assert cli("stop", "mian", status=3).err == 'Error: no backend "mian"; is "main" meant?\n'
    assert 'no venv "plane"; is "plain" meant?' in cli("start", "http", "--venv", "plane", status=3).err
    assert cli("stop", "xyz", status=3).err == 'Error: no backend "xyz"\n'


def test_a_file_given_as_a_requirement_is_told_its_option(cli: Cli) -> None:
    """`-r requirements.txt`, as pip has it."""
    assert '--requirements-file "r.txt"' in cli("venv", "create", "of-a-file", "-r", "r.txt", status=2).err


def test_start_without_a_venv_makes_the_default_one(cli: Cli) -> None:
    """`default` is made where it is absent, and its progress is on stderr."""
    ran = cli("start", "http", "--name", "of-default")
    assert "venv   default" in ran.out
    assert "start" in ran.err
    cli("stop", "of-default")


def test_a_named_directory_of_sockets(cli: Cli, site: Any) -> None:
    """It lies below the run directory, by name or path; elsewhere, taken or not empty is refused."""
    run_dir = Path(cli("status", "--json").json["home"]) / "run"
    pipe = ["start", "pipe", "--venv", "plain", "--json"]
    started = cli(*pipe, "--name", "sockets", "--socket-dir", str(run_dir / "mine")).json
    assert started["url"] == f"unix://{run_dir}/mine/pipe.sock"
    assert cli("eval", "6 * 7", "--backend", "sockets").out == "42\n"
    assert "sockets" in cli(*pipe, "--name", "other", "--socket-dir", "mine", status=1).json["detail"]
    assert str(run_dir) in cli(*pipe, "--name", "other", "--socket-dir", "/tmp/mine", status=2).json["detail"]
    assert cli("restart", "sockets", "--json").json["url"] == started["url"]
    cli("stop", "sockets")
    assert not (run_dir / "mine").exists()
    (run_dir / "theirs").mkdir()
    (run_dir / "theirs" / "file").touch()
    error = cli(*pipe, "--name", "other", "--socket-dir", "theirs", status=1).json
    assert (error["code"], (run_dir / "theirs" / "file").exists()) == ("conflict", True)
    cli("stop", "other")
    (run_dir / "theirs" / "file").unlink()


def test_prune(cli: Cli) -> None:
    """It lists, asks or is told, and removes what nothing uses; what runs goes on."""
    home = Path(cli("status", "--json").json["home"])
    old = home / "venvs" / ("0" * 32)  # built, and no venv's
    old.mkdir()
    (old / "venvd.json").write_text("{}")
    assert str(old) in cli("prune", "--dry-run").out
    assert [one["name"] for one in cli("prune", "--dry-run", "--json").json["leftovers"]] == [str(old)]
    assert "--yes" in cli("prune", status=2).err
    assert cli("prune", "--json", status=2).json["code"] == "invalid_request"
    assert [one["name"] for one in cli("prune", "--yes", "--json").json["removed"]] == [str(old)]
    assert not old.exists()
    assert cli("prune", "--yes").out == "there are no leftovers\n"
    assert cli("prune", "--all", "--yes", "--json").json["removed"] is not None
    assert cli("eval", "6 * 7", "--backend", "main").out == "42\n"


def test_no_wait_leaves_an_operation_that_can_be_followed(cli: Cli) -> None:
    """`operation wait` follows it to its end."""
    change = cli("venv", "create", "later", "--python", MINOR, "--no-wait", "--json").json
    ended = cli("operation", "wait", change["operation"]["id"], "--json").json
    assert ended["state"] == "succeeded"
    assert cli("venv", "status", "later", "--json").json["state"] == "ready"


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["venv", "status", "nobody"], 3, "nobody"),
        (["status", "nobody"], 3, "nobody"),
        (["runtime", "status", "3.8"], 3, "3.8"),
        (["eval", "1", "--backend", "nobody"], 3, "nobody"),
        (["eval", "1", "--backend", "main", "--session", "nobody"], 3, "nobody"),
        (["start", "http", "--venv", "nobody"], 3, "nobody"),
        (["venv", "create", "No_Label"], 2, "No_Label"),
        (["venv", "create", "sly", "-r", "-r other.txt"], 2, "other.txt"),
        (["init", "latest"], 2, "latest"),
        (["start", "soap"], 2, "soap"),
        (["start", "http", "--port", "0"], 2, "port"),
        (["start", "http", "--env", "NOVALUE"], 2, "NOVALUE"),
        (["start", "http", "--model", "m"], 2, "--provider"),
        (["frobnicate"], 2, "venv"),
    ],
)
def test_exit_codes_and_what_they_say(cli: Cli, words: list[str], status: int, says: str) -> None:
    """3 is not found, 2 wrong words; the message names the cause, and stdout stays empty."""
    ran = cli(*words, status=status)
    assert says in ran.err
    assert ran.out == ""


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["venv", "status", "nobody"], 3, "not_found"),
        (["eval", "1", "--backend", "nobody"], 3, "not_found"),
        (["eval", "1", "--backend", "main", "--session", "nobody"], 3, "not_found"),
        (["eval", "1 / 0", "--backend", "main"], 1, "user_error"),
        (["venv", "create", "No_Label"], 2, "invalid_request"),
        (["start", "soap"], 2, "invalid_request"),
        (["start", "http", "--port", "0"], 2, "invalid_request"),
        (["frobnicate"], 2, "invalid_request"),
        (["logs", "main", "--frobnicate"], 2, "invalid_request"),
        (["logs", "main", "--follow"], 2, "invalid_request"),
        (["--url", "http://127.0.0.1:1", "list"], 4, "unavailable"),
        (["start", "http", "--venv", "plain", "--name", "nowhere", "--host", "192.0.2.1"], 1, "invalid_request"),
    ],
)
def test_errors_as_json(cli: Cli, words: list[str], status: int, code: str) -> None:
    """With --json an error too is one object on stdout: its code, what was wrong; the exit code stays."""
    ran = cli(*words, "--json", status=status)
    assert ran.json["code"] == code
    assert ran.json["detail"] in ran.err
    if "nowhere" in words:
        cli("stop", "nowhere")


def test_json_of_an_error_of_the_code(cli: Cli) -> None:
    """The type and the traceback that the code raised are fields of their own."""
    error = cli("eval", "--json", "1 / 0", "--backend", "main", status=1).json
    assert (error["errorType"], error["detail"]) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in error["traceback"]


@pytest.mark.parametrize("command", ["eval", "exec"])
def test_input_fails_with_what_python_says(cli: Cli, command: str) -> None:
    """`input()` raises EOFError in the code, and does not read the input of the program."""
    ran = cli(command, "input()", "--backend", "main", status=1)
    assert "EOFError" in ran.err
    assert "stopped" not in ran.err


def test_code_on_stdin_that_is_not_utf_8(cli: Cli) -> None:
    """The message names the byte; a byte order mark is none of the code."""
    ran = cli("eval", "-", "--backend", "main", stdin="'caf\xe9'", encoding="latin-1", status=2)
    assert "not UTF-8" in ran.err
    assert "0xe9" in ran.err
    assert cli("eval", "-", "--backend", "main", stdin="\ufeff6 * 7").out == "42\n"


def test_a_refused_token_is_named(cli: Cli, site: Any) -> None:
    """The controller's or the backend's, and where it came from."""
    asked = ["list", "--json"]
    given = cli("--controller-token", "wrong", *asked, status=1).json["detail"]
    assert "controller's token given with the call (--controller-token)" in given
    of_variable = run({**site.environment(), "VENVD_TOKEN": "wrong"}, *asked, status=1).json["detail"]
    assert "controller's token of VENVD_TOKEN" in of_variable
    elsewhere = {name: value for name, value in site.environment().items() if name != "VENVD_TOKEN"}
    elsewhere |= {"VENVD_URL": site.url, "VENVD_HOME": tempfile.gettempdir()}
    assert "needs its token: set VENVD_TOKEN" in run(elsewhere, *asked, status=1).json["detail"]
    backend = ["eval", "1", "--backend", site.backend.url]
    assert "backend's token given as --token" in cli(*backend, "--token", "wrong", status=1).err
    assert "needs its token: give --token" in cli(*backend, status=1).err


def test_a_port_in_use_fails(cli: Cli, site: Any) -> None:
    """An operation that fails is exit code 1 and names the port. The backend stays listed with its error, blocks no
    other command, and the next start of its name replaces it.
    """
    port = site.backend.url.rpartition(":")[2]
    start = ["start", "http", "--venv", "plain", "--name", "taken"]
    assert port in cli(*start, "--port", port, status=1).err
    backend = cli("status", "taken", "--json").json
    assert (backend["state"], port in backend["error"]) == ("failed", True)
    assert cli("eval", "6 * 7").out == "42\n"
    assert cli(*start, "--json").json["state"] == "running"
    assert cli(*start, "--json", status=1).json["code"] == "conflict"
    cli("stop", "taken")


def test_no_controller(elsewhere: dict[str, str]) -> None:
    """Exit code 4, and how to start one."""
    assert "venvd up --detach" in run(elsewhere, "status", status=4).err
    named = {**elsewhere, "VENVD_URL": "http://127.0.0.1:1"}
    assert "docker compose up" in run(named, "list", status=4).err


def test_another_controllers_port_is_not_ours(elsewhere: dict[str, str], site: Any) -> None:
    """`up` on a port that another controller has fails and says so, although somebody answers there."""
    port = site.url.rpartition(":")[2]
    assert "VENVD_PORT" in run({**elsewhere, "VENVD_PORT": port}, "up", "--detach", status=1).err


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_a_name_that_is_none_is_refused(cli: Cli, name: str) -> None:
    """Exit code 2 and the rule for names; nothing is asked of the controller."""
    assert "lower-case letters" in cli("stop", name, status=2).err


def test_leaving_well_is_no_failure(cli: Cli) -> None:
    """A program that ends with `sys.exit(0)` went well; with another status it did not."""
    cli("exec", "--backend", "main", "import sys; sys.exit(0)")
    cli("exec", "--backend", "main", "import sys; sys.exit(3)", status=1)


def test_up_and_down(elsewhere: dict[str, str]) -> None:
    """A detached controller is found by its home, a second `up` leaves it, `down` stops it and only it."""
    port = str(free_port())
    up = run(elsewhere, "up", "--detach", "--port", port, "--json").json
    try:
        assert run(elsewhere, "status", "--json").json["home"] == elsewhere["VENVD_HOME"]
        assert run(elsewhere, "up", "--detach", "--port", port, "--json").json == up
        assert run(elsewhere, "up", "--detach", "--json").json == up
        other = run(elsewhere, "up", "--detach", "--port", "1", "--json", status=1).json
        assert (other["code"], up["url"] in other["detail"]) == ("conflict", True)
    finally:
        down = run(elsewhere, "down", "--json").json
    assert down == {"stopped": True, "pid": up["pid"]}
    assert not runs(up["pid"])
    run(elsewhere, "status", status=4)
    assert run(elsewhere, "down", "--json").json == {"stopped": False}


def test_down_leaves_a_stranger_with_the_same_number(elsewhere: dict[str, str]) -> None:
    """A process ID that was used again is not the controller's."""
    home = Path(elsewhere["VENVD_HOME"])
    home.mkdir()
    (home / "controller.pid").write_text(f"{os.getpid()} 1\n")
    assert run(elsewhere, "down", "--json").json == {"stopped": False}


def test_up_in_the_foreground_ends_with_ctrl_c(elsewhere: dict[str, str], eventually: Any) -> None:
    """Ctrl-C ends the controller too."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with started(elsewhere, "up", "--port", str(free_port()), cwd=tempfile.gettempdir(), **streams) as process:
        assert process.stdout is not None
        assert b"ready" in process.stdout.readline()
        pid = (Path(elsewhere["VENVD_HOME"]) / "controller.pid").read_text().split()[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
    eventually(lambda: not runs(int(pid)))


def test_ctrl_c_cancels_what_is_waited_for(cli: Cli, site: Any, eventually: Any) -> None:
    """The operation is cancelled, and the program says so."""
    words = ["venv", "create", "cut", "--python", MINOR, "-r", "numpy", "-r", "scipy"]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(site.environment(), *words, **streams) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"cancelling venv.build of cut" in err
    assert b"venv.build of cut was cancelled" in err
    assert b"failed" not in err
    operations = cli("operation", "list", "--json").json
    assert [info["state"] for info in operations if info["target"] == "cut"] == ["cancelled"]
    cli("venv", "delete", "cut")


def test_output_into_a_closed_pipe(site: Any) -> None:
    """`venvd … | head` ends without a word of Python's."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "venvd", "config", "--json"]
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            command, env=site.environment(), stdout=out, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert done.stderr == b""


def test_completion_knows_the_names(site: Any) -> None:
    """Names are completed from what there is."""
    asked = {"_VENVD_COMPLETE": "bash_complete", "COMP_WORDS": "venvd stop ma", "COMP_CWORD": "2"}
    done = subprocess.run(
        [Path(sys.executable).parent / "venvd"], env={**site.environment(), **asked}, capture_output=True, check=True
    )
    assert done.stdout == b"plain,main\n"


def test_the_log_is_followed(site: Any) -> None:
    """`logs --follow` shows lines that come later, those of the next instance too, until it is stopped."""
    words = ["logs", "main", "--follow", "--tail", "0"]
    with started(site.environment(), *words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with venvd.connect(site.backend.url, site.backend.token) as backend:
            while not select.select([process.stdout], [], [], 0.5)[0]:  # nothing tells when it begins to follow
                with pytest.raises(venvd.UserError):
                    backend.eval("1 / 0")
        assert b"ZeroDivisionError" in process.stdout.readline()
        run(site.environment(), "restart", "main")
        with venvd.connect(site.backend.url, site.backend.token) as backend, pytest.raises(venvd.UserError):
            backend.eval("{}['again']")
        assert any(b"KeyError" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_files_go_and_come(cli: Cli, tmp_path: Path) -> None:
    """Files are sent, listed, fetched and deleted, from and to stdin and stdout as well."""
    here = tmp_path / "here.txt"
    here.write_text("one")
    assert "3 bytes" in cli("files", "put", str(here), "cli/").out
    cli("files", "put", "-", "cli/two.txt", stdin="two")
    assert [each["path"] for each in cli("files", "ls", "cli", "--json").json] == ["cli/here.txt", "cli/two.txt"]
    assert "cli/two.txt" in cli("files", "ls", "-r").out
    assert cli("files", "get", "cli/two.txt", "-").out == "two"
    cli("files", "get", "cli/here.txt", str(tmp_path / "back.txt"))
    assert (tmp_path / "back.txt").read_text() == "one"
    cli("files", "rm", "cli", status=1)
    cli("files", "rm", "-r", "cli")
    assert "cli" in cli("files", "get", "cli/here.txt", "-", status=3).err
    assert "missing" in cli("files", "put", str(tmp_path / "missing"), status=2).err
    assert "nowhere" in cli("files", "ls", "--session", "nowhere", status=3).err
