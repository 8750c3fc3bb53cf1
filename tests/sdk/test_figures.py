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


CHARTS = """
import datetime
import matplotlib.pyplot as plt

figure, axes = plt.subplots(2, 3)
figure.suptitle("all")
lines, points, bars, pie, boxes, days = axes.flat
lines.plot([1, 2, 3], [1.5, float("nan"), 3], label="up")
lines.set(title="Lines", xlabel="x", ylabel="y", yscale="log")
points.scatter([1, 2], [3, 4], label="cloud")
points.plot([1, 2], [3, 4])
bars.bar(["a", "b"], [3, 4])
pie.pie([1, 3], labels=["small", "large"])
boxes.boxplot([[1, 2, 3, 4, 100], [5, 6, 7]])
days.plot([datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 2)], [0, 1])
plt.show()
plt.barh([0, 1], [5, 6])
plt.yticks([0, 1], ["low", "high"])
plt.show()
plt.plot(range(6000))
"""


def test_a_figure_has_its_data(stacks: SharedStacks) -> None:
    """Beside the picture are title, axes and elements of the chart, and of each chart of several."""
    running = stacks.backend(stacks.stack("local", "matplotlib"), "pipe")
    with venvd.connect(running.url, token=running.token) as backend, backend.sessions.create() as session:
        whole, single, long = [item["application/vnd.venvd.chart+json"] for item in session.exec(CHARTS).display]
    assert (whole["type"], whole["title"]) == ("figure", "all")
    lines, points, bars, pie, boxes, days = whole["charts"]
    assert lines == {
        "type": "line",
        "title": "Lines",
        "xAxis": {"label": "x", "scale": "linear"},
        "yAxis": {"label": "y", "scale": "log"},
        "elements": [{"type": "line", "label": "up", "points": [[1, 1.5], [2, None], [3, 3]], "size": 3}],
    }
    assert points["type"] == "mixed"
    assert [(one["type"], one["label"], one["points"]) for one in points["elements"]] == [
        ("line", None, [[1, 3], [2, 4]]),
        ("scatter", "cloud", [[1, 3], [2, 4]]),
    ]
    (bar,) = bars["elements"]
    assert (bar["points"], bar["horizontal"]) == ([["a", 3], ["b", 4]], False)
    ((small, share), (large, rest)) = pie["elements"][0]["points"]
    assert (small, round(share, 3), large, round(rest, 3)) == ("small", 0.25, "large", 0.75)
    assert [box["median"] for box in boxes["elements"]] == [3, 6]
    assert (boxes["type"], boxes["elements"][0]["outliers"]) == ("box", [100])
    assert days["elements"][0]["points"] == [["2024-01-01T00:00:00", 0], ["2024-01-02T00:00:00", 1]]
    assert single["elements"][0]["points"] == [["low", 5], ["high", 6]]
    assert (single["elements"][0]["horizontal"], single["title"]) == (True, None)
    assert (len(long["elements"][0]["points"]), long["elements"][0]["size"]) == (5000, 6000)
