"""Starts the controller in its container, never as root.

If .env does not name the group of the Docker socket, compose.yaml starts the container as root, with the two
capabilities that a change of user needs. This program then reads the group from the socket, gives up root for good,
and executes the controller. Started as another user, it only executes the controller.
"""

import os
import sys

USER, GROUP = 10003, 10000
SOCKET = "/var/run/docker.sock"


def drop_root() -> None:
    groups = [GROUP]
    if os.path.exists(SOCKET):
        groups.append(os.stat(SOCKET).st_gid)
    os.setgroups(groups)
    os.setgid(GROUP)
    os.setuid(USER)


if __name__ == "__main__":
    if os.getuid() == 0:
        drop_root()
    os.execv(sys.executable, [sys.executable, "-I", "-u", "-B", "-m", "venvd_controller", *sys.argv[1:]])
