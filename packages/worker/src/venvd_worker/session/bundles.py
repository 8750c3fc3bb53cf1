"""Rich results: the MIME bundle of an object, and the figures that pyplot has open."""

from __future__ import annotations

import sys
from binascii import b2a_base64
from io import BytesIO
from typing import Any, Dict, Iterator, Optional

from venvd_contract.displays import CHART
from venvd_contract.values import NotPlain, PlainEncoder
from venvd_worker.session import charts
from venvd_worker.session.reprs import make_repr

_METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_latex_": "text/latex",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_pdf_": "application/pdf",
    "_repr_json_": "application/json",
    "_repr_javascript_": "application/javascript",
}
_encode_value = PlainEncoder().encode


def rich_bundle(value: Any) -> Optional[Dict[str, Any]]:
    """Return the MIME bundle of an object that has more to show than its repr. Return None for any other object.

    Binary formats are base64.
    """
    formats = _figure(value) or {**_from_methods(value), **_from_mimebundle(value)}
    if not formats:
        return None
    formats.setdefault("text/plain", make_repr(value))
    return formats


def bundle(value: Any) -> Dict[str, Any]:
    """Return the MIME bundle of any object. It contains at least the repr."""
    return rich_bundle(value) or {"text/plain": make_repr(value)}


def open_figures() -> Iterator[Dict[str, Any]]:
    """Yield a bundle for each figure that pyplot has open. Close each figure after its bundle.

    Yields nothing if pyplot is not imported.
    """
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    for number in list(pyplot.get_fignums()):
        figure = pyplot.figure(number)
        yield _png(figure)
        pyplot.close(figure)


def _figure(value: Any) -> Optional[Dict[str, Any]]:
    module = sys.modules.get("matplotlib.figure")
    if module is None or not isinstance(value, module.Figure):
        return None
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None and value in map(pyplot.figure, pyplot.get_fignums()):
        return None  # `open_figures` shows it
    return _png(value)


def _png(figure: Any) -> Dict[str, Any]:
    data = BytesIO()
    figure.savefig(data, format="png", bbox_inches="tight")
    bundle = {"image/png": _base64(data.getvalue()), "text/plain": make_repr(figure)}
    chart = charts.describe(figure)
    return bundle if chart is None else {**bundle, CHART: chart}


def _from_methods(value: Any) -> Dict[str, Any]:
    formats = {}
    for name, mime in _METHODS.items():
        # This looks at the class, because some objects have an attribute of every name.
        method = getattr(type(value), name, None)
        if callable(method):
            data = method(value)
            data = data[0] if type(data) is tuple and data else data  # drops the metadata
            if data is not None:
                formats[mime] = data
    return encode(formats)


def _from_mimebundle(value: Any) -> Dict[str, Any]:
    method = getattr(type(value), "_repr_mimebundle_", None)
    if not callable(method):
        return {}
    data = method(value, include=None, exclude=None)
    data = data[0] if type(data) is tuple and data else data
    return encode(data) if isinstance(data, dict) else {}


def encode(formats: Dict[Any, Any]) -> Dict[str, Any]:
    """Encode the data of each format. Leave out formats whose data JSON cannot carry."""
    encoded = {}
    for mime, data in formats.items():
        try:
            encoded[str(mime)] = _base64(data) if isinstance(data, bytes) else _encode_value(data)
        except NotPlain:
            continue
    return encoded


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode("ascii")
