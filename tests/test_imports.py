"""The import rules of docs/architecture.md, read off the sources."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ALLOWED: dict[str, set[str]] = {
    "packages/contract": set(),
    "packages/worker": {"venvd_contract"},
    "packages/egress": set(),
    "packages/core": {
        *("venvd_contract", "venvd_egress"),
        *("msgspec", "prometheus_client"),
    },
    "packages/http": {"venvd_contract", "msgspec", "uvicorn"},
    "packages/engines": {
        *("venvd_contract", "venvd_egress", "venvd_worker"),
        *("docker", "httpx2", "lightkube", "packaging", "requests", "urllib3", "uv"),
    },
    "packages/proto": {"google", "grpc"},
    "packages/client": {"venvd_contract", "venvd_proto", "click", "google", "grpc", "grpc_status", "prompt_toolkit"},
    "services/http-backend": {
        *("venvd_core", "venvd_http", "venvd_contract"),
        *("fastapi", "msgspec", "uvloop"),
    },
    "services/pipe-backend": {
        *("venvd_core", "venvd_http", "venvd_contract"),
        *("msgspec", "uvloop"),
    },
    "services/rpc-backend": {
        *("venvd_core", "venvd_http", "venvd_contract", "venvd_proto"),
        *("google", "grpc", "grpc_health", "grpc_reflection", "grpc_status", "msgspec", "uvloop"),
    },
    "services/router": {
        *("venvd_http", "venvd_contract", "venvd_proto"),
        *("cryptography", "google", "grpc", "grpc_health", "grpc_status", "httptools", "msgspec"),
        *("prometheus_client", "pydantic", "pydantic_settings", "uvloop"),
    },
    "services/controller": {
        *("venvd_egress", "venvd_engines", "venvd_http", "venvd_contract"),
        *("alembic", "annotated_types", "anyio", "cryptography", "fastapi", "httpx2", "prometheus_client", "pydantic"),
        *("pydantic_settings", "sqlalchemy", "starlette", "yaml"),
    },
}
"""What each package may import beside the standard library and itself."""

ONLY_IN = {
    "docker": "packages/engines/",
    "lightkube": "packages/engines/",
    "uvicorn": "packages/http/",
}
"""Libraries that one folder alone imports."""


@functools.cache
def list_imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Every import of a file, also for types and inside functions; a file is parsed once for all rules."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / folder / "src").rglob("*.py")):
        for node in list_imports(path):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif not node.level:
                yield path, (node.module or "").partition(".")[0]


def own_name(folder: str) -> str:
    return next(path.parent.name for path in (ROOT / folder / "src").glob("*/__init__.py"))


def test_every_package_has_a_rule() -> None:
    """No package or service is outside the rules."""
    assert {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/*/src")} == set(ALLOWED)


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_package_imports_only_what_its_rule_names(folder: str) -> None:
    """Each package imports the packages of venvd and the libraries that the architecture allows, and no others."""
    allowed = sys.stdlib_module_names | ALLOWED[folder] | {own_name(folder)}
    assert not {(path.name, name) for path, name in imports(folder) if name not in allowed}


def modules_of(folder: str) -> dict[str, Path]:
    source = ROOT / folder / "src"
    names = {path: ".".join(path.relative_to(source).with_suffix("").parts) for path in source.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports_of(module: str, modules: dict[str, Path]) -> set[str]:
    """The modules of the same package that `module` imports anywhere."""
    imported: set[str] = set()
    is_package = modules[module].name == "__init__.py"
    for node in list_imports(modules[module]):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        else:
            parents = module.split(".")
            base = parents[: len(parents) + is_package - node.level] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            submodules = {f"{name}.{alias.name}" for alias in node.names} & set(modules)
            imported |= submodules
            if len(submodules) < len(node.names):
                imported.add(name)
    return (imported & set(modules)) - {module}


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


@pytest.mark.parametrize("library", ONLY_IN)
def test_some_libraries_have_one_place(library: str) -> None:
    """What a library does behind our back is dealt with in one place."""
    for folder in ALLOWED:
        for path, name in imports(folder):
            assert name != library or str(path.relative_to(ROOT)).startswith(ONLY_IN[library]), path


@pytest.mark.parametrize("kind", ["http", "pipe", "rpc"])
def test_a_server_starts_without_libraries_that_it_needs_later(kind: str) -> None:
    """Metrics and schemas import their libraries when a client asks for them: a start waits for none of them."""
    code = (
        f"import sys, venvd_{kind}_backend.__main__, venvd_{kind}_backend.server\n"
        "print(*{'fastapi', 'pydantic', 'pydantic_settings', 'prometheus_client'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []


def test_a_warden_starts_without_libraries_that_it_needs_later() -> None:
    """The warden imports what its file processes need with the first of them."""
    code = "import sys, venvd_worker.warden.command_line; print(*{'tarfile', 'lzma'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []
