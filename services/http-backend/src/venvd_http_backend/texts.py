"""Texts of the OpenAPI document: descriptions of commands, and examples of requests and models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DESCRIPTIONS: Mapping[str, str] = {
    "import": (
        "Import a module in the session, and return a handle to it. `ModuleNotFoundError` means that the venv "
        "does not have it."
    ),
    "create": (
        "Create an object: call a class, or any other callable, of a module behind a handle. The object stays in "
        "the session, and the answer is a handle to it."
    ),
    "call": (
        "Call a method of the object behind a handle. Plain data comes back as `value`, any other object as a handle."
    ),
    "getattr": (
        "Get an attribute of the object behind a handle. Plain data comes back as `value`, any other object as a "
        "handle."
    ),
    "setattr": "Set an attribute of the object behind a handle.",
    "eval": (
        "Evaluate code and return its value: that of the expression, or of the last one if there are several "
        "statements. `locals` are names that this code alone sees. Names that it assigns stay in the session."
    ),
    "exec": (
        "Execute code and return what it printed and displayed, and the value of its last expression. An "
        "exception of the code is in the field `error` of a successful answer, together with the output before "
        "it. With `Accept: text/event-stream` the output comes as server-sent events while the code runs."
    ),
    "dispose": (
        "Dispose of handles. An object that nothing else refers to is freed. Handles that do not exist are no error."
    ),
    "tofloatarray": (
        "Convert the object behind a handle to an array of numbers: a list, an array of one dimension, a series, "
        "or a scalar. NaN and infinities are null."
    ),
    "tofloatarray2d": (
        "Convert the object behind a handle to rows of numbers: nested lists, an array of two dimensions, or a "
        "data frame. NaN and infinities are null."
    ),
    "module_available": "Find out whether a module can be imported, without importing it.",
    "wrap": "Keep a value in the session, and return a handle to it.",
    "handles": "List the handles of the session, with the type, size and age of each.",
    "call.start": (
        "Start a call in the background. Its result is fetched later, also over another connection. The server "
        "keeps the results of a bounded number of calls."
    ),
    "call.get": (
        "Return the state of a background call, and its result once it has ended. `wait` holds the answer back "
        "until then, for so many seconds at most."
    ),
    "cancel": (
        "Cancel a call: one in the background, or one whose request named it by `X-Venvd-Call`. A call that runs "
        "is interrupted, and one that waits never runs."
    ),
    "file.get": (
        "Fetch a file of the session's working directory, or the part of it that `offset` and `length` name. "
        "With `archive`, a directory comes as a tar archive of what is in it (`application/x-tar`)."
    ),
    "file.put": (
        "Send a file into the session's working directory. It takes the place of a file of this name once it is "
        "whole. `parents` creates the directories above it. With `archive`, the body is a tar archive, whose content "
        "goes into the directory of that path: files, directories, and symbolic links that lead to a place below it."
    ),
    "file.list": "List files of the session's working directory, page by page.",
    "file.delete": (
        "Delete a file or an empty directory of the session's working directory. `recursive` deletes a directory "
        "with its contents."
    ),
    "session.create": (
        "Create a session: a process of its own, with its own names, handles and working directory. `limits` may "
        "lower the limits of the backend. `idleTimeout` and `lifetime` end the session by themselves."
    ),
    "session.list": "List the sessions. `default` is always there.",
    "session.get": "Return the state of a session.",
    "session.delete": (
        "End a session: its process, its handles and its files. A later use of `default` starts it afresh."
    ),
    "session.interrupt": (
        "Interrupt the running call of a session, as Ctrl-C does. The call fails with `cancelled`, and the "
        "session keeps its objects."
    ),
    "session.reset": (
        "Start a session afresh, in a new process. Its objects and files are gone; its ID, name and limits stay."
    ),
    "venv.create": ("Create a venv, with the rights of the caller's key at the controller. `operation` is its build."),
    "venv.list": "List the venvs that the caller's key may use.",
    "venv.status": "Return the state of a venv.",
    "venv.delete": "Delete a venv that no backend uses.",
    "venv.ensure": "Return the venv of a provider and its model. It is created if it does not exist.",
    "array.get": (
        "Fetch the array behind a handle in numpy's format `.npy`, or a table as an Arrow IPC stream "
        "(`format=arrow`). The answer is a stream and may have several gigabytes."
    ),
    "array.put": (
        "Send an array as `.npy`, or a table as an Arrow IPC stream, and return a handle to it. `into` chooses "
        "what a table becomes."
    ),
}

REQUESTS: Mapping[str, Mapping[str, Any]] = {
    "import": {"moduleName": "collections"},
    "create": {"moduleHandleId": "h-6gV0", "className": "Counter", "args": ["abracadabra"]},
    "call": {"handleId": "h-6gV0", "methodName": "most_common", "args": [2]},
    "getattr": {"handleId": "h-6gV0", "attributeName": "__doc__"},
    "setattr": {"handleId": "h-6gV0", "attributeName": "rate", "value": 0.5},
    "eval": {"expression": "sum(numbers) / len(numbers)", "locals": {"numbers": [1, 2, 6]}},
    "exec": {"code": "print('hello')\n6 * 7"},
    "dispose": {"handleIds": ["h-6gV0"]},
    "tofloatarray": {"handleId": "h-6gV0"},
    "tofloatarray2d": {"handleId": "h-6gV0"},
    "module_available": {"moduleName": "numpy"},
    "wrap": {"value": {"rate": 0.5}},
    "call.start": {"command": "eval", "payload": {"expression": "sum(range(10 ** 6))"}, "timeout": 600},
    "session.create": {"name": "report", "limits": {"memoryBytes": 536870912}, "idleTimeout": 600},
    "venv.create": {"name": "science", "spec": {"requirements": ["numpy", "pandas"]}, "wait": False},
    "venv.ensure": {"provider": "OpenAI", "model": "gpt", "spec": {"requirements": ["openai"]}},
}
"""An example of the body of each command that has one."""

_TIME = "2026-01-31T12:00:00Z"
_VENV = {
    "name": "science",
    "state": "ready",
    "spec": {"requirements": ["numpy", "pandas"]},
    "createdAt": _TIME,
    "updatedAt": _TIME,
    "python": "3.13.5",
}
_OPERATION = {
    "id": "op-4f1c9a",
    "kind": "venv.build",
    "target": "science",
    "state": "running",
    "createdAt": _TIME,
    "startedAt": _TIME,
    "phases": [{"name": "lock", "startedAt": _TIME}],
}
_SESSION = {
    "id": "s-4f1c9a2b",
    "name": "report",
    "state": "idle",
    "createdAt": _TIME,
    "limits": {"memoryBytes": 536870912},
    "idleTimeout": 600.0,
    "queued": 0,
    "calls": 0,
    "handles": 0,
    "restarts": 0,
}
_FILE = {"path": "data/in.csv", "sizeBytes": 98304, "modifiedAt": _TIME, "isDirectory": False, "kind": "file"}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "Handle": {"handleId": "h-6gV0", "typeName": "collections.Counter"},
    "Result": {"value": 3.0},
    "Success": {"success": True},
    "Available": {"available": True},
    "Output": {
        "stdout": "hello\n",
        "stderr": "",
        "display": [],
        "result": {"value": 42},
        "error": None,
        "durationMs": 0.4,
        "truncated": False,
        "executionCount": 1,
        "resultText": "42",
    },
    "HandleList": {
        "handles": [{"handleId": "h-6gV0", "typeName": "collections.Counter", "sizeBytes": 248, "ageSeconds": 1.5}]
    },
    "CallStarted": {"id": "c-4f1c9a2b", "state": "running"},
    "CallInfo": {
        "id": "c-4f1c9a2b",
        "command": "eval",
        "session": "default",
        "state": "succeeded",
        "createdAt": _TIME,
        "startedAt": _TIME,
        "endedAt": _TIME,
        "result": {"value": 499999500000},
    },
    "FileInfo": _FILE,
    "FileList": {"files": [_FILE], "next": None},
    "SessionInfo": _SESSION,
    "SessionList": {"sessions": [_SESSION]},
    "Venv": _VENV,
    "VenvChange": {"venv": _VENV, "operation": _OPERATION},
    "VenvList": {"items": [_VENV], "next": None},
    "VenvEnsured": {"path": "openai-gpt", "success": True, "venv": _VENV},
}
NUMBERS: Mapping[str, Any] = {"tofloatarray": [5.0, 2.0], "tofloatarray2d": [[5.0, 2.0], [1.0, None]]}
"""Examples of the answers that are not models."""
