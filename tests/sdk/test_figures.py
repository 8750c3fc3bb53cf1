"""Figures of matplotlib in the output of code."""

from __future__ import annotations

import base64

from harness.stack import SharedStacks

import venvd

TWO_PLOTS = """
import matplotlib.pyplot as plt
print("before")
plt.plot([1, 2])
plt.show()
print("between")
plt.plot([2, 1])
axes = len(plt.gca().lines)
plt.show()
print("after", axes)
"""


def test_a_figure_stands_where_show_was_called(stacks: SharedStacks) -> None:
    """Each `show()` gives one picture with its own curves, between the output before and after it."""
    running = stacks.backend(stacks.stack("local", "matplotlib"), "pipe")
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        events = [(event.kind, event.data) for event in session.exec_stream(TWO_PLOTS)]
        assert [kind for kind, _ in events] == ["stdout", "display", "stdout", "display", "stdout", "result"]
        assert events[-2][1] == "after 1\n"
        assert all("image/png" in data for kind, data in events if kind == "display")
        left_open = session.exec("plt.plot([3, 3])\nNone")
        assert len(left_open.display) == 1


IMAGE = """
from PIL import Image
print("before")
Image.new("RGB", (2, 3), "red").show()
print("after")
"""


def test_an_image_stands_where_show_was_called(stacks: SharedStacks) -> None:
    """Pillow's `image.show()` shows the image in its place among the output."""
    running = stacks.backend(stacks.stack("local", "matplotlib"), "pipe")
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        events = list(session.exec_stream(IMAGE))
        assert [event.kind for event in events] == ["stdout", "display", "stdout", "result"]
        assert base64.b64decode(events[1].data["image/png"]).startswith(b"\x89PNG")
