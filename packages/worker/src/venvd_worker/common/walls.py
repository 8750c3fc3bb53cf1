"""The walls around a session: which files it can reach, and which system calls it can make.

The warden plans the walls once. A process puts itself behind them before any user code runs in it: a new interpreter
before its `exec`, a fork of the zygote before it waits for its session. The zygote itself is behind walls that leave
the directories of all sessions open. So each of its forks can close all of them but one.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from venvd_contract.internal.control import close_descriptors
from venvd_worker.common import kernel, landlock, namespaces, seccomp
from venvd_worker.common.landlock import Rule
from venvd_worker.common.namespaces import SHARED_MEMORY, Covers

_SYSTEM = (
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr",
    "/etc",
    "/opt",
    "/nix",
    "/snap",
    "/var/cache/fontconfig",
    "/run/systemd/resolve",
)
_PROCESSES = "/proc"
_KERNEL = (_PROCESSES, "/sys")
_TEMPORARY = "/tmp"  # noqa: S108 - to name it, not to use it
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "nvidia*", "dri", "kfd")
_PATH_VARIABLES = ("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "VENVD_ASSEMBLIES")


@dataclass(frozen=True)
class Places:
    """The files that the command line hides or opens.

    Attributes:
        hidden: directories of which user code sees only what `readable` and `writable` name.
        readable: files and directories that every session may read.
        writable: files and directories that every session may also change.
    """

    hidden: Sequence[str] = ()
    readable: Sequence[str] = ()
    writable: Sequence[str] = ()


@dataclass(frozen=True)
class Walls:
    """The walls that are the same for each session.

    Attributes:
        landlock: the version of Landlock in force; 0 for none.
        filtered: whether the filter of system calls is in force.
        network: whether the filter lets network sockets through.
        rules: what Landlock allows beside the session's own directory.
        namespaces: whether each session has its own namespaces instead of Landlock.
        hidden, kept: what the namespaces hide, and what of it they still show.
    """

    landlock: int
    filtered: bool
    network: bool
    rules: Dict[str, int]
    namespaces: bool = False
    hidden: Sequence[str] = ()
    kept: Sequence[str] = ()

    def filter_calls(self) -> None:
        """Put this process and its children under the filter, and drop the rights of root, before its `exec`.

        Raises:
            OSError: the kernel refuses.
        """
        kernel.forbid_new_privileges()
        kernel.drop_capabilities()
        if self.filtered:
            # With namespaces, the process 1 that a session sees is the session itself.
            guard_first = kernel.IN_GVISOR and not self.namespaces
            seccomp.install(seccomp.make_filter(network=self.network, guard_first=guard_first))

    def prepare(self) -> List[Rule]:
        """Look up the paths of `rules` ahead, for forks of this process that call `close_in`."""
        return landlock.prepare(self.rules, self.landlock) if self.landlock else []

    def close_in(self, root: str, prepared: Optional[Sequence[Rule]] = None) -> None:
        """Let this process and its children write only to `root` and to the writable places.

        With namespaces, this process must be the first one in them.

        Args:
            root: the session's own directory.
            prepared: the rules that `prepare` returned before the fork; None to look them up now. This closes their
                descriptors.

        Raises:
            OSError: the kernel refuses.
        """
        if self.namespaces:
            namespaces.close_in(Covers(self.hidden, self.kept), root)
        self._restrict({root: landlock.OWN}, self.prepare() if prepared is None else prepared)

    def try_out(self, root: str) -> None:
        """Do what `close_in` does with Landlock, up to the last step."""
        if self.landlock:
            own = landlock.prepare({root: landlock.OWN}, self.landlock)
            close_descriptors([landlock.make(own, self.landlock), *(rule.descriptor for rule in own)])

    def close_in_zygote(self, work_dir: str) -> None:
        """Leave this process what its forks need before they confine themselves: all of `work_dir`, and /proc.

        Raises:
            OSError: the kernel refuses.
        """
        self._restrict({work_dir: landlock.OWN, _PROCESSES: landlock.READ_AND_WRITE}, self.prepare())

    def _restrict(self, own: Dict[str, int], prepared: Sequence[Rule]) -> None:
        if not self.landlock:
            return
        rules = [*prepared, *landlock.prepare(own, self.landlock)]
        try:
            kernel.forbid_new_privileges()
            landlock.restrict(rules, self.landlock)
        finally:
            close_descriptors([rule.descriptor for rule in rules])


def plan(places: Places, env: Mapping[str, str], *, network: bool) -> Walls:
    """Find out which walls this kernel offers. Child processes try them."""
    version = landlock.find_version()
    rules = _make_rules(places, env) if version else {}
    walls = Walls(version, seccomp.is_known(), network, rules)
    held = _try_out(walls)
    landlock_version = version if held & 1 else 0
    hidden = sorted({os.path.realpath(path) for path in (*places.hidden, _TEMPORARY)})
    kept = sorted({os.path.realpath(path) for path in (*places.readable, *places.writable)})
    # On Linux, engines forbid namespaces, and Landlock takes their place.
    own = kernel.IN_GVISOR and not landlock_version and namespaces.hold(Covers(hidden, kept))
    return Walls(landlock_version, bool(held & 2), network, rules, own, hidden, kept)


def _try_out(walls: Walls) -> int:
    """Return bits for the walls that the kernel puts up: 1 for Landlock, 2 for the filter."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    held = 0
    try:
        held |= 2 * _works(walls.filtered, walls.filter_calls)
        held |= 1 * _works(bool(walls.landlock), lambda: walls.close_in("/nonexistent"))
    finally:
        os._exit(held)


def _works(wanted: bool, action: Any) -> bool:
    try:
        action()
    except (OSError, KeyError):
        return False
    return wanted


# ---- rules


def _make_rules(places: Places, env: Mapping[str, str]) -> Dict[str, int]:
    hidden = [os.path.realpath(path) for path in (*places.hidden, _TEMPORARY, "/dev", *_KERNEL)]
    # User code may see everything in a container.
    system = ["/"] if os.getpid() == 1 else _SYSTEM
    rules = {path: landlock.RUN for root in system for path in _list_around(os.path.realpath(root), hidden)}
    rules.update(dict.fromkeys(_list_interpreter(), landlock.RUN))
    rules.update(dict.fromkeys([*places.readable, *_list_named(env)], landlock.RUN))
    rules.update(dict.fromkeys(_KERNEL, landlock.READ))
    devices = (path for pattern in _DEVICES for path in glob.glob(os.path.join("/dev", pattern)))
    rules.update(dict.fromkeys(devices, landlock.USE))
    rules[SHARED_MEMORY] = landlock.SHARE
    rules.update(dict.fromkeys(places.writable, landlock.OWN))
    return rules


def _list_around(path: str, hidden: Sequence[str]) -> Iterator[str]:
    """List the parts of a directory that contain nothing hidden, each as large as it can be."""
    if path in hidden:
        return
    if not any(other.startswith(path.rstrip("/") + "/") for other in hidden):
        yield path
        return
    try:
        names = os.listdir(path)
    except OSError:
        return
    for name in names:
        inner = os.path.join(path, name)
        if not os.path.islink(inner):  # the target of the link has its own rule, or none
            yield from _list_around(inner, hidden)


def _list_interpreter() -> List[str]:
    """List the interpreter's directories, and directories outside of the venv that files of the venv name."""
    binary = os.path.dirname(sys.executable)
    roots = {os.path.dirname(binary), os.path.dirname(os.path.realpath(sys.executable))}
    roots |= {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    site_packages = glob.glob(os.path.join(os.path.dirname(binary), "lib", "python*", "site-packages"))
    return [*sorted(roots), *(path for site in site_packages for path in _list_linked(site))]


def _list_linked(site: str) -> Iterator[str]:
    """List the source directories of packages in editable form, without running code of the packages."""
    for path in glob.glob(os.path.join(glob.escape(site), "*.pth")):
        for line in _read(path).splitlines():
            if line.startswith("/"):
                yield line.strip()
    for path in glob.glob(os.path.join(glob.escape(site), "*.dist-info", "direct_url.json")):
        try:
            url = json.loads(_read(path))
            if url["dir_info"]["editable"] is True and url["url"].startswith("file:///"):
                from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - few environments have such a package

                yield unquote(urlsplit(url["url"]).path)
        except (ValueError, TypeError, LookupError, AttributeError):
            continue


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""


def _list_named(env: Mapping[str, str]) -> Iterator[str]:
    for name in _PATH_VARIABLES:
        for path in env.get(name, "").split(os.pathsep):
            if path.startswith("/"):
                yield path
