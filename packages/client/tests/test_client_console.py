"""`venvd console` and `venvd shell`, in a real terminal and from a pipe, with a controller on the local engine."""

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.terminal import open_terminal

from venvd._cli import session_side
from venvd._cli.console import ALIASES, resolve

PROGRAM = [sys.executable, "-m", "venvd"]


def feed(site: Any, *words: str, lines: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *words],
        env=site.environment(),
        cwd=tempfile.gettempdir(),
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def terminal(site: Any) -> Callable[..., Any]:
    return lambda *words: open_terminal([*PROGRAM, *words], site.environment(), tempfile.gettempdir())


def test_the_words_of_the_old_host_have_their_commands() -> None:
    """Each alias stands for its word, also behind the name of the program, and a number for its entry of the menu."""
    assert [resolve([word]) for word in ("i", "check", "serve", "info", "runtimes", "env", "h", "q", "cls", "m")] == [
        [word] for word in ("init", "config", "start", "status", "list", "venv", "help", "exit", "clear", "menu")
    ]
    assert resolve(["venvd", "run", "http"]) == ["start", "http"]
    assert resolve(["3"]) == ["start", "http"]
    assert resolve(["stop", "3"]) == ["stop", "3"]
    assert not {*ALIASES} & {*ALIASES.values()}


@pytest.mark.slow
def test_the_console_reads_a_pipe(site: Any) -> None:
    """Every line runs, also after one that failed; the exit code is that of the first failure, and no prompt shows."""
    ran = feed(site, "console", lines="# a comment\nvenv status missing\nls\neval '6 * 7' --backend main\nq\nlist\n")
    assert ran.returncode == 3
    assert "missing" in ran.stderr
    assert ran.stdout.count("main") == 1
    assert ran.stdout.endswith("42\n")
    done = feed(site, "console", lines="help start\nstatus main --json\n")
    assert (done.returncode, "--socket-dir" in done.stdout, '"main"' in done.stdout) == (0, True, True)


@pytest.mark.slow
def test_wrong_lines_do_not_end_the_console(site: Any) -> None:
    """An open quote, an unknown word and the console in itself are usage errors, each with what would be right."""
    ran = feed(site, "console", lines="eval 'open\nfrobnicate\nconsole\nmenu now\nmenu\n")
    assert ran.returncode == 2
    for said in ("quotation", "frobnicate", '"console" is not a command', "takes no arguments"):
        assert said in ran.stderr
    assert "start http" in ran.stdout


@pytest.mark.slow
def test_the_console_at_a_terminal(site: Any, terminal: Callable[..., Any]) -> None:
    """It completes words and names, goes on after an error and after Ctrl-C, keeps a private history; Ctrl-D leaves."""
    with terminal("console") as console:
        console.expect("venvd>")
        console.type("stat\t")
        console.expect("us")
        console.type(" ma\t")
        console.expect("in")
        console.type("\r")
        console.expect("running")
        console.expect("venvd>")
        console.type("status missing\r")
        console.expect('no backend "missing"')
        console.expect("venvd>")
        console.type('exec \'print("be" + "gun", flush=True); import time; time.sleep(600)\' --backend main\r')
        console.expect("begun")
        console.type("\x03")
        console.expect("stopped")
        console.expect("venvd>")
        console.type(" eval '40 + 2' --backend main\r")
        console.expect("42")
        console.expect("venvd>")
        console.type("\x04")
        assert console.wait() == 0
    history = site.home / "console_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "+status main" in history.read_text()
    assert "40 + 2" not in history.read_text()


@pytest.mark.slow
def test_the_shell_at_a_terminal(terminal: Callable[..., Any], tmp_path: Path) -> None:
    """One session of it: several lines, completion, help, rich results, an error, an interrupt that keeps the state."""
    with terminal("shell", "main", "--save-dir", str(tmp_path)) as shell:
        shell.expect(">>>")
        shell.type("def double(number):\r")
        shell.type("return 2 * number\r\r")  # the prompt indents
        shell.type("'re' + 'ady'\r")
        shell.expect("'ready'")
        shell.expect(">>>")
        shell.type("dou\t")
        shell.expect("ble")
        shell.type("(21)\r")
        shell.expect("42\r\n")
        shell.expect(">>>")
        shell.type("_ + 1\r")
        shell.expect("43\r\n")
        shell.expect(">>>")
        shell.type("double?\r")
        shell.expect("double(number)")
        shell.expect(">>>")
        shell.type("1 / 0\r")
        shell.expect("ZeroDivisionError: division by zero")
        shell.expect(">>>")
        shell.type("class Rich:\r_repr_html_ = lambda self: '<b>rich</b>'\r\rRich()\r")
        shell.expect("text/html saved as")
        shell.expect(">>>")
        shell.type("import time; print('be' + 'gun', flush=True); time.sleep(600)\r")
        shell.expect("begun")
        shell.type("\x03")
        shell.expect("KeyboardInterrupt")
        shell.expect(">>>")
        shell.type("double(4)\r")
        shell.expect("8\r\n")
        shell.type("exit(3)\r")
        assert shell.wait() == 3
    assert (tmp_path / "display-1.html").read_text() == "<b>rich</b>"


@pytest.mark.slow
def test_the_shell_reads_a_pipe(site: Any) -> None:
    """It judges lines as Python does, prints what the statements give, and says with its exit code that one raised."""
    ran = feed(site, "shell", "main", lines="for i in range(2):\n    print(i)\n\n'text'\n")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "0\n1\n'text'\n", "")
    failed = feed(site, "shell", "main", lines="1 / 0\n6 * 7\nif True:\n    'last'")
    assert (failed.returncode, failed.stdout) == (1, "42\n")
    assert "ZeroDivisionError" in failed.stderr
    assert feed(site, "shell", "missing", lines="").returncode == 3


def test_completions_run_no_code_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and attributes are offered; a property ends the search without being read."""

    class Trap:
        calm = "text"

        @property
        def sprung(self) -> Any:
            raise AssertionError("the completion has read a property")

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("the completion has asked for an attribute")

    main: Any = type(sys)("__main__")
    main.trap = Trap()
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert session_side.complete("x = tra") == ["trap"]
    assert session_side.complete("trap.") == ["calm", "sprung"]
    assert "upper" in session_side.complete("print(trap.calm.up")
    assert session_side.complete("trap.sprung.a") == []
    assert session_side.complete("f().a") == []
    assert session_side.complete("nothing.a") == []


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("1 + 1", "complete"),
        ("if x:", "incomplete"),
        ("if x:\n    y", "incomplete"),
        ("if x:\n    y\n", "complete"),
        ("f(", "incomplete"),
        ("a = 1\nb = 2", "complete"),
        ("a = 1\nf(", "incomplete"),
        ("a b", "wrong"),
        ("'''", "incomplete"),
        ("\0", "wrong"),
    ],
)
def test_statements_are_judged_as_python_does(source: str, verdict: str) -> None:
    """A compound statement ends with an empty line; several pasted statements are one entry."""
    assert session_side.judge(source) == verdict
