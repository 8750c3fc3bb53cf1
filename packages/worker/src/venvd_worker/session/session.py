"""The process of a session: its `__main__`, its streams, and the loop that answers requests."""

from __future__ import annotations

import builtins
import faulthandler
import os
import select
import site
import socket
import sys
import traceback
from types import ModuleType, SimpleNamespace
from typing import Any, Dict, List, NoReturn, Optional, Sequence

from venvd_contract.internal.control import AttachTerms, close_descriptors
from venvd_contract.internal.slots import SIZE
from venvd_contract.session_requests import Limits
from venvd_worker.common import control, kernel
from venvd_worker.common.control import ControlConnection, InvalidPacket, TruncatedPacket, encode
from venvd_worker.common.descriptors import lift
from venvd_worker.common.exit_status import CHANNEL_CLOSED, NO_DIRECTORY
from venvd_worker.common.slots import SlotMemory
from venvd_worker.session import assemblies, forks, shared_names, times
from venvd_worker.session.calls import Calls
from venvd_worker.session.capture import Capture
from venvd_worker.session.commands import Commands, Parts
from venvd_worker.session.direct_stream import DirectStream
from venvd_worker.session.displays import Displays
from venvd_worker.session.handles import Handles
from venvd_worker.session.import_hooks import call_after_import
from venvd_worker.session.interpreter import Interpreter
from venvd_worker.session.interrupts import Interrupts
from venvd_worker.session.limits import Guard
from venvd_worker.session.request_loop import RequestLoop
from venvd_worker.session.segments import Segments, Supply
from venvd_worker.session.slot import Slot, Traffic
from venvd_worker.session.streams import Stream

_OWN = ("venvd_contract", "venvd_worker")
_NAME = "venvd-session"
TERMS = ("limits", "lease", "compat")
"""The fields of a configuration that are the same for most sessions of a backend."""
_READY = encode({"ready": True})
_REHEARSAL = b'{"id":1,"command":"eval","payload":{"expression":"1+1"}}\n'


def main(control_descriptor: int) -> NoReturn:
    """Run the session that the warden configures over `control_descriptor`, in a new interpreter."""
    own = ControlConnection(socket.socket(fileno=lift(control_descriptor)))
    config, descriptors = control.wait_for_packet(own)
    isolate()
    try:
        session = Session(own, *descriptors[:2])
        session.install()
    except Exception:  # noqa: BLE001 - the log must say why the session does not start
        _leave()
    run(session, config, descriptors[2])


def run(session: Session, config: Dict[str, Any], slots: int, connections: Sequence[int] = ()) -> NoReturn:
    """Run an installed session. The arguments are those of `Session.begin`."""
    kernel.name_process(_NAME)
    kernel.adopt_orphans()
    try:
        session.begin(config, slots, connections)
    except Exception:  # noqa: BLE001
        _leave()
    try:
        session.serve()
    finally:
        # This runs no handler of the user's.
        os._exit(session.status)


def _leave() -> NoReturn:
    """End the process because of the current exception."""
    os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    os._exit(1)


def make_template() -> Session:
    """Make an installed session without connections. A fork gives it connections with `connect` and `begin`."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    streams, supplies = socket.socketpair(), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own = ControlConnection(socket.socket(fileno=lift(ends[0].detach())))
    session = Session(own, streams[0].detach(), supplies[0].detach())
    session.install()
    for end in (ends[1], streams[1], supplies[1]):
        end.close()
    return session


class Session:
    """Answers requests until the server or the warden is gone.

    `install` prepares all that does not depend on the configuration. A zygote calls it before it forks. Then each fork
    puts its connections in the place of the template's, under the same numbers.

    Args:
        own: the connection to the warden.
        stream, supply: the descriptors of the connections to the server.
    """

    def __init__(self, own: ControlConnection, stream: int, supply: int) -> None:
        self.status = 1
        self.control = own
        self._slot = Slot(bytearray(SIZE), 0)
        self._supply = Supply(lift(supply))
        self._stream = Stream(lift(stream), Traffic())
        self._epoll = _make_lifted_epoll()
        self._descriptors = [self._stream.fileno(), self._supply.fileno(), own.fileno()]
        self._memory: Optional[SlotMemory] = None
        self._terms: Optional[Dict[str, Any]] = None
        self._compose()

    def install(self) -> None:
        """Install what a process has only once and what does not depend on the configuration."""
        sys.modules["__main__"] = self._interpreter.main
        builtins.input = _no_input
        builtins.display = self._displays.display  # type: ignore[attr-defined]
        builtins.update_display = self._displays.update  # type: ignore[attr-defined]
        setattr(builtins, times.NAME, times.Times())
        call_after_import("IPython.core.display_functions", self._displays.extend_ipython)
        call_after_import("matplotlib.pyplot", self._commands.show_figures)
        call_after_import("PIL.ImageShow", self._commands.show_images)
        self._interrupts.install()
        # `bind_streams` then makes streams over descriptors 1 and 2, which may change later.
        sys.stdout = sys.stderr = None
        self._capture.bind_streams()
        faulthandler.enable(file=self._capture.error_log)
        shared_names.prepare()

    def connect(self, own: int) -> None:
        """Become the session of this fork. `own` is the fork's connection to the warden. `connect` closes it."""
        forks.claim()
        _replace(self.control.fileno(), own)
        epoll = select.epoll()
        _replace(self._epoll.fileno(), os.dup(epoll.fileno()))
        epoll.close()

    def rehearse(self) -> None:
        """Answer one call, and leave no trace of it. Call this only before `begin`.

        The kernel copies each page that a fork writes to for the first time. Here no client waits for that.
        """
        client, end = socket.socketpair()
        with client:
            _replace(self._stream.fileno(), end.detach())
            self._request_loop.listen_to_server()
            client.sendall(_REHEARSAL)
            self._request_loop.answer_one()
            client.recv(len(_REHEARSAL))
        self._interpreter.forget()

    def begin(self, config: Dict[str, Any], slots: int, connections: Sequence[int] = ()) -> None:
        """Become the session of `config`, with the descriptor of the slots.

        Args:
            config: the configuration from the launcher of the warden.
            slots: the descriptor of the slots. The session takes it over.
            connections: for a template, descriptors of the stream and the supply. `begin` closes them.
        """
        for descriptor, connection in zip(self._descriptors, connections):  # noqa: B905 - Python 3.9 has no `strict`
            _replace(descriptor, connection)
        slots = lift(slots)
        self._memory = SlotMemory(slots, config["slots"])
        self._slot.move(self._memory.map, config["slot"])
        self._descriptors.append(slots)
        self._capture.renew_log()
        self._interpreter.definitions.path = os.path.join(os.path.dirname(config["files"]), "definitions.py")
        _prepare_path(config)
        if config["cwd"]:
            _enter_directory(config["cwd"])
        assemblies.prepare()
        forks.guard(self._list_protected)
        self._guard.apply(Limits(**config["limits"]))
        self.configure({name: config[name] for name in TERMS})
        spin = 0 if config["limits"]["cpuSeconds"] is not None else config["spin"]  # a spin uses up processor time
        self._request_loop.allow_spins(spin, config["spinners"])
        self._request_loop.listen_to_server()
        self._request_loop.listen(self.control.fileno(), self._hear_warden)

    def _compose(self) -> None:
        self._interrupts = interrupts = Interrupts(self._slot)
        self._guard = Guard()
        self._capture = Capture(self._leave_pipe)
        self._handles = handles = Handles()
        self._interpreter = interpreter = Interpreter()
        self._segments = Segments(self._supply)
        self._commands = commands = Commands(
            Parts(interpreter, handles, interrupts, self._capture, self._guard, self._segments)
        )
        self._displays = Displays(commands.show)
        self._calls = Calls(commands, self._slot, interrupts, self._guard, handles)
        self._request_loop = RequestLoop(self._epoll, self._stream, self._calls, self._slot, self._segments)

    def configure(self, terms: Dict[str, Any]) -> None:
        """Set the `TERMS` of a configuration. A template already has those of most sessions."""
        if terms == self._terms:
            return
        limits, compat = Limits(**terms["limits"]), terms["compat"]
        self._handles.most = limits.handles
        self._handles.usual_lease = terms["lease"] or None
        self._segments.most = limits.memoryBytes
        self._commands.configure(limits, compat=compat)
        self._calls.configure(limits.resultBytes, compat=compat)
        self._terms = terms

    def _list_protected(self) -> List[int]:
        captured = self._capture.descriptors.values()
        return [*self._descriptors, *self._request_loop.descriptors, self._epoll.fileno(), *captured]

    def _leave_pipe(self, stream: str, descriptor: int) -> None:
        try:
            self.control.send({"log": stream}, [descriptor])
        except OSError:
            pass  # user code has used up the room for descriptors in flight

    # ---- the loop

    def serve(self) -> None:
        """Answer requests until the server is gone. Then `status` is the exit status."""
        self._slot.ready()
        self.control.send_encoded(_READY)
        try:
            self._request_loop.serve()
        except EOFError:
            self.status = 0
        except (OSError, ValueError):  # the user's code closed our descriptors
            self.status = CHANNEL_CLOSED

    def _hear_warden(self) -> None:
        try:
            packet = self.control.receive()
        except TruncatedPacket as shortened:
            self._refuse(shortened.message, "it has too many open files")
            return
        except InvalidPacket:
            return
        if packet is None:
            return
        if "venvs" in packet.message:
            self._install_venv_host(packet.message["venvs"], packet.descriptors)
        elif "attach" in packet.message:
            self._take_client(AttachTerms(**packet.message["attach"]), packet.descriptors)
        else:
            close_descriptors(packet.descriptors)

    def _install_venv_host(self, source: str, descriptors: List[int]) -> None:
        descriptor = lift(descriptors[0])
        self._descriptors.append(descriptor)
        module = ModuleType("venvd_host")
        exec(compile(source, "<venvd_host>", "exec"), module.__dict__)  # noqa: S102 - the server sent it
        module.__dict__["_connect"](descriptor)
        sys.modules["venvd_host"] = module

    def _take_client(self, terms: AttachTerms, descriptors: List[int]) -> None:
        rest = b""
        if len(descriptors) > 1:
            with open(descriptors.pop(), "rb") as file:
                file.seek(0)
                rest = file.read()
        self._request_loop.add(DirectStream(lift(descriptors[0]), terms, rest, self._slot.traffic))

    def _refuse(self, message: Dict[str, Any], why: str) -> None:
        if "attach" in message:
            self.control.send({"refused": message["attach"]["connection"], "why": why})


def _replace(number: int, descriptor: int) -> None:
    """Put `descriptor` in the place of `number`, and close it. Objects that know the number go on with it."""
    os.dup2(descriptor, number, inheritable=False)
    os.close(descriptor)


def _make_lifted_epoll() -> select.epoll:
    made = select.epoll()
    return select.epoll.fromfd(lift(os.dup(made.fileno())))


def _prepare_path(config: Dict[str, Any]) -> None:
    sys.argv = [""]
    sys.path.insert(0, config["files"])
    if config["site"] is not None and config["site"] not in sys.path:
        site.addsitedir(config["site"])


def _enter_directory(directory: str) -> None:
    """Work in a directory, and find modules in it. Make the directory if its path is relative."""
    try:
        if not os.path.isabs(directory):
            os.makedirs(directory, exist_ok=True)
        os.chdir(directory)
    except OSError as error:
        os.write(2, "cwd: {}\n".format(error).encode("utf-8", "replace"))
        os._exit(NO_DIRECTORY)
    sys.path.insert(0, os.getcwd())


def isolate() -> None:
    """Isolate our modules from the user's. User code cannot import ours, and ours keep the functions they have now.

    The user may pin a package with one of our names, and may patch functions of the standard library that we use.
    """
    own = [name for name in sys.modules if name.partition(".")[0] in _OWN]
    for module in [sys.modules.pop(name) for name in own]:
        for name, value in list(vars(module).items()):
            if isinstance(value, ModuleType) and value not in (sys, builtins) and value.__name__ not in own:
                setattr(module, name, SimpleNamespace(**vars(value)))
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "__main__"]


def _no_input(_prompt: object = "") -> NoReturn:
    raise EOFError("input() has no terminal here: pass values as arguments, locals or attributes")
