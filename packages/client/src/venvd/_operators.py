"""Python's operators on proxies, as small expressions that the session evaluates.

An expression follows Python's whole protocol, unlike a call of the dunder method: reflected operators, classes as
operands, `__getitem__` as iteration. It costs one round trip and leaves no object in the session.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from venvd.errors import InvalidRequest

_BUILTINS = "__import__('builtins')."
_OPERATOR = "__import__('operator')."


def name_operands(values: tuple[Any, ...]) -> dict[str, Any]:
    """Return the operands under the names that expressions use: `_0`, `_1` and so on."""
    return {f"_{position}": value for position, value in enumerate(values)}


def _operator(expression: str) -> Callable[..., Any]:
    def method(self: Operators, *others: Any) -> Any:
        return self._venvd_evaluate(expression, self, *others)

    method.__doc__ = f"Evaluate `{expression}` in the session, where `_0` is this object."
    return method


def _in_place(name: str) -> Callable[..., Any]:
    # The operator returns the same object (a list, an array) or a new one (a number).
    expression = f"None if (_2 := {_OPERATOR}{name}(_0, _1)) is _0 else _2"

    def method(self: Operators, other: Any) -> Any:
        return self._venvd_in_place(expression, other)

    return method


class Operators:
    """The operators whose result may be any object, for sync and async proxies."""

    __slots__ = ()

    def _venvd_evaluate(self, expression: str, *values: Any) -> Any:
        raise NotImplementedError

    def _venvd_in_place(self, expression: str, other: Any) -> Any:
        raise NotImplementedError

    __add__ = _operator("_0 + _1")
    __radd__ = _operator("_1 + _0")
    __sub__ = _operator("_0 - _1")
    __rsub__ = _operator("_1 - _0")
    __mul__ = _operator("_0 * _1")
    __rmul__ = _operator("_1 * _0")
    __matmul__ = _operator("_0 @ _1")
    __rmatmul__ = _operator("_1 @ _0")
    __truediv__ = _operator("_0 / _1")
    __rtruediv__ = _operator("_1 / _0")
    __floordiv__ = _operator("_0 // _1")
    __rfloordiv__ = _operator("_1 // _0")
    __mod__ = _operator("_0 % _1")
    __rmod__ = _operator("_1 % _0")
    __rpow__ = _operator("_1 ** _0")
    __lshift__ = _operator("_0 << _1")
    __rlshift__ = _operator("_1 << _0")
    __rshift__ = _operator("_0 >> _1")
    __rrshift__ = _operator("_1 >> _0")
    __and__ = _operator("_0 & _1")
    __rand__ = _operator("_1 & _0")
    __or__ = _operator("_0 | _1")
    __ror__ = _operator("_1 | _0")
    __xor__ = _operator("_0 ^ _1")
    __rxor__ = _operator("_1 ^ _0")
    __divmod__ = _operator(_BUILTINS + "divmod(_0, _1)")
    __rdivmod__ = _operator(_BUILTINS + "divmod(_1, _0)")

    __lt__ = _operator("_0 < _1")
    __le__ = _operator("_0 <= _1")
    __gt__ = _operator("_0 > _1")
    __ge__ = _operator("_0 >= _1")

    __neg__ = _operator("-_0")
    __pos__ = _operator("+_0")
    __invert__ = _operator("~_0")
    __abs__ = _operator(_BUILTINS + "abs(_0)")
    __floor__ = _operator("__import__('math').floor(_0)")
    __ceil__ = _operator("__import__('math').ceil(_0)")
    __trunc__ = _operator("__import__('math').trunc(_0)")
    __copy__ = _operator("__import__('copy').copy(_0)")

    def __pow__(self, exponent: Any, *modulus: Any) -> Any:
        return self._venvd_evaluate(MODULAR_POWER if modulus else "_0 ** _1", self, exponent, *modulus)

    def __round__(self, *digits: Any) -> Any:
        return self._venvd_evaluate(ROUND_TO if digits else ROUND, self, *digits)

    def __getitem__(self, index: Any) -> Any:
        expression, values = subscript(index)
        return self._venvd_evaluate(expression, self, *values)


class InPlaceOperators:
    """`+=` and the like, only for sync proxies, because an assignment cannot await."""

    __slots__ = ()

    __iadd__ = _in_place("iadd")
    __isub__ = _in_place("isub")
    __imul__ = _in_place("imul")
    __imatmul__ = _in_place("imatmul")
    __itruediv__ = _in_place("itruediv")
    __ifloordiv__ = _in_place("ifloordiv")
    __imod__ = _in_place("imod")
    __ipow__ = _in_place("ipow")
    __ilshift__ = _in_place("ilshift")
    __irshift__ = _in_place("irshift")
    __iand__ = _in_place("iand")
    __ior__ = _in_place("ior")
    __ixor__ = _in_place("ixor")


ROUND = _BUILTINS + "round(_0)"
ROUND_TO = _BUILTINS + "round(_0, _1)"
MODULAR_POWER = _BUILTINS + "pow(_0, _1, _2)"
EQUAL = "_0 == _1"
NOT_EQUAL = "_0 != _1"
CONTAINS = "_1 in _0"
TRUTH = "not not _0"
LENGTH = _BUILTINS + "len(_0)"
HASH = _BUILTINS + "hash(_0)"
TEXT = "f'{_0!s}'"
REPR = "f'{_0!r}'"
SURROGATES = "_0.encode('utf-8', 'surrogatepass')"
FORMAT = _BUILTINS + "format(_0, _1)"
INTEGER = _BUILTINS + "int(_0)"
REAL = _BUILTINS + "float(_0)"
COMPLEX = _BUILTINS + "complex(_0)"
BYTES = _BUILTINS + "bytes(_0)"
INDEX = _OPERATOR + "index(_0)"
NAMES = _BUILTINS + "dir(_0)"
NEXT = _BUILTINS + "next(_0)"
REVERSED = _BUILTINS + "reversed(_0)"
DEEP_COPY = "__import__('copy').deepcopy(_0)"
DELETE_ATTRIBUTE = _BUILTINS + "delattr(_0, _1)"
ENTER = "_0.__enter__()"
EXIT = "_0.__exit__(None, None, None)"
EXIT_WITH = "(lambda manager, error: manager.__exit__(type(error), error, None))(_0, " + _BUILTINS + "{}(_1))"
# Texts name classes by their dotted path.
IS_INSTANCE = (
    _BUILTINS + "isinstance(_0, (lambda kinds, resolve, text: tuple(resolve(each) if type(each) is text else each "
    "for each in kinds))(_1, __import__('pkgutil').resolve_name, type('')))"
)
HAS_INSTANCE = _BUILTINS + "isinstance(_1, _0)"
HAS_SUBCLASS = _BUILTINS + "issubclass(_1, _0)"
CLASSES = (
    "(lambda kind, get: [(get(each, '__module__', ''), get(each, '__qualname__', '')) for each in kind.__mro__])"
    "(" + _BUILTINS + "type(_0), " + _BUILTINS + "getattr)"
)
SIGNATURE = (
    "(lambda inspect, found, show: (\n"
    "  [(one.name, int(one.kind), None if one.default is one.empty else show(one.default),\n"
    "    None if one.annotation is one.empty else inspect.formatannotation(one.annotation))\n"
    "   for one in found.parameters.values()],\n"
    "  None if found.return_annotation is found.empty else inspect.formatannotation(found.return_annotation)))"
    "(__import__('inspect'), __import__('inspect').signature(_0), " + _BUILTINS + "repr)"
)
ITERATOR = _BUILTINS + "iter(_0)"
# If an error comes after some items, the batch is a tuple of those items and the error.
BATCH = (
    "try:\n  _2.extend(__import__('itertools').islice(_0, _1))\n"
    "except Exception as _3:\n  if not _2:\n    raise\n  _2 = _2, _3\n_2"
)
BATCH_ITEMS = "_0[0]"
BATCH_ERROR = "raise _0[1]"
ITEM = "_0[_1]"


def make_place(place: str) -> str:
    """Return the expression for a place of an object: `items`, `cfg['a'].b` or `[0]`.

    Raises:
        InvalidRequest: the text is not a place.
    """
    expression = f"_0{place}" if place.startswith("[") else f"_0.{place}"
    try:
        node: Any = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError):
        node = None
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    if not isinstance(node, ast.Name) or node.id != "_0":
        raise InvalidRequest(f'"{place}" is no place of an object: write it as in "items", "cfg[\'a\']" or "[0].name"')
    return expression


def subscript(index: Any, target: str = "_0") -> tuple[str, list[Any]]:
    """Return the expression for `target[index]`, which includes slices and `...`, and its operands from `_1` on."""
    values: list[Any] = []

    def part(value: Any) -> str:
        if value is Ellipsis:
            return "..."
        if isinstance(value, slice):
            return ":".join("" if end is None else part(end) for end in (value.start, value.stop, value.step))
        values.append(value)
        return f"_{len(values)}"

    is_tuple = isinstance(index, tuple) and index
    inside = "".join(part(value) + "," for value in index) if is_tuple else part(index)
    return f"{target}[{inside}]", values
