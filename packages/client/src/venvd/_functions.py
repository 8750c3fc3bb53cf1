"""The source of a local function or lambda, as an expression that makes it in a session."""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

_FunctionNode = ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef


class NoSourceError(Exception):
    """The client cannot send the source of the function. The message says why."""


def make_source(function: FunctionType) -> tuple[str, dict[str, Any]]:
    """Return an expression, and the values of the names that it takes as parameters.

    The value of the expression is a maker: it takes those values and returns the function. Names that this program
    lacks come from the session's `__main__`.

    Raises:
        NoSourceError: the source is not known, or the function is decorated.
    """
    node = _find_node(function)
    values = _replace_defaults(node, function)
    code = function.__code__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=False))
    for name in sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - set(code.co_varnames)):
        if name in cells:
            try:
                values[name] = cells[name].cell_contents
            except ValueError:
                raise NoSourceError(f'its variable "{name}" has no value yet') from None
        elif name in function.__globals__ and not hasattr(builtins, name):
            values[name] = function.__globals__[name]
    own_name = getattr(node, "name", None)
    if values.get(own_name or "") is function:
        del values[own_name or ""]
    parameters = ", ".join(values)
    if isinstance(node, ast.Lambda):
        return f"lambda {parameters}: ({ast.unparse(node)})", values
    body = "\n".join("  " + line for line in ast.unparse(node).splitlines())
    maker = f"def make({parameters}):\n{body}\n  return {own_name}"
    return f"(lambda names: (exec({maker!r}, globals(), names), names['make'])[1])({{}})", values


def _find_node(function: FunctionType) -> _FunctionNode:
    code = function.__code__
    try:
        lines = linecache.getlines(inspect.getsourcefile(function) or code.co_filename, function.__globals__)
        tree = ast.parse("".join(lines))
    except (TypeError, SyntaxError, ValueError, RecursionError):
        lines = []
        tree = ast.Module([], [])
    nodes = list(_find_candidates(tree, code))
    if not lines or not nodes:
        raise NoSourceError("its source is not known")
    node = min(nodes, key=lambda one: (one.end_lineno or 0) - one.lineno) if len(nodes) > 1 else nodes[0]
    if isinstance(node, ast.Lambda) and len(nodes) > 1:
        node = min(nodes, key=lambda one: len(ast.dump(one)))
    if getattr(node, "decorator_list", None):
        raise NoSourceError("it is decorated")
    return node


def _find_candidates(tree: ast.AST, code: CodeType) -> Iterator[_FunctionNode]:
    places = [place for place in _list_places(code) if place[1] != place[3] or place[0] != place[2]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Lambda) and code.co_name == "<lambda>":
            body = node.body
            begin, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
            if node.lineno == code.co_firstlineno and all(
                begin <= place[:2] and (place[2], place[3]) <= end for place in places
            ):
                yield node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                yield node


def _list_places(code: CodeType) -> Iterator[tuple[int, int, int, int]]:
    """Yield the place of each instruction: the line and column of its begin and of its end."""
    for line, end_line, column, end_column in code.co_positions():
        if line is not None and end_line is not None and column is not None and end_column is not None:
            yield line, column, end_line, end_column


def _replace_defaults(node: _FunctionNode, function: FunctionType) -> dict[str, Any]:
    """Make the defaults, which this program has evaluated, parameters of the source. Drop annotations."""
    values: dict[str, Any] = {}

    def name(value: Any) -> ast.expr:
        parameter = f"_default_{len(values)}"
        values[parameter] = value
        return ast.Name(parameter, ast.Load())

    arguments = node.args
    arguments.defaults = [name(value) for value in function.__defaults__ or ()]
    keywords = function.__kwdefaults__ or {}
    arguments.kw_defaults = [name(keywords[one.arg]) if one.arg in keywords else None for one in arguments.kwonlyargs]
    for one in ast.walk(arguments):
        if isinstance(one, ast.arg):
            one.annotation = None
    if not isinstance(node, ast.Lambda):
        node.returns = None
    return values
