"""The fields of older .NET clients: the type that they read a result as, and their form of a handle.

The server's setting `compat` switches both on. The form of a handle counts only in mode `plain`, which these clients
use. In mode `tagged` a dict of any form is a dict.

These clients send `typeof(T).Name` or `typeof(T).FullName` of the type, such as `Int32`, `System.Single[]`, ``List`1``
or ``System.Nullable`1[[System.Int32, …]]``. The session also takes the C# forms `int`, `float[]` and `List<int>`.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Optional

from venvd_contract.errors import InvalidRequest

RETURN_TYPE = "returnType"
_END_OF_NAME = re.compile(r"[`<\[?]")
_NAMES = """
string char bool boolean sbyte byte short int16 ushort uint16 int int32 uint uint32 long int64 ulong uint64
int128 uint128 nint intptr nuint uintptr half float single double decimal biginteger complex
datetime datetimeoffset dateonly timeonly timespan guid uri version void nullable
array list ilist ireadonlylist collection icollection ireadonlycollection enumerable ienumerable
hashset iset ireadonlyset sortedset queue stack linkedlist memory readonlymemory
dictionary idictionary ireadonlydictionary sorteddictionary sortedlist keyvaluepair tuple valuetuple
jsonelement jsondocument jsonnode jsonobject jsonarray jsonvalue
"""
_DATA = frozenset(_NAMES.split())
_HANDLES = {
    frozenset(names): names[0]
    for names in (
        ("handleId", "typeName", "isValid"),
        ("HandleId", "TypeName", "IsValid"),
        ("handleId", "moduleName"),
        ("HandleId", "ModuleName"),
    )
}
"""The sets of fields that a handle may have, each with the field that contains the ID."""
_SIZES = frozenset(map(len, _HANDLES))


def wants_data(payload: Dict[str, Any]) -> bool:
    """Return whether a call must not leave a handle, and drop the field `RETURN_TYPE` that says so.

    Raises:
        InvalidRequest: the field is not a string.
    """
    name = payload.pop(RETURN_TYPE)
    if name is None:
        return False
    if type(name) is not str:
        raise InvalidRequest('the field "returnType" takes the name of a .NET type')
    return is_data(name)


def find_handle(data: Dict[str, Any]) -> Optional[str]:
    """Return the handle that an object without a tag stands for, or None if it stands for none."""
    if len(data) not in _SIZES:
        return None
    field = _HANDLES.get(frozenset(data))
    name = None if field is None else data[field]
    return name if type(name) is str else None


def is_data(name: str) -> bool:
    """Return whether a .NET type contains data. No value of such a type is a handle."""
    if name.endswith(("[]", ",]")):
        return True
    return _END_OF_NAME.split(name.strip(), 1)[0].rpartition(".")[2].casefold() in _DATA
