"""The words of the command line for runtimes, venvs and backends, against a real controller on the local engine."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import click
import pytest
from harness.cli import Cli
from harness.ports import free_port

from venvd._cli import installed
from venvd_contract.resources import VenvSpec

pytestmark = pytest.mark.slow

MINOR = f"3.{sys.version_info.minor}"


def test_the_log_since_a_time(cli: Cli) -> None:
    """`--since` leaves out older lines: of the last hour there are some, of a future time there is none."""
    assert "server: " in cli("logs", "main", "--since", "1h").out
    assert cli("logs", "main", "--since", "2999-01-01T00:00:00Z", "--json").json == []
    assert "how long ago" in cli("logs", "main", "--since", "soon", status=2).err


def test_start_takes_the_old_words(cli: Cli) -> None:
    """`--backend Http` is the type in any case, and the word after the type is the venv or, as a number, the port."""
    port = free_port()
    started = cli("start", "--backend", "HTTP", str(port), "--venv", "plain", "--name", "old", "--json").json
    assert (started["type"], started["url"]) == ("http", f"http://127.0.0.1:{port}")
    listed = cli("stop", status=2).err
    assert "main" in listed
    assert "old" in listed
    cli("stop", "old")
    assert cli("start", "Pipe", "plain", "--name", "old", "--json").json["venv"] == "plain"
    cli("stop", "old")
    assert "which type" in cli("start", status=2).err
    assert "exclude each other" in cli("start", "http", "plain", "--venv", "plain", status=2).err
    assert "one word too many" in cli("start", "http", "plain", "8000", status=2).err


def test_a_manifest_is_for_pods(cli: Cli) -> None:
    """An engine without pods has no manifest, and says so; the words are checked before the controller is asked."""
    refused = cli("backend", "manifest", "calculator", "--venv", "plain", "--json", status=1).json
    assert refused["code"] == "not_implemented"
    assert "the engine local has none" in refused["detail"]
    assert cli("backend", "manifest", "--venv", "absent", "--json", status=3).json["code"] == "not_found"
    assert "0 is not in the range" in cli("backend", "manifest", "--token-version", "0", status=2).err


def test_stop_asks_at_a_terminal(cli: Cli, site: Any) -> None:
    """Where several backends run, `stop` without a name asks for one."""
    cli("start", "http", "plain", "--name", "asked")
    terminal, inside = os.openpty()
    command = [sys.executable, "-m", "venvd", "stop"]
    with subprocess.Popen(command, env=site.environment(), stdin=inside, stdout=subprocess.PIPE) as process:
        os.write(terminal, b"unknown\nasked\n")
        assert process.communicate(timeout=120)[0] == b"asked is stopped\n"
    os.close(terminal)
    os.close(inside)


def test_a_providers_venv(cli: Cli) -> None:
    """`venv ensure`, `providers ensure` and `venv create` with a model mean the same venv."""
    made = cli("venv", "create", "Acme", "m1", "--python", MINOR, "--json").json
    assert made["spec"]["labels"] == {"provider": "Acme", "model": "m1"}
    assert cli("venv", "ensure", "Acme", "--model", "m1", "--json").json["name"] == made["name"]
    assert cli("providers", "ensure", "Acme", "--model", "m1", "--json").json["updatedAt"] == made["updatedAt"]
    assert cli("venv", "ensure", "Acme", "--model", "m1", "--upgrade", "--json").json["updatedAt"] > made["updatedAt"]
    cli("venv", "delete", made["name"])
    cli("providers", "set", "Acme", "-r", "six")
    assert [item["spec"]["requirements"] for item in cli("providers", "list", "--json").json] == [["six"]]
    cli("providers", "delete", "Acme")
    assert cli("providers", "list").out == "none\n"


@pytest.mark.network
def test_a_lock_from_files(cli: Cli, tmp_path: Path) -> None:
    """A venv from a pyproject.toml with an extra, constraints and a check; its lock makes an equal venv elsewhere."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "p"\n[project.optional-dependencies]\nx = ["six"]\n')
    (tmp_path / "limits.txt").write_text("six<1.17\n")
    files = ("--pyproject", f"{tmp_path}/pyproject.toml", "--extra", "x", "--constraint", f"{tmp_path}/limits.txt")
    made = cli("venv", "create", "from-files", "--python", MINOR, *files, "--check", "six", "--json").json
    (tmp_path / "lock.txt").write_text(cli("venv", "lock", "from-files").out)
    again = cli("venv", "create", "from-lock", "--python", MINOR, "--lock", f"{tmp_path}/lock.txt", "--json").json
    assert again["key"] == made["key"]
    assert cli("venv", "create", "from-files", "--upgrade", "--json").json["key"] == made["key"]
    failed = cli("venv", "create", "from-lock", "--python", MINOR, "-r", "six", "--check", "sixx", status=1)
    assert "import sixx raises ModuleNotFoundError" in failed.err
    for name in ("from-files", "from-lock"):
        cli("venv", "delete", name)


def make_environment(folder: Path, direct_url: str | None = None) -> None:
    """Make a virtual environment with one package in it."""
    venv.create(folder)
    site_packages = next(folder.glob("lib/python3*/site-packages"))
    (site_packages / "alpha.py").write_text("x = 1\n")
    information = site_packages / "alpha-1.5.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: alpha\nVersion: 1.5\n")
    if direct_url is not None:
        (information / "direct_url.json").write_text(direct_url)


def test_a_virtual_environment_by_its_path(cli: Cli, site: Any) -> None:
    """The local engine runs it as it is, without writing to it, if the controller allows its directory."""
    folder = site.home / "allowed" / "science" / ".venv"
    make_environment(folder)
    files = sorted(folder.rglob("*"))
    cli("venv", "create", installed.make_name(folder), "--venv", str(folder), "--env", "A=1")
    started = cli("start", "http", "--venv", str(folder), "--name", "theirs", "--json").json
    assert started["venv"].startswith("path-science-")
    told = cli("eval", "--backend", "theirs", "import os, sys, alpha; (sys.prefix, alpha.x, os.environ['A'])").out
    assert told == f"('{folder}', 1, '1')\n"
    assert sorted(folder.rglob("*")) == files
    cli("stop", "theirs")
    refused = cli("venv", "create", "elsewhere", "--venv", str(site.home / "elsewhere"), status=1)
    assert "VENVD_HOST_DIRS" in refused.err


def test_the_packages_of_a_virtual_environment(tmp_path: Path) -> None:
    """Other engines build a venv from its packages; one that the index does not have is refused with a sentence."""
    make_environment(tmp_path / "a")
    assert installed.read_spec(tmp_path / "a") == VenvSpec(python=MINOR, requirements=["alpha==1.5"])
    make_environment(tmp_path / "b", '{"url": "file:///src/alpha", "dir_info": {"editable": true}}')
    with pytest.raises(click.ClickException, match="alpha is an editable install"):
        installed.read_spec(tmp_path / "b")
    with pytest.raises(click.ClickException, match="no virtual environment that can be read"):
        installed.read_spec(tmp_path)
    assert installed.make_name(Path("/x/My Project/.venv")).startswith("path-my-project-")
