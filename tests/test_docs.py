"""The documentation is true where a program can check it: links, paths, settings, and the claims about figures."""

from __future__ import annotations

import re
import subprocess
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic_settings import BaseSettings

from venvd_controller.settings import Settings
from venvd_core.settings import BackendSettings
from venvd_http_backend.settings import HttpSettings
from venvd_pipe_backend.settings import PipeSettings
from venvd_router.settings import RouterSettings
from venvd_rpc_backend.settings import RpcSettings

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("packages/*/*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE = re.compile(r"`([^`\s]+)`")
TOP = (
    "benchmarks/",
    "charts/",
    "deploy/",
    "docs/",
    "examples/",
    "packages/",
    "proto/",
    "scripts/",
    "services/",
    "tests/",
)
SECTIONS: dict[str, tuple[type, type | None]] = {
    "Controller": (Settings, None),
    "Every server": (BackendSettings, None),
    "The HTTP server": (HttpSettings, BackendSettings),
    "The pipe server": (PipeSettings, BackendSettings),
    "The gRPC server": (RpcSettings, BackendSettings),
    "The router": (RouterSettings, None),
}
"""Sections of docs/settings.md: the class whose fields each one lists, and the class whose fields it leaves out."""


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def named_paths(page: Path) -> Iterator[str]:
    """The paths below the root that a page names in backquotes."""
    for code in CODE.findall(prose(page)):
        if code.startswith(TOP) and not re.search(r"[<>*{}…]|NAME|PATH", code):
            yield code.partition(":")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file or a directory."""
    links = [link for link in LINK.findall(prose(page)) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_paths_exist(page: Path) -> None:
    """Every path of the repository that a page names in backquotes exists."""
    assert [path for path in named_paths(page) if not (ROOT / path).exists()] == []


def test_docs_named_by_the_code_exist() -> None:
    """Every page of docs/ that a file of the repository names exists."""
    listed = subprocess.run(
        ["git", "grep", "-hoE", r"docs/[a-z0-9/-]+\.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode > 1:
        pytest.skip("not a git checkout")
    assert [page for page in sorted(set(listed.stdout.split())) if not (ROOT / page).is_file()] == []


def list_fields(settings: type) -> set[str]:
    """The names of the fields of settings, whether pydantic or msgspec reads them."""
    return set(settings.model_fields if issubclass(settings, BaseSettings) else typing.get_type_hints(settings))


@pytest.mark.parametrize("section", SECTIONS)
def test_settings_are_documented(section: str) -> None:
    """docs/settings.md lists every setting of each program, and no other."""
    settings, base = SECTIONS[section]
    text = (ROOT / "docs" / "settings.md").read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    inherited = list_fields(base) if base else set()
    fields = {f"VENVD_{name.upper()}" for name in list_fields(settings) - inherited}
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == fields


def test_settings_are_described_alike() -> None:
    """`venvd config` describes each setting of the controller with the words of docs/settings.md."""
    text = (ROOT / "docs" / "settings.md").read_text().partition("\n## Controller\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| `")]
    documented = {name.strip("`"): f"{meaning[:1].upper()}{meaning[1:]}." for _, name, meaning, *_ in cells}
    assert documented == {f"VENVD_{name.upper()}": field.description for name, field in Settings.model_fields.items()}


def test_compose_passes_every_setting_on() -> None:
    """compose.yaml gives the controller each of its settings, apart from those that its image or the chart sets."""
    passed = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["controller"]["environment"]
    of_the_image = {"VENVD_HOME", "VENVD_SOURCE_DIR", "VENVD_HOST", "VENVD_PORT"}
    of_the_chart = {f"VENVD_{name.upper()}" for name in Settings.model_fields if name.startswith("kubernetes_")}
    names = {f"VENVD_{name.upper()}" for name in Settings.model_fields} - of_the_image - of_the_chart
    assert {name for name in passed if name.startswith("VENVD_")} == names - {"VENVD_IDENTITY_DIR"}


def test_readme_names_the_figures_that_miss_their_goal() -> None:
    """The text below the table of figures names each row that misses its goal, and no other row."""
    table, _, text = (ROOT / "README.md").read_text().partition("<!-- /figures -->")
    text = " ".join(text.split())  # a name may go over the end of a line
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| ")]
    verdicts = {row[1]: row[-2] for row in rows if len(row) == 11}
    missed = {name for name, verdict in verdicts.items() if verdict.startswith("missed")}
    assert {name for name in verdicts if f'"{name}"' in text} == missed


def test_the_threat_model_names_tests_that_exist() -> None:
    """Each test that the threat model names is in the file that it links, and each attacker has one."""
    page = ROOT / "docs" / "threat-model.md"
    links = re.findall(r"\[(test_\w+)\]\(([^)]+\.py)\)", page.read_text())
    missing = [
        f"{place}: {name}" for name, place in links if f"def {name}(" not in (page.parent / place).resolve().read_text()
    ]
    assert len(links) > 50
    assert missing == []
