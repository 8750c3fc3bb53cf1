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
from typing import Any, Dict, List, NoReturn, Sequence

from venvd_contract.commands import Limits
from venvd_contract.internal.control import AttachTerms, close_descriptors
from venvd_contract.internal.segments import create_sealed
from venvd_contract.internal.slots import SIZE
from venvd_worker.common import control, kernel
from venvd_worker.common.control import ControlConnection, InvalidPacket, TruncatedPacket
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
_WARM_UP = b'{"id":1,"command":"eval","payload":{"expression":"1+1"}}\n'


def main(control_descriptor: int) -> NoReturn:
    """Run the session that the warden configures over `control_descriptor`, in a new interpreter."""
    own = ControlConnection(socket.socket(fileno=lift(control_descriptor)))
    config, descriptors = control.wait_for_packet(own)
    isolate()
    run(own, config, descriptors)


def run(own: ControlConnection, config: Dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """Run the session of `config` with the descriptors of its stream, segments and slots; call `isolate` first."""
    kernel.name_process(_NAME)
    kernel.adopt_orphans()
    try:
        session = Session(own, config, descriptors)
        session.take_over(config)
    except Exception:  # noqa: BLE001 - the log must say why the session does not start
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        os._exit(1)
    try:
        session.serve()
    finally:
        # No handler of the user's runs any more.
        os._exit(session.status)


def warm_up(files: str) -> None:
    """Be a session for one call, and remove all its traces.

    The kernel copies each page that a fork writes to for the first time. Here no client waits for that.
    """
    forks.claim()
    mine, its = control.make_pair()
    stream, session_end = socket.socketpair()
    supply, supply_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slots = create_sealed("venvd-warm-up", SIZE)
    config = {
        "limits": {},
        "lease": 0.0,
        "compat": False,
        "slots": 1,
        "slot": 0,
        "files": files,
        "spin": 0,
        "spinners": 0,
    }
    session = Session(ControlConnection(its), config, [session_end.detach(), supply_end.detach(), slots])
    stream.sendall(_WARM_UP)
    stream.shutdown(socket.SHUT_WR)
    session.take_streams()
    session.serve()
    stream.close()
    supply.close()
    mine.close()
    session.close()


class Session:
    """Answers requests until the server or the warden is gone; the process is all its own once it has taken over."""

    def __init__(self, own: ControlConnection, config: Dict[str, Any], descriptors: Sequence[int]) -> None:
        self.status = 1
        self._control = own
        stream, supply, slots = map(lift, descriptors)
        self._memory = SlotMemory(slots, config["slots"])
        self._slot = Slot(self._memory.map, config["slot"])
        self._supply = Supply(supply)
        self._stream = Stream(stream, Traffic())
        self._epoll = _make_lifted_epoll()
        self._descriptors = [self._stream.fileno(), self._supply.fileno(), self._control.fileno(), slots]
        self._compose(config)

    def take_over(self, config: Dict[str, Any]) -> None:
        """Install the parts of which a process has one: `__main__`, signal handlers, streams, limits."""
        sys.modules["__main__"] = self._interpreter.main
        builtins.input = _no_input
        builtins.display = self._displays.display  # type: ignore[attr-defined]
        builtins.update_display = self._displays.update  # type: ignore[attr-defined]
        setattr(builtins, times.NAME, times.Times())
        call_after_import("IPython.core.display_functions", self._displays.extend_ipython)
        call_after_import("matplotlib.pyplot", self._commands.show_figures)
        call_after_import("PIL.ImageShow", self._commands.show_images)
        self._interrupts.install()
        self.take_streams()
        _prepare_path(config)
        if config["cwd"]:
            _enter_directory(config["cwd"])
        assemblies.prepare()
        shared_names.prepare()
        forks.guard(self._list_protected)
        self._guard.apply()

    def take_streams(self) -> None:
        """Give Python streams of its own over descriptors 1 and 2."""
        sys.stdout = sys.stderr = None
        self._capture.bind_streams()
        faulthandler.enable(file=self._capture.error_log)

    def close(self) -> None:
        """Close every descriptor now: the garbage collector might close one later that has become user code's."""
        self._capture.close()
        self._control.close()
        self._stream.close()
        self._supply.close()
        self._epoll.close()
        self._memory.close()

    def _compose(self, config: Dict[str, Any]) -> None:
        limits = Limits(**config["limits"])
        self._interrupts = interrupts = Interrupts(self._slot)
        self._guard = Guard(limits)
        self._capture = Capture(self._leave_pipe)
        handles = Handles(limits.handles, config["lease"] or None)
        self._interpreter = interpreter = Interpreter(os.path.join(os.path.dirname(config["files"]), "definitions.py"))
        self._segments = Segments(limits.memoryBytes, self._supply)
        self._commands = commands = Commands(
            Parts(
                limits, interpreter, handles, interrupts, self._capture, self._guard, self._segments, config["compat"]
            )
        )
        self._displays = Displays(commands.show)
        calls = Calls(
            commands, self._slot, interrupts, self._guard, handles, limits.resultBytes, compat=config["compat"]
        )
        spin = config["spin"] if limits.cpuSeconds is None else 0  # a spin uses up processor time
        self._request_loop = RequestLoop(
            self._epoll, self._stream, calls, self._slot, self._segments, spin, config["spinners"]
        )

    def _list_protected(self) -> List[int]:
        captured = self._capture.descriptors.values()
        return [*self._descriptors, *self._request_loop.descriptors, self._epoll.fileno(), *captured]

    def _leave_pipe(self, stream: str, descriptor: int) -> None:
        try:
            self._control.send({"log": stream}, [descriptor])
        except OSError:
            pass  # user code has used up the room for descriptors that are under way

    # ---- the loop

    def serve(self) -> None:
        """Answer requests until the server is gone; `status` is the exit status then."""
        self._request_loop.listen(self._control.fileno(), self._hear_warden)
        self._slot.ready()
        self._control.send({"ready": True})
        try:
            self._request_loop.serve()
        except EOFError:
            self.status = 0
        except (OSError, ValueError):  # the user's code closed our descriptors
            self.status = CHANNEL_CLOSED

    def _hear_warden(self) -> None:
        try:
            packet = self._control.receive()
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
            self._control.send({"refused": message["attach"]["connection"], "why": why})


def _make_lifted_epoll() -> select.epoll:
    made = select.epoll()
    return select.epoll.fromfd(lift(os.dup(made.fileno())))


def _prepare_path(config: Dict[str, Any]) -> None:
    sys.argv = [""]
    sys.path.insert(0, config["files"])
    if config["site"] is not None and config["site"] not in sys.path:
        site.addsitedir(config["site"])


def _enter_directory(directory: str) -> None:
    """Work in a directory, and find modules in it. A relative one is made."""
    try:
        if not os.path.isabs(directory):
            os.makedirs(directory, exist_ok=True)
        os.chdir(directory)
    except OSError as error:
        os.write(2, "cwd: {}\n".format(error).encode("utf-8", "replace"))
        os._exit(NO_DIRECTORY)
    sys.path.insert(0, os.getcwd())


def isolate() -> None:
    """Isolate our modules from the user's: none of ours can be imported, and ours keep the functions they have now.

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
