"""A camera publishes frames in an arena, and a viewer in another process checks that each is whole.

The camera never waits for the viewer, which may miss frames; but none changes while the viewer has it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import shmclient
import shmhost

FRAMES = 500
SHAPE = (480, 640)


def film(shm: shmclient.Client, viewer: subprocess.Popen[str]) -> None:
    """Publish frames until the viewer ends."""
    with shm.arena("camera", size=64 << 20) as camera:
        number = 0
        while viewer.poll() is None:
            with camera.loan("front", SHAPE, "u4") as pixels:  # filled where it will be read
                pixels[:] = number
            number += 1


def view() -> None:
    """Look at each new frame, as long as there are some."""
    with shmclient.connect() as shm:
        newest = -1
        for count, frame in enumerate(shm.follow("camera/front"), 1):
            number = int(frame[0, 0])
            assert number > newest
            assert (frame == number).all()  # whole, although the camera goes on meanwhile
            newest = number
            if count == FRAMES:
                break
        print(f"{FRAMES} frames are whole, and each is newer than the one before")


def main() -> None:
    """Start the viewer, and film until it has seen enough."""
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        environment = os.environ | {"SHMHOST_SOCKET": host.socket_path}
        command = [sys.executable, *(f"-W{text}" for text in sys.warnoptions), __file__, "view"]
        with subprocess.Popen(command, env=environment, text=True) as viewer:
            film(shm, viewer)
        if viewer.returncode:
            sys.exit(viewer.returncode)


if __name__ == "__main__":
    view() if sys.argv[1:] == ["view"] else main()
