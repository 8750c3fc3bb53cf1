"""What the command line says of changes: venvs that exist, backends that are outdated, names that are taken."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from harness.cli import Cli, run

import venvd
from venvd._cli.backend import rows as launch_rows
from venvd._cli.command import shorten
from venvd._cli.size import Size
from venvd._cli.venv import rows as venv_rows
from venvd._cli.venv_changes import add_requirements, describe_change, parse_package, remove_requirements
from venvd._controller_api import delete_backend
from venvd_contract.resources import Backend, BackendSpec, Venv, VenvSpec

MINOR = f"3.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("word", "size"),
    [("1", 1), ("512m", 512 << 20), ("2G", 2 << 30), ("1.5GiB", 3 << 29), ("64 kb", 64 << 10), ("1t", 1 << 40)],
)
def test_sizes(word: str, size: int) -> None:
    """A size is a number of bytes, or one with a unit as Docker has it."""
    assert Size().convert(word, None, None) == size


@pytest.mark.parametrize("word", ["", "0", "-1", "m", "1x", "1mm", "512 megabytes"])
def test_no_sizes(word: str) -> None:
    """The error shows how a size is written."""
    with pytest.raises(click.UsageError, match="such as 512m"):
        Size().convert(word, None, None)


def test_requirements_are_added_and_removed() -> None:
    """A requirement takes the place of one for the same package; names are compared as an index does."""
    spec = VenvSpec(requirements=["numpy", "Foo_Bar[x]>=1", "pandas<3"])
    assert add_requirements(spec, ["numpy>=2", "six"]).requirements == ["Foo_Bar[x]>=1", "pandas<3", "numpy>=2", "six"]
    assert remove_requirements(spec, ["foo.bar", "NumPy"]).requirements == ["pandas<3"]
    with pytest.raises(venvd.InvalidRequest, match='"pandsa" is unknown; is "pandas" meant'):
        remove_requirements(spec, ["pandsa"])
    with pytest.raises(click.UsageError, match="is no requirement"):
        parse_package("-e .")


def test_a_change_is_a_difference() -> None:
    """Each part that goes and each that comes is a line; what stays is none."""
    before = VenvSpec(python="3.13", requirements=["numpy", "pandas"], env={"A": "1"})
    after = VenvSpec(python="3.13", requirements=["numpy"], env={"A": "2"}, network=True)
    assert describe_change(before, after) == [
        "  - requirements: pandas",
        "  + network: True",
        "  - env: A=1",
        "  + env: A=2",
    ]
    assert describe_change(before, before) == []


def test_a_cell_is_one_line() -> None:
    """Errors of several lines, and long ones, are cut in tables."""
    assert shorten("one\ntwo") == "one"
    assert len(shorten("x" * 500) or "") == 160
    assert shorten(None) is None


@pytest.mark.slow
def test_an_existing_venv_shows_its_change(cli: Cli) -> None:
    """`create` on a venv that exists says what goes and what comes; without a change it says nothing of it."""
    assert "changes" not in cli("venv", "create", "mine", "--python", MINOR, "--env", "A=1").err
    assert "changes" not in cli("venv", "create", "mine", "--python", MINOR, "--env", "A=1").err
    changed = cli("venv", "create", "mine", "--python", MINOR, "--label", "b=2").err
    assert "mine exists, and changes:\n  - env: A=1\n  + labels: b=2\n" in changed
    assert 'the requirement "six" is unknown' in cli("venv", "remove", "mine", "six", status=2).err
    cli("venv", "delete", "mine")


@pytest.mark.slow
@pytest.mark.network
def test_outdated_backends_are_named(cli: Cli) -> None:
    """After `venv add`, list and status mark the backend and say how to restart it, until it is restarted."""
    cli("venv", "create", "grows", "--python", MINOR)
    cli("start", "http", "grows", "--memory", "512m")
    added = cli("venv", "add", "grows", "six")
    assert "  + requirements: six" in added.err
    assert "grows-http: still with the earlier build, until `venvd restart grows-http`" in added.err
    for words in (["list"], ["status"], ["status", "grows-http"], ["backend", "list"]):
        assert "outdated (an older build of the venv, or an older server): grows-http;" in cli(*words).out
    assert cli("status", "grows-http", "--json").json["spec"]["limits"]["memoryBytes"] == 512 << 20
    missing = cli("eval", "import six", "--backend", "grows-http", status=1).err
    assert 'The venv has no module "six": `venvd venv add VENV six`' in missing
    cli("restart", "grows-http")
    assert "outdated" not in cli("list").out
    assert cli("eval", "import six; 1", "--backend", "grows-http").out == "1\n"
    assert "  - requirements: six" in cli("venv", "remove", "grows", "six").err
    cli("stop", "grows-http")
    cli("venv", "delete", "grows")
    cli("prune", "--yes")


@pytest.mark.slow
def test_a_second_start_says_which_is_which(cli: Cli) -> None:
    """The second backend of a venv and type gets another name, and says so; a name that is taken is refused."""
    assert "exists already" not in cli("start", "pipe", "plain").err
    second = cli("start", "pipe", "plain")
    assert 'the backend "plain-pipe" exists already, so the new one is called "plain-pipe-2"' in second.err
    taken = cli("start", "pipe", "plain", "--name", "plain-pipe", "--json", status=1)
    assert taken.json["code"] == "conflict"
    cli("stop", "plain-pipe")
    cli("stop", "plain-pipe-2")
    assert "grpc" in cli("start", "--help").out


@pytest.mark.slow
def test_code_in_a_file(cli: Cli, tmp_path: Path) -> None:
    """A word that ends in .py is a file; one that is not there is an error that names stdin."""
    script = tmp_path / "s.py"
    script.write_text("print('from the file')\n6 * 7\n")
    assert cli("exec", str(script), "--backend", "main").out == "from the file\n42\n"
    assert cli("eval", str(script), "--backend", "main").out == "42\n"
    assert "stdin (-)" in cli("exec", str(tmp_path / "none.py"), "--backend", "main", status=2).err


@pytest.mark.slow
def test_an_unknown_session_names_those_that_exist(cli: Cli) -> None:
    """The error says how to get one."""
    refused = cli("eval", "1", "--backend", "main", "--session", "foo", status=3).err
    assert 'there is no session "foo": create it, or use default' in refused


@pytest.mark.slow
@pytest.mark.parametrize("words", [["up", "--detach"], ["eval", "1"]])
def test_an_unusable_home(tmp_path: Path, words: list[str]) -> None:
    """A home that cannot be made is one line that names it and the setting."""
    (tmp_path / "file").write_text("")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
    refused = run({**kept, "VENVD_HOME": str(tmp_path / "file" / "home")}, *words, status=None)
    assert refused.err.count("\n") == 1
    assert "VENVD_HOME" in refused.err or words[0] == "eval"
    assert "Traceback" not in refused.err


@pytest.mark.slow
def test_addresses_are_printed_once_the_backends_run(site: Any) -> None:
    """`make up` ends with this program: it waits for the backends, and prints where each is or why it does not run."""
    program = Path(__file__).parents[3] / "scripts" / "await-backends"
    command = [sys.executable, str(program), site.url]
    ran = subprocess.run(command, env={"VENVD_TOKEN": site.token}, capture_output=True, text=True, check=False)
    assert f"controller  {site.url}\n" in ran.stdout
    assert f"main        {site.backend.url}\n" in ran.stdout


@pytest.mark.slow
def test_a_time_to_live_has_a_unit(cli: Cli) -> None:
    """`--ttl 2h` becomes seconds, and a number alone is refused with what would be right."""
    cli("start", "http", "plain", "--name", "short", "--ttl", "2h", "--no-wait")
    shown = cli("status", "short", "--json").json
    assert shown["spec"]["ttl"] == 7200
    assert shown["expiresAt"] > shown["createdAt"]
    cli("stop", "short")
    assert "90s, 10m, 2h or 1d" in cli("start", "http", "plain", "--ttl", "7200", status=2).err


@pytest.mark.slow
def test_a_call_waits_for_a_start(cli: Cli) -> None:
    """A command waits for a backend that is about to start, and says so."""
    cli("start", "http", "plain", "--name", "soon", "--no-wait")
    waited = cli("eval", "6 * 7", "--backend", "soon")
    assert waited.out == "42\n"
    assert waited.err in {"", "waiting for soon, which is pending\n", "waiting for soon, which is starting\n"}
    cli("stop", "soon")


def test_an_environment_without_a_controller_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The way out is another environment or Docker, and not `venvd up` in this one."""
    from venvd import _controller_process

    monkeypatch.setattr(_controller_process, "PROGRAM", "no_such_program")
    with pytest.raises(venvd.NoController, match=r"has the SDK alone.*make install.*VENVD_URL"):
        _controller_process.start(tmp_path / "home")


def test_lists_show_why_something_failed() -> None:
    """A column with the first line of each error is there as soon as there is one."""
    venv_spec, backend_spec = VenvSpec(), BackendSpec("http", "broken")
    healthy = Venv("plain", "ready", venv_spec, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
    broken = dataclasses.replace(healthy, name="broken", state="failed", error="no version of numpy==99\nsecond line")
    assert "ERROR" not in venv_rows([healthy])
    assert "no version of numpy==99" in venv_rows([healthy, broken])
    assert "second line" not in venv_rows([healthy, broken])
    running = Backend("app", "http", "plain", "running", backend_spec, "local", "2026-01-01T00:00:00Z", outdated=True)
    failed = dataclasses.replace(running, name="other", state="failed", error="not ready after 60 s", outdated=False)
    assert "ERROR" not in launch_rows([running])
    shown = launch_rows([running, failed])
    assert "not ready after 60 s" in shown
    assert "running, outdated" in shown
    updated = launch_rows([dataclasses.replace(running, updating=True)])
    assert "running, updating" in updated
    assert "venvd restart" not in updated
    assert "server): app; `venvd restart NAME`" in shown


def test_a_declared_backend_is_stopped_on_purpose() -> None:
    """Only `--until-changed` asks the controller for it."""
    assert delete_backend("app").target == "/v1/backends/app"
    assert delete_backend("app", until_changed=True).target == "/v1/backends/app?untilChanged=true"
