"""The .NET types that old clients name as `returnType`, the type that they read a result as.

They write `typeof(T).Name` or `typeof(T).FullName`, such as `Int32`, `System.Single[]`, ``List`1`` or
``System.Nullable`1[[System.Int32, …]]``. The C# forms `int`, `float[]` and `List<int>` are understood too.
"""

from __future__ import annotations

import re

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


def is_data(name: str) -> bool:
    """Return whether a .NET type holds data, so that no value of it is a handle."""
    if name.endswith(("[]", ",]")):
        return True
    return _END_OF_NAME.split(name.strip(), 1)[0].rpartition(".")[2].casefold() in _DATA
