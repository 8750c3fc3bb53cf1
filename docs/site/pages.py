"""The pages that are made from the code: references of each transport, errors, the command line, the Python API."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path

from docs.site import grpc_reference, http_reference

import venvd
from venvd_contract import commands, errors, exceptions
from venvd_contract.fields import list_fields
from venvd_controller.app import describe_api
from venvd_http_backend import schema, texts

ROOT = Path(__file__).resolve().parent.parent.parent
CONTENTS = {
    "Begin": ("start", "concepts", "setup"),
    "Guides": ("sessions", "objects", "arrays", "notebooks", "files", "background"),
    "Use": ("environments", "values", "clients", "dotnet", "console", "page"),
    "Operate": (
        "operating",
        "kubernetes",
        "settings",
        "access",
        "exposing",
        "egress",
        "secrets",
        "threat-model",
        "monitoring",
        "troubleshooting",
    ),
    "Reference": ("python", "cli", "commands", "http", "grpc", "pipe", "controller", "errors"),
    "Develop": ("architecture", "adding-a-command", "benchmarks"),
}
"""The pages of the site under their captions. A page that none of them names stands under the last one."""
_PARTS = (
    ("Sessions", "venvd._sync.backend"),
    ("Files", "venvd._sync.files"),
    ("Background", "venvd._sync.background"),
    *(
        (name, "venvd._sync.controller")
        for name in ("Runtimes", "Venvs", "Backends", "Operations", "Keys", "Secrets", "Providers")
    ),
)
"""Classes that the attributes of public classes have, and their modules."""
_FOLDERS = {"Guides": "guides/", "Reference": "reference/"}

_HTTP = """\
Every request needs `Authorization: Bearer TOKEN`, except the ones that say otherwise. `X-Venvd-Session` names the
session, `X-Venvd-Timeout` the seconds until the deadline. The same document is at `/openapi.json` of each backend,
and `/docs` shows it as a page that sends requests. Errors are problem details; [errors](errors.md) lists their
codes."""
_CONTROLLER = """\
The controller manages runtimes, venvs, backends and keys. A running controller has the same document at
`/openapi.json`, and `/docs` shows it. Long jobs answer 202 with an operation, which `GET /v1/operations/{id}`
follows."""
_GRPC = """\
Stubs come from the files in `proto/`, or from server reflection. The token is the metadata `authorization` (`Bearer
TOKEN`), and `x-venvd-session` names the session. [Errors](errors.md) carry an `ErrorInfo` with the code."""
_PIPE = """\
A request is one line of JSON with the fields `command`, `payload` and, where a backend asks for one, `token`. A
reply is one line: `result`, or `error` with a `code` of [the errors](errors.md). `id`, `session`, `timeout` and
`values` are optional fields of a request. [Clients](../clients.md) describes the framing in full, and the bytes
that follow a line."""


def make_pages() -> dict[str, str]:
    """Return the text of each page by its name below the directory of pages."""
    return {
        "reference/http.md": http_reference.write_page("Backends over HTTP", _HTTP, schema.create_schema()),
        "reference/controller.md": http_reference.write_page("The controller's API", _CONTROLLER, describe_api()),
        "reference/grpc.md": grpc_reference.write_page("Backends over gRPC", _GRPC, ROOT / "proto"),
        "reference/pipe.md": _write_pipe(),
        "reference/errors.md": _write_errors(),
        "reference/commands.md": _write_commands(),
        "reference/cli.md": _write_cli(),
        "reference/python.md": _write_python(),
    }


def write_contents(pages: Iterable[str]) -> str:
    """Return the table of contents, with every one of `pages` in it, named by their paths without `.md`."""
    named = {caption: [_FOLDERS.get(caption, "") + name for name in names] for caption, names in CONTENTS.items()}
    known = {name for names in named.values() for name in names}
    named["Develop"] += sorted(set(pages) - known)
    parts = [
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```"
        for caption, names in named.items()
    ]
    return "\n\n".join(parts) + "\n"


def _all_commands() -> tuple[commands.Command, ...]:
    return (*commands.COMMANDS, *commands.STREAMED)


def _write_commands() -> str:
    rows = [
        f"| `{command.name}` | {command.summary} | `{' '.join(command.http)}` | `{command.rpc}` |"
        for command in _all_commands()
    ]
    table = "| pipe | | HTTP | gRPC |\n|---|---|---|---|\n" + "\n".join(rows)
    return f"# Commands\n\nEach command has the same fields, results and errors over every transport.\n\n{table}\n"


def _write_pipe() -> str:
    parts = [f"# Backends over a Unix socket\n\n{_PIPE}"]
    for command in _all_commands():
        lines = [f"## {command.name}\n", texts.DESCRIPTIONS.get(command.name, f"{command.summary}.") + "\n"]
        fields = list_fields(command.request)
        if fields:
            lines.append("| field | type | |\n|---|---|---|")
            lines += [f"| `{each.name}` | {each.says} | {'required' if each.required else ''} |" for each in fields]
        example = texts.REQUESTS.get(command.name)
        if example is not None:
            line = json.dumps({"command": command.name, "payload": example, "token": "…"}, ensure_ascii=False)
            lines.append(f"\n```json\n{line}\n```")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _write_errors() -> str:
    rows = []
    for code, error in errors.BY_CODE.items():
        summary = (inspect.getdoc(error) or "").splitlines()[0]
        rows.append(f"| `{code}` | `{error.__name__}` | {error.http_status} | {error.grpc_status} | {summary} |")
    table = "| code | class of the SDK | HTTP | gRPC | |\n|---|---|---|---|---|\n" + "\n".join(rows)
    return (
        "# Errors\n\nAn error has the same code over every transport. The message says what was wrong and, if "
        f"possible, what would be right.\n\n{table}\n\n## Exceptions of user code\n\n"
        "A `user_error` has the name of the exception's class as `errorType`, and its `traceback`. The field "
        "`exception` is an object with what else is known of it. The status of a unary gRPC call has it as JSON, "
        f"shortened, in the metadata of its `ErrorInfo`.\n\n{_write_exception_fields()}\n\n"
        "`output` is what the code of an `exec` printed before it was ended by a deadline, an interrupt or a limit: an "
        "object with `stdout`, `stderr` and `truncated`.\n"
    )


def _write_exception_fields() -> str:
    """Return the table of `venvd_contract.exceptions` as Markdown."""
    rows: list[list[str]] = []
    for line in (inspect.getdoc(exceptions) or "").splitlines():
        if line.startswith("`"):
            rows.append([line.split()[0], line.split(maxsplit=1)[1]])
        elif line.startswith(" ") and rows:
            rows[-1][1] += " " + line.strip()
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows)


def _write_cli() -> str:
    return (
        "# The command line\n\n`venvd COMMAND --help` shows the same text.\n\n"
        "```{eval-rst}\n.. click:: venvd._cli.app:app\n   :prog: venvd\n   :nested: full\n```\n"
    )


def _write_python() -> str:
    functions: list[str] = []
    classes: list[str] = []
    failures: list[str] = []
    for name in venvd.__all__:
        thing = getattr(venvd, name)
        if inspect.isclass(thing):
            (failures if issubclass(thing, Exception) else classes).append(name)
        elif callable(thing):
            functions.append(name)
    parts = ["# The Python SDK\n\n`import venvd`. Names that begin with an underscore are not part of the API."]
    for title, names, options in (
        ("Functions", functions, ("autofunction", "")),
        ("Classes", classes, ("autoclass", "   :members:\n   :inherited-members: Exception\n")),
        ("Errors", failures, ("autoexception", "   :show-inheritance:\n")),
    ):
        directive, settings = options
        parts.append(f"## {title}")
        parts += [f"```{{eval-rst}}\n.. {directive}:: venvd.{name}\n{settings}```" for name in names]
    parts.append("## Parts\n\nAttributes such as `b.files` and `controller.venvs` are objects of these classes.")
    parts += [f"```{{eval-rst}}\n.. autoclass:: {module}.{name}()\n   :members:\n```" for name, module in _PARTS]
    return "\n\n".join(parts) + "\n"
