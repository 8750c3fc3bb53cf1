"""The command line of the warden."""

from __future__ import annotations

import argparse
import os
from typing import List

from venvd_worker.common import directories
from venvd_worker.common.walls import Places, plan
from venvd_worker.warden.environment import take_worker_env
from venvd_worker.warden.launcher import Settings
from venvd_worker.warden.warden import Warden
from venvd_worker.warden.zygote_process import ZygoteSettings

_PLACES = {
    "--hide": "a place that is hidden from user code; repeatable",
    "--read": "a place that user code may read; repeatable",
    "--write": "a place that user code may change; repeatable",
}


def run_warden(archive: str, arguments: List[str]) -> None:
    """Run the warden until a signal ends it."""
    parser = argparse.ArgumentParser(prog="warden", description="the first process of a worker host")
    parser.add_argument("--channel", required=True, help="directory in which the server listens")
    parser.add_argument("--work-dir", help="directory for the directories of sessions; default: a new temporary one")
    clear = "a directory that is emptied before anything starts, since an earlier worker host had it; repeatable"
    parser.add_argument("--clear", action="append", default=[], metavar="PATH", help=clear)
    parser.add_argument("--site", help="directory of installed packages, where the interpreter does not know it")
    preload = "a module that the zygote imports; repeatable"
    parser.add_argument("--preload", action="append", default=[], metavar="MODULE", help=preload)
    timeout = "how long the import of all of them may take"
    parser.add_argument("--preload-timeout", type=float, default=30.0, metavar="SECONDS", help=timeout)
    parser.add_argument("--spares", type=int, default=2, metavar="N", help="forks that wait to become sessions")
    parser.add_argument("--no-zygote", action="store_true", help="start a new interpreter for each session")
    parser.add_argument("--no-network", action="store_true", help="let user code make no network sockets")
    wait = "how long a stop signal lets a connected server finish its calls; a second signal ends the wait"
    parser.add_argument("--stop-wait", type=float, default=0.0, metavar="SECONDS", help=wait)
    proxy = "port of loopback that leads to the egress broker; default: none"
    parser.add_argument("--proxy-port", type=int, default=0, metavar="PORT", help=proxy)
    for name, what in _PLACES.items():
        parser.add_argument(name, action="append", default=[], metavar="PATH", help=what)
    chosen = parser.parse_args(arguments)
    for path in chosen.clear:
        directories.clear(path)
    work_dir = chosen.work_dir or _make_work_dir()
    os.makedirs(work_dir, mode=0o700, exist_ok=True)
    archive = os.path.abspath(archive)
    hidden = [chosen.channel, work_dir, *chosen.hide]
    readable = [archive, *chosen.read, *([chosen.site] if chosen.site else [])]
    env = take_worker_env()
    walls = plan(Places(hidden, readable, chosen.write), {**os.environ, **env}, network=not chosen.no_network)
    settings = Settings(
        channel=os.path.abspath(chosen.channel),
        work_dir=os.path.abspath(work_dir),
        version=os.path.splitext(os.path.basename(archive))[0].rpartition("-")[2],
        site=chosen.site and os.path.abspath(chosen.site),
        env=env,
        stop_wait=chosen.stop_wait,
        proxy_port=chosen.proxy_port,
    )
    zygote = ZygoteSettings(
        work_dir=settings.work_dir,
        site=settings.site,
        env=settings.env,
        preload=chosen.preload,
        timeout=chosen.preload_timeout,
        spares=None if chosen.no_zygote else max(0, chosen.spares),
    )
    Warden(settings, zygote, walls, archive).run()


def _make_work_dir() -> str:
    import tempfile  # noqa: PLC0415 - with what it imports, a fifth of the warden's start

    return tempfile.mkdtemp(prefix="venvd-work-")
