"""Small real servers: one that speaks the contract over HTTP and the pipe, one that says what it is told."""

from __future__ import annotations

import ast
import contextlib
import http.server
import io
import json
import os
import secrets
import shutil
import socket
import socketserver
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness.cli import Cli, run

import venvd
from venvd import _controller_process
from venvd_contract import resources
from venvd_contract.commands import ATTACH, COMMANDS, check_payload
from venvd_contract.errors import HandleNotFound, NotFound, Unauthenticated, Unimplemented, UserError, VenvdError
from venvd_contract.framing import dump_line, parse_line
from venvd_contract.resources import VenvSpec
from venvd_contract.values import Decoder, NotPlain, TaggedEncoder
from venvd_worker.session.objects import find_object

TOKEN = "a-token"


class Interpreter:
    """Runs the contract's operations in this process, one at a time."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.names: dict[str, Any] = {}
        self.seen: list[tuple[str, str | None, float | None]] = []
        self.disposals = 0
        self.as_handle = None
        self._lock = threading.Lock()

    def answer(self, command: str, payload: Any, session: str | None, timeout: float | None) -> Any:
        with self._lock:
            self.seen.append((command, session, timeout))
            if session not in {None, "default", "side"}:
                raise NotFound(f"no session {session}")
            fields = check_payload(command, payload)
            self.as_handle = fields.pop("asHandle", None)
            fields.pop("env", None)
            return getattr(self, "do_" + command.replace(".", "_"))(**fields)

    def find(self, handle: str) -> Any:
        if handle not in self.objects:
            raise HandleNotFound(f"no handle {handle}")
        return self.objects[handle]

    def hold(self, value: Any) -> dict[str, Any]:
        handle = secrets.token_hex(8)
        self.objects[handle] = value
        return {"handleId": handle, "typeName": type(value).__name__, "callable": callable(value)}

    def result(self, value: Any) -> dict[str, Any]:
        if self.as_handle:
            return {"isHandle": True, **self.hold(value), "repr": repr(value)}
        try:
            return {"value": TaggedEncoder().encode(value)}
        except NotPlain:
            return {"isHandle": True, **self.hold(value), "repr": repr(value)}

    def user(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except BaseException as error:  # noqa: BLE001 - user code may raise anything
            raise UserError(str(error), error_type=type(error).__name__, traceback=traceback.format_exc()) from None

    def decoded(self, data: Any) -> Any:
        return Decoder(self.find, find_object=find_object).decode(data)

    def run(self, code: str, names: dict[str, Any]) -> Any:
        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<eval>", "exec"), self.names, names)  # noqa: S102
        if last is None:
            return None
        return eval(compile(ast.Expression(last.value), "<eval>", "eval"), self.names, names)  # noqa: S307

    def do_ping(self) -> Any:
        return {"status": "ok"}

    def do_import(self, moduleName: str) -> Any:  # noqa: N803
        return self.hold(self.user(lambda: __import__("importlib").import_module(moduleName)))

    def do_module_available(self, moduleName: str) -> Any:  # noqa: N803
        return {"available": __import__("importlib.util").util.find_spec(moduleName) is not None}

    def do_create(self, moduleHandleId: str, className: str, args: Any, kwargs: Any) -> Any:  # noqa: N803
        made = getattr(self.find(moduleHandleId), className)
        return self.hold(self.user(lambda: made(*self.decoded(args), **self.decoded(kwargs))))

    def do_call(self, handleId: str, methodName: str, args: Any, kwargs: Any) -> Any:  # noqa: N803
        target, args, kwargs = self.find(handleId), self.decoded(args), self.decoded(kwargs)
        method = target if methodName == "__call__" else self.user(lambda: getattr(target, methodName))
        return self.result(self.user(lambda: method(*args, **kwargs)))

    def do_getattr(self, handleId: str, attributeName: str) -> Any:  # noqa: N803
        return self.result(self.user(lambda: getattr(self.find(handleId), attributeName)))

    def do_setattr(self, handleId: str, attributeName: str, value: Any) -> Any:  # noqa: N803
        self.user(lambda: setattr(self.find(handleId), attributeName, self.decoded(value)))
        return {"success": True}

    def do_eval(self, expression: str | None, code: str | None, locals: Any) -> Any:  # noqa: A002
        return self.result(self.user(lambda: self.run(expression or code or "", self.decoded(locals))))

    def do_exec(self, code: str, locals: Any) -> Any:  # noqa: A002
        shown, error, value = io.StringIO(), None, None
        with contextlib.redirect_stdout(shown):
            try:
                value = self.run(code, {**self.decoded(locals)} if locals else self.names)
            except BaseException as caught:  # noqa: BLE001 - user code may raise anything
                error = {
                    "errorType": type(caught).__name__,
                    "message": str(caught),
                    "traceback": traceback.format_exc(),
                }
        return {
            "stdout": shown.getvalue(),
            "stderr": "",
            "display": [],
            "result": self.result(value),
            "error": error,
            "durationMs": 1.0,
            "truncated": False,
        }

    def do_wrap(self, value: Any) -> Any:
        return self.hold(self.decoded(value))

    def do_dispose(self, handleId: str | None, handleIds: list[str] | None) -> Any:  # noqa: N803
        self.disposals += 1
        for handle in handleIds or [handleId]:
            self.objects.pop(handle, None)
        return {"success": True}

    def do_tofloatarray(self, handleId: str) -> Any:  # noqa: N803
        return TaggedEncoder().encode([float(item) for item in self.find(handleId)])

    def do_tofloatarray2d(self, handleId: str) -> Any:  # noqa: N803
        return [[float(item) for item in row] for row in self.find(handleId)]

    def do_handles(self) -> Any:
        rows = [{"handleId": key, "typeName": "x", "sizeBytes": 1, "ageSeconds": 0.5} for key in self.objects]
        return {"handles": rows}

    def do_session_create(self, **asked: Any) -> Any:
        return _info(asked["name"] or "side", asked["idleTimeout"])

    def do_session_list(self) -> Any:
        return {"sessions": [_info("default", None), _info("side", 2.0)]}

    def do_session_get(self, id: str) -> Any:  # noqa: A002
        return _info(id, None)

    do_session_reset = do_session_get

    def do_session_delete(self, id: str) -> Any:  # noqa: A002
        return {"success": bool(id)}

    do_session_interrupt = do_session_delete


def _info(name: str, idle: float | None) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "state": "idle",
        "createdAt": "2026-01-01T00:00:00Z",
        "limits": {"memoryBytes": 5},
        "idleTimeout": idle,
        "queued": 0,
        "calls": 1,
        "handles": 0,
        "restarts": 0,
        "added": "later",
    }


ROUTES = {command.http: command.name for command in COMMANDS}


def route(method: str, path: str) -> tuple[str, dict[str, Any]]:
    if (method, path) in ROUTES:
        return ROUTES[method, path], {}
    start, _, rest = path.removeprefix("/v1/sessions/").partition("/")
    return ROUTES[method, "/v1/sessions/{id}" + (f"/{rest}" if rest else "")], {"id": start}


def http_handler(interpreter: Interpreter) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            command, payload = route(self.command, self.path)
            status, result = 200, None
            try:
                if command != "ping" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    raise Unauthenticated("who are you?")
                payload = payload or (json.loads(body) if body else {})
                timeout = self.headers.get("X-Venvd-Timeout")
                session = self.headers.get("X-Venvd-Session")
                result = interpreter.answer(command, payload, session, float(timeout) if timeout else None)
            except VenvdError as error:
                status, result = error.http_status, error.problem()
            if "event-stream" in self.headers.get("Accept", ""):
                self.stream(result)
            else:
                self.whole(status, json.dumps(result).encode())

        def whole(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def stream(self, output: Any) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            events = [("stdout", line) for line in output["stdout"].splitlines(keepends=True)]
            failed = output["error"] is not None
            outcome = ("error", output["error"]) if failed else ("result", output["result"])
            for name, data in [*events, outcome, ("done", {"durationMs": 1.0, "truncated": False})]:
                text = f"event: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_DELETE = answer  # noqa: N815

    return Handler


def pipe_handler(interpreter: Interpreter) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                message = parse_line(line.rstrip(b"\n"))
                reply: dict[str, Any] = {"id": message["id"]}
                try:
                    if message["command"] != "ping" and message.get("token") != TOKEN:
                        raise Unauthenticated("who are you?")
                    if message["command"] == ATTACH:
                        raise Unimplemented("there are no direct connections here")
                    result = interpreter.answer(
                        message["command"], message.get("payload"), message.get("session"), message.get("timeout")
                    )
                    if message.get("stream"):
                        for text in result["stdout"].splitlines(keepends=True):
                            self.wfile.write(dump_line({"id": 1, "event": "stdout", "data": text}))
                    reply["result"] = result
                except VenvdError as error:
                    reply.update(error.fields())
                self.wfile.write(dump_line(reply))

    return Handler


@dataclass
class Server:
    url: str
    interpreter: Interpreter
    token: str = TOKEN


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class HttpServer(http.server.ThreadingHTTPServer):
    request_queue_size = 256  # a burst of connections must not wait for the kernel's retries


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def serving_contract(transport: str) -> Iterator[Server]:
    interpreter = Interpreter()
    if transport == "http":
        listening = HttpServer(("127.0.0.1", 0), http_handler(interpreter))
        with serving(listening):
            yield Server(f"http://127.0.0.1:{listening.server_port}", interpreter)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pipe.sock"
        with serving(UnixServer(str(path), pipe_handler(interpreter))):
            yield Server(f"unix://{path}", interpreter)


@pytest.fixture(params=["http", "pipe"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A backend in this process that speaks the contract, over each transport in turn."""
    with serving_contract(request.param) as made:
        yield made


@dataclass
class Site:
    """A real controller with a home of its own, on the local engine, and a backend that it started."""

    home: Path
    url: str
    token: str
    backend: resources.Backend

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VENVD_")}
        return {**kept, "VENVD_HOME": str(self.home), "VENVD_ENGINE": "local"}


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    home = Path(tempfile.mkdtemp(prefix="venvd-client-"))
    minor = f"3.{sys.version_info.minor}"
    settings = {"VENVD_ENGINE": "local", "VENVD_RUN_DIR": str(home / "run"), "VENVD_HOST_DIRS": str(home / "allowed")}
    started = _controller_process.start(home, settings=settings)
    try:
        with venvd.Controller(started.url, started.token) as controller:
            controller.venvs.ensure("plain", VenvSpec(python=minor))
            made = controller.backends.start("http", venv="plain", name="main")
            controller.operations.wait(made.operation)
            yield Site(home, started.url, started.token or "", controller.backends.get("main"))
            for backend in controller.backends.list():
                controller.backends.delete(backend.name)
    finally:
        started.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["http", "pipe", pytest.param("real", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Iterator[venvd.Backend]:
    """A connected client: of a backend in this process over each transport, and of a real one."""
    if request.param == "real":
        site: Site = request.getfixturevalue("site")
        with venvd.connect(site.backend.url or "", site.backend.token) as connected:
            yield connected
        return
    with serving_contract(request.param) as server, venvd.connect(server.url, server.token) as connected:
        yield connected


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
    return value


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return until


@dataclass
class Script:
    """A peer that, for each connection, waits for a request and then says the next thing of its list.

    `requests` are the first bytes of each request. Of what it says, None is to close, "reset" to break the connection,
    "silence" to say nothing until the client goes; a list is sent on one connection, one item for each request.
    """

    listener: socket.socket
    url: str
    says: list[Any] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with contextlib.suppress(OSError):
            for said in self.says:
                connection, _ = self.listener.accept()
                with connection:
                    self.serve(connection, said if isinstance(said, list) else [said])

    def serve(self, connection: socket.socket, said: list[Any]) -> None:
        for item in said:
            self.requests.append(connection.recv(1 << 20))
            if item == "silence":
                while connection.recv(1 << 16):
                    pass
                self.gone.set()
            elif item == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            elif item is not None:
                for piece in item if isinstance(item, tuple) else (item,):
                    connection.sendall(piece)
                    time.sleep(0.01)


@pytest.fixture
def script() -> Iterator[Callable[..., Script]]:
    """Starts a `Script`."""
    listeners = []

    def start(*says: Any) -> Script:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        made = Script(listener, f"http://127.0.0.1:{listener.getsockname()[1]}", list(says))
        threading.Thread(target=made.run, daemon=True).start()
        return made

    yield start
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def cli(site: Any) -> Cli:
    return lambda *words, **options: run(site.environment(), *words, **options)
