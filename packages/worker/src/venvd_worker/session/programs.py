"""Compile what a client sends: statements, a last expression for the value, and names that only one run sees."""

from __future__ import annotations
import __future__

import ast
import keyword
from types import CodeType
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

from venvd_contract.errors import InvalidRequest
from venvd_worker.session import cells

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_ANNOTATIONS = __future__.annotations.compiler_flag
_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`, without the import of inspect."""
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


class Program(NamedTuple):
    """Compiled code.

    Attributes:
        body: the statements before the last expression; None without any.
        last: the last expression; None if the last statement is not an expression.
        function: replaces `body` and `last` if the code has its own names. It takes their values by position.
        awaits: whether the code must run on an event loop.
        states: whether the body has statements that `definitions` would keep.
        plain: whether the code is one expression without `await`.
    """

    name: str
    source: str
    body: Optional[CodeType] = None
    last: Optional[CodeType] = None
    function: Optional[CodeType] = None
    awaits: bool = False
    states: bool = False
    plain: bool = False

    @property
    def defines(self) -> bool:
        """Whether the code defines functions or classes. They may outlive the run and refer to the source."""
        codes = (self.body, self.last, self.function)
        return any(type(constant) is CodeType for code in codes if code for constant in code.co_consts)


def build(source: str, name: str, names: Sequence[str] = ()) -> Program:
    """Compile `source`. Only this run sees the variables in `names`.

    Raises:
        InvalidRequest: one of `names` is not a name of a variable.
        SyntaxError, ValueError: Python cannot compile the source.
    """
    if not names:
        code = _compile_expression(source, name)
        if code is not None:
            return Program(name, source, last=code, plain=True)
    statements = _parse(source, name).body
    expression = statements.pop() if statements and isinstance(statements[-1], ast.Expr) else None
    body = _compile(ast.Module(statements, []), name, "exec") if statements else None
    inherited = body.co_flags & _ANNOTATIONS if body else 0
    last = _compile(ast.Expression(expression.value), name, "eval", inherited) if expression else None
    awaits = any(is_coroutine(code) for code in (body, last) if code)
    if names:
        function = _compile_function(statements, expression, names, name, awaits, inherited)
        return Program(name, source, function=function, awaits=awaits)
    plain = body is None and last is not None and not awaits
    return Program(name, source, body, last, awaits=awaits, states=any(map(_states, statements)), plain=plain)


def _compile_expression(source: str, name: str) -> Optional[CodeType]:
    """Compile code that is one plain expression, in half the time that a tree takes. Return None for other code."""
    if "\n" in source:
        return None
    try:
        code = _compile(source, name, "eval")
    except SyntaxError:
        return None
    return None if is_coroutine(code) else code


def is_coroutine(code: CodeType) -> bool:
    return bool(code.co_flags & _COROUTINE)


def definitions(source: str, name: str) -> CodeType:
    """Compile only those statements of a source that define names: functions, classes, imports, constants."""
    tree = _parse(source, name)
    return _compile(ast.Module([node for node in tree.body if _states(node)], []), name, "exec")


def _parse(source: str, name: str) -> Any:
    """Parse code. It may be indented as a whole, or be a cell of a notebook."""
    source, timed = cells.take_timer(source)
    while True:
        try:
            tree: Any = compile(source, name, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
        except SyntaxError as error:
            code = cells.rewrite(source, error)
            if code is None:
                raise
            source = code
        else:
            tree.body = cells.add_timer(tree.body) if timed else tree.body
            return ast.fix_missing_locations(tree) if timed else tree


def _compile(tree: Any, name: str, mode: str, flags: int = 0) -> CodeType:
    code: CodeType = compile(tree, name, mode, _FLAGS | flags, dont_inherit=True)
    return code


# ---- names that only one run sees ------------------------------------------------------------------------------


def _compile_function(
    statements: List[Any], expression: Optional[ast.Expr], names: Sequence[str], name: str, awaits: bool, flags: int
) -> CodeType:
    """Compile the code as a function with `names` as its parameters, so that lambdas and comprehensions see them.

    The function declares every other name that the code binds as global.
    """
    for parameter in names:
        if not parameter.isidentifier() or keyword.iskeyword(parameter):
            raise InvalidRequest('"{}" in "locals" is no name of a variable'.format(parameter[:80]))
    body: List[ast.stmt] = [] if expression is None else [ast.copy_location(ast.Return(expression.value), expression)]
    global_names = sorted(_find_bound_names([*statements, *body]) - set(names))
    remover = _AnnotationRemover(global_names)
    body = [remover.visit(statement) for statement in statements] + body
    future_imports = [body.pop(0) for _ in range(_count_leading_futures(body))]
    if global_names:
        body.insert(0, ast.Global(global_names))
    parameters = ast.arguments([], [ast.arg(parameter) for parameter in names], None, [], [], None, [])
    node_type: Any = ast.AsyncFunctionDef if awaits else ast.FunctionDef
    function = node_type(name="run", args=parameters, body=body or [ast.Pass()], decorator_list=[], type_params=[])
    module = ast.fix_missing_locations(ast.Module([*future_imports, function], []))
    module_code = _compile(module, name, "exec", flags)
    code = next(constant for constant in module_code.co_consts if type(constant) is CodeType)
    changes: Dict[str, Any] = {"co_qualname": "<module>"} if hasattr(code, "co_qualname") else {}
    return code.replace(co_name="<module>", **changes)


def _count_leading_futures(body: Sequence[ast.stmt]) -> int:
    count = 0
    while count < len(body) and getattr(body[count], "module", None) == "__future__":
        count += 1
    return count


def _find_bound_names(nodes: Iterable[Any]) -> Set[str]:
    """Return the names that statements bind in their own scope."""
    names: Set[str] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if isinstance(node, _SCOPES):
            names.update([node.name] if hasattr(node, "name") else [])
        elif isinstance(node, _COMPREHENSIONS):
            names.update(inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
        else:
            names.update(_list_own_names(node))
            pending.extend(ast.iter_child_nodes(node))
    return names


def _list_own_names(node: Any) -> List[str]:
    """Return the names that a node itself binds, without those that its children bind."""
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, ast.alias):
        return [node.asname or node.name.partition(".")[0]]
    # an except clause, or a part of a match statement
    names = (getattr(node, "name", None), getattr(node, "rest", None))
    return [name for name in names if type(name) is str]


class _AnnotationRemover(ast.NodeTransformer):
    """Turns `x: int = 1` into `x = 1` for global names, because Python forbids annotations of global names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)

    def visit(self, node: Any) -> Any:
        return node if isinstance(node, _SCOPES) else super().visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if not isinstance(node.target, ast.Name) or node.target.id not in self._names:
            return node
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], node.value), node)


# ---- definitions -----------------------------------------------------------------------------------------------


def _states(node: Any) -> bool:
    """Return whether a statement defines a name and does nothing else."""
    if not isinstance(node, ast.Assign):
        return isinstance(node, _DEFINITIONS)
    literal_types = (ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.unaryop, ast.expr_context)
    return all(isinstance(inner, literal_types) for inner in ast.walk(node.value))
