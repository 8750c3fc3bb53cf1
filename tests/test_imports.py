"""The import rules of docs/architecture.md, read off the sources."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ALLOWED = {
    "packages/contract": set(),
    "packages/worker": {"venvd_contract"},
    "packages/core": {"venvd_contract"},
    "packages/engines": {"venvd_contract", "venvd_worker"},
    "packages/proto": set(),
    "packages/client": {"venvd_contract", "venvd_proto"},
    "services/http-backend": {"venvd_core", "venvd_contract"},
    "services/pipe-backend": {"venvd_core", "venvd_contract"},
    "services/rpc-backend": {"venvd_core", "venvd_contract", "venvd_proto"},
    "services/controller": {"venvd_engines", "venvd_contract"},
}
STANDARD_LIBRARY_ONLY = ("packages/contract", "packages/worker")
TRANSPORTS = {"fastapi", "starlette", "uvicorn", "grpc", "docker", "sqlalchemy"}


def imported(folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / folder / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield path, (node.module or "").partition(".")[0]


def own_name(folder: str) -> str:
    return next(path.parent.name for path in (ROOT / folder / "src").glob("*/__init__.py"))


def test_every_package_has_a_rule() -> None:
    """No package or service is outside the rules."""
    found = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/*/src")}
    assert found == set(ALLOWED)


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_package_imports_only_what_stands_below_it(folder: str) -> None:
    """Of venvd's own packages each imports only those that the architecture allows."""
    allowed = ALLOWED[folder] | {own_name(folder)}
    wrong = {
        (path.name, name)
        for path, name in imported(folder)
        if (name.startswith("venvd_") or name == "venvd") and name not in allowed
    }
    assert not wrong


@pytest.mark.parametrize("folder", STANDARD_LIBRARY_ONLY)
def test_what_runs_beside_user_code_needs_only_the_standard_library(folder: str) -> None:
    """Contract and worker import nothing that a venv would have to hold."""
    known = sys.stdlib_module_names | {"venvd_contract", "venvd_worker"}
    assert not {(path.name, name) for path, name in imported(folder) if name not in known}


def test_core_knows_no_transport() -> None:
    """The server side of sessions imports no transport, engine or database library."""
    assert not {(path.name, name) for path, name in imported("packages/core") if name in TRANSPORTS}


def modules_of(folder: str) -> dict[str, Path]:
    source = ROOT / folder / "src"
    names = {path: ".".join(path.relative_to(source).with_suffix("").parts) for path in source.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports_of(module: str, modules: dict[str, Path]) -> set[str]:
    """The modules of the same package that `module` imports anywhere, also for types and inside functions."""
    found: set[str] = set()
    is_package = modules[module].name == "__init__.py"
    for node in ast.walk(ast.parse(modules[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")
            base = parents[: len(parents) + is_package - node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            submodules = {f"{name}.{alias.name}" for alias in node.names} & set(modules)
            found |= submodules
            if len(submodules) < len(node.names):
                found.add(name)
    return (found & set(modules)) - {module}


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle; empty where there are none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        cycles = (visit(each, [*path, module]) for each in sorted(graph[module]))
        cycle = next(filter(None, cycles), [])
        done.add(module)
        return cycle

    return next(filter(None, (visit(module, []) for module in sorted(graph))), [])


@pytest.mark.parametrize("folder", ALLOWED)
def test_no_modules_import_each_other_in_a_circle(folder: str) -> None:
    """A package has an order in which its modules can be read."""
    modules = modules_of(folder)
    assert not find_cycle({module: imports_of(module, modules) for module in modules})
