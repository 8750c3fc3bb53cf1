"""Starts the controller in its container, never as root.

The container of compose.yaml starts as root if the group of the Docker socket is unknown, with the two
capabilities that are needed to become someone else: here the group is read off the socket, root is given up for good,
and the controller takes the process over. Started as another user, it does the last of these only.
"""

import os
import sys

USER, GROUP = 10003, 10000
SOCKET = "/var/run/docker.sock"


def give_up_root() -> None:
    groups = [GROUP]
    if os.path.exists(SOCKET):
        groups.append(os.stat(SOCKET).st_gid)
    os.setgroups(groups)
    os.setgid(GROUP)
    os.setuid(USER)


if __name__ == "__main__":
    if os.getuid() == 0:
        give_up_root()
    os.execv(sys.executable, [sys.executable, "-I", "-u", "-B", "-m", "venvd_controller", *sys.argv[1:]])
