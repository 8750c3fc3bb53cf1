"""Compiling what a client sends: any number of statements, the last expression's value, names that only it sees."""

from __future__ import annotations
import __future__

import ast
import keyword
from types import CodeType
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

from venvd_contract.errors import InvalidRequest

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_ANNOTATIONS = __future__.annotations.compiler_flag
_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`, without importing inspect."""
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


class Program(NamedTuple):
    """Compiled code.

    Attributes:
        body: what comes before the last expression; None where nothing does.
        last: the last expression; None where the last statement is none.
        function: instead of both, where the code sees names of its own: takes them as parameters, by position.
        awaits: whether it must run on an event loop.
        plain: whether it is nothing but an expression that awaits nothing.
        states: whether the body holds definitions that `definitions` would find.
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
        """Whether something that was made by it can outlive its run and refer to its text."""
        codes = (self.body, self.last, self.function)
        return any(type(constant) is CodeType for code in codes if code for constant in code.co_consts)


def build(source: str, name: str, names: Sequence[str] = ()) -> Program:
    """Compile `source`; `names` are those that only this run sees.

    Raises:
        InvalidRequest: one of `names` is no name.
        SyntaxError, ValueError: the source cannot be compiled.
    """
    tree = compile(source, name, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    statements = tree.body
    expression = statements.pop() if statements and isinstance(statements[-1], ast.Expr) else None
    body = _compile(ast.Module(statements, []), name, "exec") if statements else None
    inherited = body.co_flags & _ANNOTATIONS if body else 0
    last = _compile(ast.Expression(expression.value), name, "eval", inherited) if expression else None
    awaits = any(is_coroutine(code) for code in (body, last) if code)
    if names:
        function = _function(statements, expression, names, name, awaits, inherited)
        return Program(name, source, function=function, awaits=awaits)
    plain = body is None and last is not None and not awaits
    return Program(name, source, body, last, awaits=awaits, states=any(map(_states, statements)), plain=plain)


def is_coroutine(code: CodeType) -> bool:
    return bool(code.co_flags & _COROUTINE)


def definitions(source: str, name: str) -> CodeType:
    """Of a source that was built before only what defines names: functions, classes, imports, constants."""
    tree = compile(source, name, "exec", _FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    return _compile(ast.Module([node for node in tree.body if _states(node)], []), name, "exec")


def _compile(tree: Any, name: str, mode: str, flags: int = 0) -> CodeType:
    found: CodeType = compile(tree, name, mode, _FLAGS | flags, dont_inherit=True)
    return found


# ---- names that only one run sees ------------------------------------------------------------------------------


def _function(
    statements: List[Any], expression: Optional[ast.Expr], names: Sequence[str], name: str, awaits: bool, flags: int
) -> CodeType:
    """The code as a function of `names`: so lambdas and comprehensions see them as they see any other variable.

    What else the code binds is declared global, as it would be without them.
    """
    for one in names:
        if not one.isidentifier() or keyword.iskeyword(one):
            raise InvalidRequest('"{}" in "locals" is no name of a variable'.format(one[:80]))
    body: List[ast.stmt] = [] if expression is None else [ast.copy_location(ast.Return(expression.value), expression)]
    bound = sorted(_bound([*statements, *body]) - set(names))
    plain = _WithoutAnnotations(bound)
    body = [plain.visit(statement) for statement in statements] + body
    futures = [body.pop(0) for _ in range(_leading_futures(body))]
    if bound:
        body.insert(0, ast.Global(bound))
    parameters = ast.arguments([], [ast.arg(one) for one in names], None, [], [], None, [])
    kind: Any = ast.AsyncFunctionDef if awaits else ast.FunctionDef
    made = kind(name="run", args=parameters, body=body or [ast.Pass()], decorator_list=[], type_params=[])
    module = ast.fix_missing_locations(ast.Module([*futures, made], []))
    outer = _compile(module, name, "exec", flags)
    code = next(constant for constant in outer.co_consts if type(constant) is CodeType)
    changes: Dict[str, Any] = {"co_qualname": "<module>"} if hasattr(code, "co_qualname") else {}
    return code.replace(co_name="<module>", **changes)


def _leading_futures(body: Sequence[ast.stmt]) -> int:
    count = 0
    while count < len(body) and getattr(body[count], "module", None) == "__future__":
        count += 1
    return count


def _bound(nodes: Iterable[Any]) -> Set[str]:
    """The names that statements bind in their own scope."""
    found: Set[str] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if isinstance(node, _SCOPES):
            found.update([node.name] if hasattr(node, "name") else [])
        elif isinstance(node, _COMPREHENSIONS):
            found.update(inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
        else:
            found.update(_bound_here(node))
            pending.extend(ast.iter_child_nodes(node))
    return found


def _bound_here(node: Any) -> List[str]:
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, ast.alias):
        return [node.asname or node.name.partition(".")[0]]
    # an except clause, or a part of a match statement
    names = (getattr(node, "name", None), getattr(node, "rest", None))
    return [name for name in names if type(name) is str]


class _WithoutAnnotations(ast.NodeTransformer):
    """Turns `x: int = 1` into `x = 1` for names that become global: Python has no annotated ones."""

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
    """Whether a statement defines a name without doing anything else."""
    if not isinstance(node, ast.Assign):
        return isinstance(node, _DEFINITIONS)
    plain = (ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.unaryop, ast.expr_context)
    return all(isinstance(inner, plain) for inner in ast.walk(node.value))
