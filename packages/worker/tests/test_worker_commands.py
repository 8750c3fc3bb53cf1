"""Every command, answered by real sessions."""

from __future__ import annotations

from typing import Any

import pytest

from venvd_contract.errors import HandleNotFound, InvalidRequest, LimitExceeded, TooLarge, UserError
from venvd_worker.session import compat

DATA = (
    "String", "System.String", "Int32", "Int64", "System.Int64", "Double", "Boolean", "Single[]", "System.Double[,]",
    "Nullable`1", "System.Nullable`1[[System.Int32, System.Private.CoreLib, Version=8.0.0.0, Culture=neutral]]",
    "List`1", "System.Collections.Generic.Dictionary`2[[System.String, C],[System.Object, C]]", "JsonElement",
    "System.Text.Json.JsonElement", "string", "int", "long", "double", "bool", "float[]", "decimal", "DateTime",
)  # fmt: skip
"""Names of .NET types as clients send them."""


@pytest.mark.slow
def test_import_holds_a_module(shared: Any) -> None:
    """`import` gives a handle of the module, dotted ones included."""
    handle = shared("import", {"moduleName": "os.path"})
    assert handle["typeName"] == "module"
    called = shared("call", {"handleId": handle["handleId"], "methodName": "join", "args": ["a", "b"]})
    assert called == {"value": "a/b"}


def test_create_follows_dots(shared: Any) -> None:
    """`className` may lead through attributes of the module."""
    module = shared("import", {"moduleName": "os"})["handleId"]
    handle = shared("create", {"moduleHandleId": module, "className": "path.basename", "args": ["/x/y"]})
    assert handle["typeName"] == "str"
    assert shared("call", {"handleId": handle["handleId"], "methodName": "__str__"}) == {"value": "y"}


def test_call_with_handles_inside(shared: Any) -> None:
    """`{"$handle": id}` is the object, at any depth of arguments."""
    box = shared.held("object()")
    same = shared.held("lambda a, *, deep: a is deep['x'][0]")
    payload = {"handleId": same, "methodName": "__call__", "args": [{"$handle": box}]}
    assert shared("call", {**payload, "kwargs": {"deep": {"x": [{"$handle": box}]}}}) == {"value": True}


def test_attributes(shared: Any) -> None:
    """`getattr` reads what `setattr` wrote."""
    box = shared.held("type('Box', (), {})()")
    assert shared("setattr", {"handleId": box, "attributeName": "x", "value": [1]}) == {"success": True}
    assert shared("getattr", {"handleId": box, "attributeName": "x"}) == {"value": [1]}
    with pytest.raises(UserError, match="nothing") as caught:
        shared("getattr", {"handleId": box, "attributeName": "nothing"})
    assert caught.value.error_type == "AttributeError"


@pytest.mark.parametrize("value", [0, "", [], {}, False, None])
def test_falsy_objects_are_objects(shared: Any, value: Any) -> None:
    """What is false behind a handle is found like anything else."""
    held = shared("wrap", {"value": value})["handleId"]
    assert shared("call", {"handleId": held, "methodName": "__eq__", "args": [value]})["value"] is True


def test_an_object_for_a_client_that_reads_data(session: Any) -> None:
    """Where the client reads the result as a .NET type that is data, an object is null and leaves no handle."""
    for name in (*DATA, "LIST<int>", " string ", "double?", "int[,]", "Foo[]", "List`1[]"):
        assert session("eval", {"expression": "object()", "returnType": name}) == {"value": None}, name
        assert session("eval", {"expression": "[1, (2,)]", "returnType": name}) == {"value": [1, [2]]}
    assert session("handles") == {"handles": []}


@pytest.mark.parametrize("name", ["Object", "System.Object", "A.B.IPythonObjectHandle", "", None])
def test_an_object_for_a_client_that_may_read_a_handle(shared: Any, name: str | None) -> None:
    """Any other type may be a handle, and the result is one."""
    for command, fields in (
        ("eval", {"expression": "object()"}),
        ("getattr", {"handleId": shared.held("print"), "attributeName": "__class__"}),
        ("call", {"handleId": shared.held("object"), "methodName": "__call__"}),
    ):
        assert shared(command, {**fields, "returnType": name})["isHandle"] is True


def test_a_return_type_is_text(shared: Any) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidRequest, match="returnType"):
        shared("eval", {"expression": "1", "returnType": 3})


def test_handles_of_a_backend_with_a_lease(start: Any) -> None:
    """A handle has the lease of the session's start, that of its own call, or with 0 none."""
    session = start(lease=60)
    for lease, expected in ((None, 60), (5, 5), (0, None)):
        held = session("wrap", {"value": 1}, lease=lease)["handleId"]
        (left,) = [each.get("leaseSeconds") for each in session("handles")["handles"] if each["handleId"] == held]
        assert left == expected or 0 < left <= expected


def test_dispose(shared: Any) -> None:
    """Disposing lets go of the object; doing it again is no error; naming nothing is one."""
    held = [shared.held("object()") for _ in range(3)]
    assert shared("dispose", {"handleId": held[0]}) == {"success": True}
    assert shared("dispose", {"handleIds": held}) == {"success": True}
    for one in held:
        with pytest.raises(HandleNotFound):
            shared("getattr", {"handleId": one, "attributeName": "x"})
    with pytest.raises(InvalidRequest, match="handleIds"):
        shared("dispose", {})


def test_what_is_held_lives_no_longer(session: Any) -> None:
    """An object dies with its last handle: nothing else keeps it."""
    session("exec", {"code": "import weakref\nclass Thing: pass\nseen = []"})
    held = session.held("Thing()")
    session("call", {"handleId": session.held("lambda t: seen.append(weakref.ref(t))"), "methodName": "__call__",
                     "args": [{"$handle": held}]})  # fmt: skip
    assert session.eval("seen[0]() is not None")
    session("dispose", {"handleId": held})
    assert session.eval("seen[0]() is None")


def test_handles_tell_type_size_and_age(session: Any) -> None:
    """`handles` lists what is held, oldest first, and only that."""
    first = session("wrap", {"value": "x" * 5000})["handleId"]
    second = session.held("object()")
    listed = session("handles")["handles"]
    assert [item["handleId"] for item in listed] == [first, second]
    assert listed[0]["typeName"] == "str"
    assert listed[0]["sizeBytes"] >= 5000
    assert listed[0]["ageSeconds"] >= listed[1]["ageSeconds"] >= 0


def test_handles_cannot_be_guessed(shared: Any) -> None:
    """No two handles share a beginning that could be counted on."""
    made = {shared("wrap", {"value": 1})["handleId"] for _ in range(64)}
    assert len({name[:8] for name in made}) == 64
    assert min(map(len, made)) >= 20


def test_the_number_of_handles_is_limited(start: Any) -> None:
    """One handle more than the limit is refused, and disposing makes room."""
    session = start(handles=2)
    held = [session.held("object()") for _ in range(2)]
    with pytest.raises(LimitExceeded, match="2 handles"):
        session.held("object()")
    session("dispose", {"handleId": held[0]})
    session.held("object()")


@pytest.mark.parametrize(
    ("expression", "floats"),
    [
        ("(1, 2.5, True)", [1.0, 2.5, 1.0]),
        ("[[1, 2], [3]]", [1.0, 2.0, 3.0]),
        ("range(3)", [0.0, 1.0, 2.0]),
        ("__import__('array').array('f', [1, 2.5])", [1.0, 2.5]),
        ("memoryview(__import__('array').array('h', [1, -2]))", [1.0, -2.0]),
        ("memoryview(bytes(4)).cast('B', (2, 2))", [0.0] * 4),
        ("(i / 2 for i in range(3))", [0.0, 0.5, 1.0]),
        ("[__import__('fractions').Fraction(1, 4)]", [0.25]),
        ("[float('nan'), float('inf'), -float('inf')]", [None, None, None]),
        ("[]", []),
        ("2.5", [2.5]),
        (
            "__import__('array').array('f', [0.1, 1e-45, 3.4028235e38])",
            [0.1, 1e-45, 3.4028235e38],
        ),
    ],
)
def test_float_arrays(shared: Any, expression: str, floats: list[Any]) -> None:
    """`tofloatarray` takes any nested sequence or buffer, flat and in order."""
    item = shared("eval", {"expression": expression}, values="tagged")
    target = item.get("handleId") or shared("wrap", {"value": item["value"]})["handleId"]
    assert shared("tofloatarray", {"handleId": target}) == floats


@pytest.mark.parametrize(
    ("value", "rows"),
    [([[1, 2], [3]], [[1.0, 2.0], [3.0]]), ([1, 2], [[1.0, 2.0]]), ([], []), ([[]], [[]]), (3, [[3.0]])],
)
def test_float_rows(shared: Any, value: Any, rows: Any) -> None:
    """`tofloatarray2d` gives rows of any length; a flat sequence is one row."""
    held = shared("wrap", {"value": value})["handleId"]
    assert shared("tofloatarray2d", {"handleId": held}) == rows


@pytest.mark.parametrize(
    ("command", "value", "named"),
    [
        ("tofloatarray", ["a"], "str"),
        ("tofloatarray", "12", "str"),
        ("tofloatarray", {"a": 1}, "dict"),
        ("tofloatarray", [None], "NoneType"),
        ("tofloatarray2d", [[[1]]], "two dimensions"),
    ],
)
def test_what_is_no_array(shared: Any, command: str, value: Any, named: str) -> None:
    """What holds no numbers is refused, and the error says what it holds."""
    held = shared("wrap", {"value": value})["handleId"]
    with pytest.raises(InvalidRequest, match=named):
        shared(command, {"handleId": held})


@pytest.mark.parametrize(
    ("name", "available"),
    [("json", True), ("os.path", True), ("email.mime.text", True), ("nope", False), ("json.nope", False),
     ("math.nope", False), ("nope.json", False)],
)  # fmt: skip
def test_module_available(shared: Any, name: str, available: bool) -> None:
    """`module_available` tells of any module, without importing it or its parents."""
    before = shared.eval("sorted(__import__('sys').modules)")
    assert shared("module_available", {"moduleName": name}) == {"available": available}
    assert shared.eval("sorted(__import__('sys').modules)") == before


@pytest.mark.parametrize("name", ["", ".json", "a..b"])
def test_what_is_no_module_name(shared: Any, name: str) -> None:
    """A relative or empty name is refused."""
    with pytest.raises(InvalidRequest, match="name of a module"):
        shared("module_available", {"moduleName": name})


def test_modules_of_the_working_directory(session: Any) -> None:
    """A module that lies in the working directory can be imported."""
    session("exec", {"code": "open('mine.py', 'w').write('x = 7')"})
    assert session("module_available", {"moduleName": "mine"}) == {"available": True}
    assert session.eval("import mine\nmine.x") == 7


def test_value_modes(shared: Any) -> None:
    """Mode `tagged` keeps tuples and sets, the usual mode `plain` does not, any other is refused."""
    assert shared("eval", {"expression": "(1, {2})"}, values="tagged")["value"] == {"$tuple": [1, {"$set": [2]}]}
    assert shared("eval", {"expression": "(1, {2})"}, values="plain")["value"] == [1, [2]]
    assert shared("eval", {"expression": "(1, {2})"})["value"] == [1, [2]]
    with pytest.raises(InvalidRequest, match="fancy"):
        shared("eval", {"expression": "1"}, values="fancy")


@pytest.mark.parametrize(
    ("command", "named"), [("frobnicate", "eval"), ("session.list", "server"), ("venv.list", "server"), ("", "eval")]
)
def test_unknown_commands(shared: Any, command: str, named: str) -> None:
    """Any other command is refused, with what there is."""
    with pytest.raises(InvalidRequest, match=named):
        shared(command)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{nonsense\n", "invalid_request"),
        (b"[1]\n", "invalid_request"),
        (b"\xff\xfe\n", "invalid_request"),
        (b'{"id":1,"command":7}\n', "invalid_request"),
        (b'{"id":1,"command":["eval"]}\n', "invalid_request"),
        (b'{"id":1,"command":"eval","payload":[]}\n', "invalid_request"),
        (b'{"id":1,"command":"eval","values":["x"],"payload":{"expression":"1"}}\n', "invalid_request"),
        (b'{"id":1,"command":"eval","timeout":"soon","payload":{"expression":"1"}}\n', "invalid_request"),
        (b'{"id":1,"command":"wrap","attachments":[-1]}\n', "invalid_request"),
        (b'{"id":1,"command":"wrap","payload":{"value":NaN}}\n', "invalid_request"),
        (b'{"id":1,"command":"wrap","payload":{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n", "too_large"),
        (b'{"id":1,"command":"wrap","payload":{"value":' + b"[" * 500 + b"]" * 500 + b"}}\n", "too_large"),
    ],
)
def test_lines_that_are_no_request(shared: Any, line: bytes, code: str) -> None:
    """A line that makes no sense is answered with its fault, and the next one is served."""
    shared.write(line)
    assert shared.reply()["code"] == code
    assert shared.eval("1 + 1") == 2


def test_several_lines_at_once(shared: Any) -> None:
    """Lines that come together, broken ones among them, are answered in order."""
    good = b'{"id":%d,"command":"eval","payload":{"expression":"%d"}}\n'
    shared.write(good % (1, 10) + b"broken\r\n\n" + good % (2, 20))
    assert shared.reply() == {"id": 1, "result": {"value": 10}}
    assert shared.reply()["code"] == "invalid_request"
    assert shared.reply() == {"id": 2, "result": {"value": 20}}


def test_attachments_are_taken_off(shared: Any) -> None:
    """Bytes that a request announces are no lines, whatever they hold."""
    line = b'{"id":1,"command":"eval","payload":{"expression":"1"},"attachments":[4,0,3]}\n'
    shared.write(line + b"\n{}\nab\n")
    assert shared.reply() == {"id": 1, "result": {"value": 1}}
    assert shared.eval("2") == 2


def test_any_id_comes_back(shared: Any) -> None:
    """A text as ID is repeated, an absent one is null."""
    shared.write(b'{"id":"a\\"b","command":"eval","payload":{"expression":"1"}}\n')
    assert shared.reply() == {"id": 'a"b', "result": {"value": 1}}
    shared.write(b'{"command":"eval","payload":{"expression":"1"}}\n')
    assert shared.reply() == {"id": None, "result": {"value": 1}}


def test_a_result_too_deep(shared: Any) -> None:
    """A value nested too deeply cannot leave; a list that holds itself is one."""
    with pytest.raises(TooLarge):
        shared("eval", {"expression": "a = []\na.append(a)\na"})


def test_a_result_too_large(start: Any) -> None:
    """A result over `resultBytes` is refused by that name, and the session goes on."""
    session = start(resultBytes=1000)
    assert len(session.eval("'x' * 900")) == 900
    with pytest.raises(LimitExceeded, match="resultBytes is 1000"):
        session.eval("'x' * 1001")
    assert session.eval("1") == 1


def test_a_result_longer_than_a_line(shared: Any) -> None:
    """Whatever `resultBytes` says, a reply never exceeds what a line may hold."""
    with pytest.raises(LimitExceeded, match=r"resultBytes|a line holds"):
        shared.eval("'x' * (16 * 1024 * 1024)")


def test_slots_tell_what_runs(session: Any) -> None:
    """The slot shows the running command, its request, its deadline, and afterwards what was counted."""
    session.eval("1")
    number = session.send("exec", {"code": "import time\nwhile not globals().get('x'): time.sleep(0.01)"}, timeout=60)
    session.running()
    slot = session.slot
    assert (slot.command, slot.request, slot.sequence) == ("exec", number, 2)
    assert 59 < slot.deadline - slot.started < 61
    session.interrupt("cancelled")
    assert session.reply()["code"] == "cancelled"
    session.held("object()")
    session.host.request("stats")
    assert (slot.state, slot.calls, slot.errors, slot.handles) == (1, 3, 1, 1)


def test_objects_of_calls_and_attributes_for_a_client_that_reads_data(session: Any) -> None:
    """They are null too, and leave no handle."""
    box = session("eval", {"expression": "type('Box', (), {'me': object()})"})["handleId"]
    for command, fields in (
        ("getattr", {"handleId": box, "attributeName": "me"}),
        ("call", {"handleId": box, "methodName": "__call__"}),
    ):
        assert session(command, {**fields, "returnType": "System.Int32"}) == {"value": None}
    assert len(session("handles")["handles"]) == 1


def test_the_words_of_old_clients_are_off(start: Any) -> None:
    """Without `compat`, `returnType` changes nothing, and an object with the fields of a handle is a dict."""
    session = start(compat=False)
    held = session("eval", {"expression": "object()", "returnType": "System.Int32"})
    older = {"handleId": held["handleId"], "typeName": "object", "isValid": True}
    assert session("eval", {"expression": "a", "locals": {"a": older}}) == {"value": older}


@pytest.mark.parametrize("names", ["handleId typeName isValid", "HandleId TypeName IsValid", "handleId moduleName"])
def test_handles_of_old_clients(names: str) -> None:
    """Objects with just these fields are handles; the ID is text."""
    fields: dict[str, Any] = dict.fromkeys(names.split(), True)
    first = next(iter(fields))
    assert compat.find_handle({**fields, first: "known"}) == "known"
    for other in (fields, {first: "known"}, {**fields, first: "known", "x": 1}, {"": "x", "b": 2}, {}):
        assert compat.find_handle(other) is None
