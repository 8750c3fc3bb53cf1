"""What PromQL expressions ask for: names of metrics, and what their labels must be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from harness.prometheus import MONITORING

_VARIABLES = {"$__rate_interval": "10s", "$backend": ".*", "$venv": ".*"}
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_CLAUSE = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\[[^\]]*\]")
"""Lists of labels, and ranges."""
_NO_NAME = re.compile(r"\b(?:and|or|unless|bool|offset)\b|\b\d[\w.]*|\w+\s*(?=\()")
"""Keywords, numbers and durations, functions."""
_SELECTOR = re.compile(r"([A-Za-z_:][\w:]*)\s*(\{[^}]*\})?")


@dataclass(frozen=True)
class Selector:
    """A metric, and what is asked of its labels: name, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> list[Selector]:
    """Every selector of an expression."""
    bare = _NO_NAME.sub(" ", _CLAUSE.sub(" ", expression))
    return [
        Selector(name, tuple((label, how, value) for label, how, value in _MATCHER.findall(matchers)))
        for name, matchers in _SELECTOR.findall(bare)
    ]


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return content


def panels() -> Iterator[dict[str, Any]]:
    """The panels that show something."""
    return (panel for panel in dashboard()["panels"] if panel["type"] != "row")


def panel_expressions() -> dict[str, str]:
    """What each panel asks, its variables filled in, by title and letter."""
    expressions = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in _VARIABLES.items():
                expression = expression.replace(variable, value)
            expressions[f"{panel['title']} {target['refId']}"] = expression
    return expressions


def rules() -> dict[str, dict[str, Any]]:
    """The alert rules by name."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def all_expressions() -> dict[str, str]:
    return {**panel_expressions(), **{name: rule["expr"] for name, rule in rules().items()}}
