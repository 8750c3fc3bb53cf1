"""The data of a figure of matplotlib, for programs and models."""

from __future__ import annotations

import sys
from functools import wraps
from math import isfinite
from typing import Any, Dict, Iterable, List, Optional

Chart = Dict[str, Any]

MOST_POINTS = 5000
"""The most points of one element. An element with more keeps the first ones, and says how many there are."""
_BOXES = "_venvd_boxes"
_QUARTILES = {"q1": "firstQuartile", "med": "median", "q3": "thirdQuartile", "whislo": "low", "whishi": "high"}


def describe(figure: Any) -> Optional[Chart]:
    """Return title, axes and elements of a drawn figure: a chart, or a `figure` with several of them.

    Returns None if nothing in it is a line, points, bars, a pie or boxes.
    """
    try:
        with_elements = [chart for chart in map(_describe_axes, figure.axes) if chart["elements"]]
        title = getattr(figure, "_suptitle", None)
        if len(with_elements) < 2:
            return with_elements[0] if with_elements else None
        return {"type": "figure", "title": None if title is None else title.get_text(), "charts": with_elements}
    except Exception:  # noqa: BLE001 - the picture is there; a figure may hold anything
        return None


def keep_boxes(pyplot: Any) -> None:
    """Make `boxplot` store its numbers in the axes, because a drawn box consists only of lines."""
    axes = pyplot.Axes
    draw = axes.bxp

    @wraps(draw)
    def bxp(self: Any, bxpstats: Any, *args: Any, **kwargs: Any) -> Any:
        stats = list(bxpstats)
        artists = draw(self, stats, *args, **kwargs)
        lines = [line for group in artists.values() for line in group]
        setattr(self, _BOXES, [*getattr(self, _BOXES, []), (stats, lines)])
        return artists

    axes.bxp = bxp


def _describe_axes(axes: Any) -> Chart:
    elements = [*_find_pie(axes), *_find_boxes(axes), *_find_bars(axes), *_find_lines(axes), *_find_points(axes)]
    kinds = {element["type"] for element in elements}
    return {
        "type": kinds.pop() if len(kinds) == 1 else "mixed",
        "title": axes.get_title() or None,
        "xAxis": {"label": axes.get_xlabel() or None, "scale": axes.get_xscale()},
        "yAxis": {"label": axes.get_ylabel() or None, "scale": axes.get_yscale()},
        "elements": elements,
    }


def _find_lines(axes: Any) -> Iterable[Chart]:
    boxes = {id(line) for _, lines in getattr(axes, _BOXES, []) for line in lines}
    for line in axes.lines:
        if id(line) in boxes:
            continue
        kind = "scatter" if line.get_linestyle() in {"None", "none", "", " "} else "line"
        xs, ys = line.get_data(orig=False)
        yield _element(kind, line, [[_name(axes.xaxis, x), _name(axes.yaxis, y)] for x, y in _pairs(xs, ys)], len(xs))


def _find_points(axes: Any) -> Iterable[Chart]:
    for collection in axes.collections:
        if type(collection).__name__ == "PathCollection":
            offsets = collection.get_offsets()
            points = [[_name(axes.xaxis, x), _name(axes.yaxis, y)] for x, y in offsets[:MOST_POINTS].tolist()]
            yield _element("scatter", collection, points, len(offsets))


def _find_bars(axes: Any) -> Iterable[Chart]:
    for container in axes.containers:
        if type(container).__name__ != "BarContainer":
            continue
        lies = getattr(container, "orientation", None) == "horizontal"
        axis = axes.yaxis if lies else axes.xaxis
        points = []
        for bar in container.patches[:MOST_POINTS]:
            center = bar.get_y() + bar.get_height() / 2 if lies else bar.get_x() + bar.get_width() / 2
            points.append([_name(axis, center), _number(bar.get_width() if lies else bar.get_height())])
        yield {**_element("bar", container, points, len(container.patches)), "horizontal": lies}


def _find_pie(axes: Any) -> Iterable[Chart]:
    wedges = [patch for patch in axes.patches if type(patch).__name__ == "Wedge"]
    if wedges:
        whole = sum(wedge.theta2 - wedge.theta1 for wedge in wedges) or 1.0
        points = [[wedge.get_label(), _number((wedge.theta2 - wedge.theta1) / whole)] for wedge in wedges]
        yield {"type": "pie", "label": None, "points": points[:MOST_POINTS], "size": len(wedges)}


def _find_boxes(axes: Any) -> Iterable[Chart]:
    for stats, _ in getattr(axes, _BOXES, []):
        for box in stats[:MOST_POINTS]:
            outliers = list(box.get("fliers", ()))
            numbers = {name: _number(box[key]) for key, name in _QUARTILES.items()}
            shown = [_number(value) for value in outliers[:MOST_POINTS]]
            yield {"type": "box", "label": _text(box.get("label")), **numbers, "outliers": shown}


def _element(kind: str, artist: Any, points: List[Any], size: int) -> Chart:
    return {"type": kind, "label": _text(artist.get_label()), "points": points, "size": size}


def _pairs(xs: Any, ys: Any) -> Iterable[Any]:
    return zip(xs[:MOST_POINTS], ys[:MOST_POINTS])  # noqa: B905 - CPython 3.9 has no `strict`


def _text(label: Any) -> Optional[str]:
    text = "" if label is None else str(label)
    return None if not text or text.startswith("_") else text


def _name(axis: Any, value: Any) -> Any:
    """Return what a number on an axis stands for: a category, the text of a tick there, a time, or the number."""
    number = _number(value)
    if number is None:
        return None
    dates = sys.modules.get("matplotlib.dates")
    if dates is not None and isinstance(
        axis.get_major_formatter(), (dates.AutoDateFormatter, dates.ConciseDateFormatter)
    ):
        return dates.num2date(number).replace(tzinfo=None).isoformat()
    formatter = type(axis.get_major_formatter()).__name__
    if formatter in {"StrCategoryFormatter", "FixedFormatter", "FuncFormatter"}:
        for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels()):  # noqa: B905 - as above
            if abs(place - number) < 1e-9 and label.get_text():
                return label.get_text()
    return number


def _number(value: Any) -> Optional[float]:
    number = float(value)
    if not isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number
