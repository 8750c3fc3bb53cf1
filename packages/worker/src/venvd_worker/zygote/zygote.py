"""The zygote: it imports the modules of the preload list, and sessions are forked from it.

The zygote only imports modules and never uses them: what a module does in use may not survive a fork, and a process
with threads cannot be forked safely. The zygote forks a process in between. That process forks one session or several,
and ends at once. The warden then adopts the sessions, and later reaps them. If the zygote dies, its sessions live on.

The kernel copies each page that a fork writes to for that fork alone. Because of reference counts, these are most pages
that the fork uses. So the zygote does as much as it can before it forks:

- It makes the session that each fork becomes. This session answers some calls, which fill the interpreter's caches.
- It fills the holes of the heap, so that what a fork allocates lies close together (`venvd_worker.zygote.heap`).
- It looks up the paths of the walls.

A fork does five things before it becomes a session:

- It rehearses one call. The kernel copies the pages that it writes to while no client waits.
- It seeds numpy's global generator. Python's own generator reseeds itself after a fork.
- It resets the directory of `tempfile`, so that each session finds its own.
- It confines itself to the directory of its session (`venvd_worker.common.walls`), while no client waits.
- It takes the environment, the directory and the output of the session.

All sessions share the hash seed of the zygote. OpenBLAS computes with one thread, because the zygote loads it with
`OPENBLAS_NUM_THREADS=1`. The venv's `env` may set another number.

In a container the zygote and all sessions run with niceness 10, so that the warden notices a fork bomb in time. `ps`
shows the processes as `venvd-zygote`, `venvd-spare` and `venvd-session`.
"""

from __future__ import annotations

import _thread
import ctypes
import gc
import importlib
import os
import select
import signal
import site
import socket
import sys
import time
from typing import Any, Dict, List, NoReturn, Optional, Sequence

from venvd_contract.internal.control import close_descriptors
from venvd_worker.common import control, kernel, namespaces
from venvd_worker.common.control import ControlConnection, Packet, encode
from venvd_worker.common.descriptors import lift
from venvd_worker.common.landlock import Rule
from venvd_worker.common.walls import Walls
from venvd_worker.session import session
from venvd_worker.session.session import Session
from venvd_worker.zygote import heap

_NAME, _SPARE_NAME = "venvd-zygote", "venvd-spare"

_ADOPTION_INTERVAL = 0.2
"""Milliseconds between two checks of whether the warden is the parent."""
_WAITING = encode({"waiting": True})
_PROBE_SIZE = 256
_REHEARSALS = 10
"""Calls to rehearse. CPython 3.11 gives code its caches in the eighth call."""
_TWISTER_BYTES = 624 * 4
"""Bytes of the state of a Mersenne Twister."""
_LONGEST_ERROR = 2000


def main(descriptor: int) -> NoReturn:
    """Import the modules that the warden names, and fork on request until the warden is gone."""
    kernel.name_process(_NAME)
    kernel.hide_memory()
    try:
        Zygote(ControlConnection(socket.socket(fileno=lift(descriptor)))).serve()
    except EOFError:
        pass
    finally:
        os._exit(0)


class Zygote:
    """Imports and forks for the warden at the other end of `own`."""

    def __init__(self, own: ControlConnection) -> None:
        self._control = own
        self._warden = os.getppid()
        self._walls: Optional[Walls] = None
        self._filling: List[bytes] = []
        self._rules: List[Rule] = []
        self._twister: Optional[int] = None

    def serve(self) -> NoReturn:
        """Import the preload list, tell the warden, and fork on request.

        Raises:
            EOFError: the warden is gone.
        """
        config, _ = control.wait_for_packet(self._control)
        self._walls = Walls(**config["walls"])
        self._rules = self._walls.prepare()
        session.isolate()
        if config["site"] is not None:
            site.addsitedir(config["site"])
        gc.disable()  # a collection now would leave holes in the pages that forks share
        for name in config["preload"]:
            self._import(name)
        gc.collect()
        self._filling = heap.fill()
        self._twister = _find_twister()
        self._template = session.make_template()
        _rehearse(self._template, self._twister, self._walls)
        gc.collect()
        gc.freeze()
        self._control.send({"prepared": True, "threads": _count_threads()})
        while True:
            self._fork(control.wait_for_packet(self._control))

    def _import(self, name: str) -> None:
        self._control.send({"importing": name})
        started_at, error = time.monotonic(), None
        try:
            importlib.import_module(name)
        except BaseException as raised:  # noqa: BLE001 - a module may raise even SystemExit
            error = "{}: {}".format(type(raised).__name__, raised)[:_LONGEST_ERROR]
        self._control.send({"imported": name, "seconds": round(time.monotonic() - started_at, 3), "error": error})

    def _fork(self, packet: Packet) -> None:
        if packet.message["usual"] is not None:
            self._template.configure(packet.message["usual"])
        ends = os.pipe() if self._namespaced else ()
        try:
            middle_pid = os.fork()
            if not middle_pid:
                self._fork_again(packet, ends)
            _, status = os.waitpid(middle_pid, 0)
            if status:
                self._report_failed(packet, "the fork ended with status {}".format(status))
        except OSError as error:
            self._report_failed(packet, str(error))
        finally:
            close_descriptors([*packet.descriptors, *ends])

    def _report_failed(self, packet: Packet, why: str) -> None:
        for request in packet.message["forks"]:
            self._control.send({"failed": request["fork"], "why": why})

    def _fork_again(self, packet: Packet, ends: Sequence[int]) -> NoReturn:
        """Fork children in the process in between, and report each before the warden becomes its parent.

        With namespaces there is only one request, because each child needs its own namespaces.
        """
        status = 1
        try:
            middle_pid = os.getpid()
            if self._namespaced:
                namespaces.enter()
            for place, request in enumerate(packet.message["forks"]):
                child_pid = os.fork()
                if not child_pid:
                    own = packet.descriptors.pop(place)
                    close_descriptors(packet.descriptors)  # the ends of the other children
                    self._run_child(middle_pid, request, own, ends)
                self._control.send({"forked": request["fork"], "pid": child_pid})
            status = 0
        finally:
            os._exit(status)

    @property
    def _namespaced(self) -> bool:
        return self._walls is not None and self._walls.namespaces

    def _run_child(self, middle_pid: int, request: Dict[str, Any], own: int, ends: Sequence[int]) -> NoReturn:
        """Become a spare fork and then a session, or answer a probe."""
        try:
            kernel.name_process(_SPARE_NAME)
            self._control.close()
            template = self._template
            template.connect(own)
            gc.enable()
            _diverge(self._twister)
            template.rehearse()
            if ends:
                _wait_for_zygote(*ends)
            else:
                _wait_for_adoption(middle_pid, self._warden)
            os.setsid()
            self._close_in(request["root"])
            if request["probe"]:
                _probe()
                template.control.send({"probed": True})
            else:
                template.control.send_encoded(_WAITING)
                _become_session(template)
        finally:
            os._exit(1)

    def _close_in(self, root: str) -> None:
        """Confine this process to its own directory, and let the kernel kill it before the zygote."""
        kernel.show_memory()  # while its memory is hidden, a process can change nothing below /proc/self
        kernel.set_oom_score(kernel.SESSION_OOM_SCORE)
        kernel.hide_memory()
        if self._walls is not None:
            self._walls.close_in(root, self._rules)


def _count_threads() -> int:
    """Return the number of Python's threads, or of all threads if the .NET runtime is loaded: it starts its own."""
    if "clr" in sys.modules:
        return len(os.listdir("/proc/self/task"))
    return len(sys._current_frames())  # noqa: SLF001 - there is no other way to count


def _wait_for_zygote(own_end: int, other_end: int) -> None:
    """Wait until the zygote closes its end of a pipe, because the process in between has ended.

    The first process of a PID namespace sees no parent. It ends with the warden, whose container ends with it.
    """
    os.close(other_end)
    os.read(own_end, 1)
    os.close(own_end)


def _wait_for_adoption(middle_pid: int, warden_pid: int) -> None:
    """Wait until the process in between has ended. From then on, this process ends with the warden."""
    poll = select.poll()
    while os.getppid() == middle_pid:
        poll.poll(_ADOPTION_INTERVAL)
    kernel.die_with_parent(signal.SIGKILL)  # earlier, the end of the process in between would end this one too
    if os.getppid() != warden_pid:
        os._exit(1)


def _rehearse(template: Session, twister: Optional[int], walls: Walls) -> None:
    """Do several times what a fork does, with the session that forks become.

    A first call fills the caches of types and in byte code, so it writes to many pages. Forks share the pages that it
    writes to here.
    """
    after_fork = getattr(sys.modules.get("threading"), "_after_fork", None)
    for _ in range(_REHEARSALS):
        if after_fork is not None:
            after_fork()  # Python calls it in each fork. In a process with one thread it does nothing
        warden, own = control.make_pair()
        template.connect(own.detach())
        kernel.name_process(_NAME)
        _diverge(twister)
        template.rehearse()
        kernel.hide_memory()
        walls.try_out(os.getcwd())
        template.control.send_encoded(_WAITING)
        warden.send({"env": dict(os.environ)})
        config, _ = control.wait_for_packet(template.control)
        _set_environment(config["env"])
        warden.close()


def _find_twister() -> Optional[int]:
    """Find the address of the state of numpy's global generator. Have it compute a new state at the next number.

    A fork that writes random words there writes to one page, but `seed` writes to sixty. The result is None without
    numpy, or if a module has chosen another generator.
    """
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is None:
        return None
    try:
        key = numpy_random.get_state()[1]
        # The generator draws normal numbers in pairs. This also drops a second one that is still unused.
        numpy_random.set_state(("MT19937", key, _TWISTER_BYTES // 4))
        address = int(numpy_random.get_bit_generator().ctypes.state_address)
        if ctypes.string_at(address, _TWISTER_BYTES) == key.tobytes():
            return address
    except Exception:  # noqa: BLE001 - an old numpy has no such function, and one to come may lack others
        return None
    return None


def _diverge(twister: Optional[int]) -> None:
    """Reset what forks would otherwise share: numpy's random numbers and the directory of `tempfile`."""
    if twister is not None:
        ctypes.memmove(twister, os.urandom(_TWISTER_BYTES), _TWISTER_BYTES)
    elif "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None  # type: ignore[attr-defined]


def _probe() -> None:
    """Start a thread and multiply two matrices. If the zygote cannot be forked safely, this fails or hangs."""
    until_thread_ran = _thread.allocate_lock()
    until_thread_ran.acquire()
    _thread.start_new_thread(until_thread_ran.release, ())
    until_thread_ran.acquire()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        matrix = numpy.ones((_PROBE_SIZE, _PROBE_SIZE))
        matrix.dot(matrix)


def _become_session(template: Session) -> NoReturn:
    config, descriptors = control.wait_for_packet(template.control)
    kernel.show_memory()
    _take_over(config, descriptors[3:])
    session.run(template, config, descriptors[2], descriptors[:2])


def _set_environment(variables: Dict[str, str]) -> None:
    for name in [name for name in os.environ if name not in variables]:
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _take_over(config: Dict[str, Any], streams: Sequence[int]) -> None:
    """Take over the environment, directory and output of the session, which a new process gets by exec."""
    old_timezone = os.environ.get("TZ")
    _set_environment(config["env"])
    if os.environ.get("TZ") != old_timezone:
        time.tzset()
    os.chdir(config["files"])
    output, errors = streams
    os.dup2(output, 1)
    os.dup2(errors, 2)
    close_descriptors(list(streams))
