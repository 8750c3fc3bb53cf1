"""Every operation, over every transport and engine."""

from __future__ import annotations

import pytest
from harness.callers import Caller

from venvd_contract.errors import DeadlineExceeded as Timeout
from venvd_contract.errors import (
    HandleNotFound,
    InvalidRequest,
    NotFound,
    SessionLost,
    TooLarge,
    Unauthenticated,
    UserError,
)

pytestmark = pytest.mark.about("transport")


def handle(call: Caller, expression: str, **options: str) -> str:
    """The handle of what `expression` gives, which must not be plain data."""
    result = call("eval", {"expression": expression}, **options)
    assert result["isHandle"] is True
    return str(result["handleId"])


@pytest.mark.about("everywhere")
def test_ping_says_ok(call: Caller) -> None:
    """`ping` answers that the backend is there."""
    assert call("ping") == {"status": "ok"}


def test_ping_needs_no_token(call: Caller) -> None:
    """Liveness is open: no token is asked for."""
    stranger = call.with_token(None)
    assert stranger("ping") == {"status": "ok"}
    stranger.close()


@pytest.mark.about("everywhere")
@pytest.mark.parametrize("token", [None, "wrong"])
def test_everything_else_needs_the_token(call: Caller, token: str | None) -> None:
    """A missing or a wrong token is `unauthenticated`."""
    stranger = call.with_token(token)
    with pytest.raises(Unauthenticated):
        stranger("eval", {"expression": "1"})
    stranger.close()


def test_import_gives_a_handle(call: Caller) -> None:
    """`import` holds the module, also a dotted one, by a handle."""
    module = call("import", {"moduleName": "os.path"})
    assert module["typeName"] == "module"
    called = call("call", {"handleId": module["handleId"], "methodName": "join", "args": ["a", "b"]})
    assert called == {"value": "a/b"}


def test_import_of_nothing_is_the_users_error(call: Caller) -> None:
    """A module that does not exist is a user error that names it."""
    with pytest.raises(UserError, match="no_such_module") as caught:
        call("import", {"moduleName": "no_such_module"})
    assert caught.value.error_type == "ModuleNotFoundError"


def test_create_makes_an_object(call: Caller) -> None:
    """`create` calls a class of a module with arguments and keywords."""
    module = call("import", {"moduleName": "collections"})["handleId"]
    made = call(
        "create", {"moduleHandleId": module, "className": "deque", "args": [[1, 2, 3]], "kwargs": {"maxlen": 2}}
    )
    assert made["typeName"] == "deque"
    assert call("call", {"handleId": made["handleId"], "methodName": "pop"}) == {"value": 3}


def test_create_always_gives_a_handle(call: Caller) -> None:
    """What `create` makes is held, even where it would be plain data."""
    module = call("import", {"moduleName": "builtins"})["handleId"]
    made = call("create", {"moduleHandleId": module, "className": "list"})
    assert call("call", {"handleId": made["handleId"], "methodName": "__len__"}) == {"value": 0}


def test_call_of_the_object_itself(call: Caller) -> None:
    """`methodName` `__call__` calls what the handle holds."""
    function = handle(call, "lambda a, *, b: a - b")
    called = call("call", {"handleId": function, "methodName": "__call__", "args": [7], "kwargs": {"b": 2}})
    assert called == {"value": 5}


def test_attributes_are_set_and_read(call: Caller) -> None:
    """`setattr` is seen by `getattr`."""
    target = handle(call, "type('Box', (), {})()")
    assert call("setattr", {"handleId": target, "attributeName": "size", "value": {"w": 3}}) == {"success": True}
    assert call("getattr", {"handleId": target, "attributeName": "size"}) == {"value": {"w": 3}}


@pytest.mark.about("everywhere")
def test_a_handle_in_an_argument_is_the_object(call: Caller) -> None:
    """`{"$handle": id}` stands for the object, at any depth."""
    box = handle(call, "object()")
    same = handle(call, "lambda a, b, deep: deep['x'][0] is a is b[0]")
    arguments = [{"$handle": box}, [{"$handle": box}], {"x": [{"$handle": box}]}]
    assert call("call", {"handleId": same, "methodName": "__call__", "args": arguments}) == {"value": True}


def test_eval_sees_its_locals(call: Caller) -> None:
    """Names in `locals` are there for that call."""
    assert call("eval", {"expression": "a + b", "locals": {"a": 1, "b": 2}}) == {"value": 3}


def test_eval_takes_code_as_another_name(call: Caller) -> None:
    """`code` is the same as `expression`."""
    assert call("eval", {"code": "2 * 3"}) == {"value": 6}


@pytest.mark.parametrize(("code", "value"), [("x = 4; x * 2", 8), ("y = 1", None), ("import math\nmath.floor(2.5)", 2)])
def test_eval_of_several_statements(call: Caller, code: str, value: object) -> None:
    """The result is the last expression's value, or null where the last statement is none."""
    assert call("eval", {"expression": code}).get("value") == value


def test_eval_keeps_names(call: Caller) -> None:
    """What one call defines, the next one sees."""
    call("eval", {"expression": "kept = [1, 2]"})
    assert call("eval", {"expression": "kept"}) == {"value": [1, 2]}


@pytest.mark.about("everywhere")
def test_exec_gives_the_output(call: Caller) -> None:
    """`exec` answers with both streams, the last expression's value and no error."""
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 + 1"
    output = call("exec", {"code": code})
    assert (output["stdout"], output["stderr"], output["error"]) == ("out\n", "err\n", None)
    assert output["result"] == {"value": 2}
    assert output["truncated"] is False
    assert output["durationMs"] >= 0
    assert (output["resultText"], output["executionCount"] > 0) == ("2", True)


def test_exec_keeps_the_output_of_failing_code(call: Caller) -> None:
    """An error of the code is in the answer, since its output matters."""
    output = call("exec", {"code": "print('before')\n1 / 0"})
    assert output["stdout"] == "before\n"
    assert output["error"]["errorType"] == "ZeroDivisionError"
    assert "1 / 0" in output["error"]["traceback"]
    assert "venvd" not in output["error"]["traceback"]


def test_exec_catches_output_below_python(call: Caller) -> None:
    """What child processes and C code write is caught too."""
    code = "import os, subprocess\nos.write(1, b'raw\\n')\nsubprocess.run(['echo', 'child'])"
    output = call("exec", {"code": code})
    assert set(output["stdout"].split()) >= {"raw", "child"}


def test_exec_awaits(call: Caller) -> None:
    """Top-level `await` works."""
    code = "import asyncio\nawait asyncio.sleep(0)\nawait asyncio.sleep(0, 'woken')"
    assert call("exec", {"code": code})["result"] == {"value": "woken"}


def test_input_fails_clearly(call: Caller) -> None:
    """A session has no terminal: `input()` says so instead of hanging."""
    with pytest.raises(UserError, match="input"):
        call("eval", {"expression": "input('name?')"})


def test_dispose_lets_go(call: Caller) -> None:
    """A disposed handle is not found; disposing it again is no error."""
    held = handle(call, "object()")
    assert call("dispose", {"handleId": held}) == {"success": True}
    assert call("dispose", {"handleIds": [held]}) == {"success": True}
    with pytest.raises(HandleNotFound):
        call("getattr", {"handleId": held, "attributeName": "x"})


def test_falsy_objects_are_found(call: Caller) -> None:
    """`0`, an empty text and an empty list behind handles are objects like any other."""
    for value, text in ((0, "0"), ("", "''"), ([], "[]")):
        held = call("wrap", {"value": value})["handleId"]
        assert call("call", {"handleId": held, "methodName": "__repr__"}) == {"value": text}


def test_float_arrays(call: Caller) -> None:
    """`tofloatarray` takes any sequence or buffer and answers with the bare array."""
    for expression in ("(1, 2.5)", "__import__('array').array('f', [1, 2.5])", "range(1, 3)"):
        held = call("wrap", {"value": 0})["handleId"]
        held = call("call", {"handleId": handle(call, f"lambda: [{expression}].__iter__()"), "methodName": "__call__"})
        inner = call("call", {"handleId": held["handleId"], "methodName": "__next__"})
        target = inner.get("handleId") or call("wrap", {"value": inner["value"]})["handleId"]
        assert call("tofloatarray", {"handleId": target})[0] == 1.0


def test_float_rows(call: Caller) -> None:
    """`tofloatarray2d` answers with rows, which need not be of one length."""
    held = call("wrap", {"value": [[1, 2], [3]]})["handleId"]
    assert call("tofloatarray2d", {"handleId": held}) == [[1.0, 2.0], [3.0]]


def test_what_is_no_array_is_refused(call: Caller) -> None:
    """An object that holds no numbers gives an error that says so."""
    held = call("wrap", {"value": ["a"]})["handleId"]
    with pytest.raises((UserError, InvalidRequest)):
        call("tofloatarray", {"handleId": held})


@pytest.mark.parametrize(("name", "available"), [("json", True), ("os.path", True), ("no_such_module", False)])
def test_module_available(call: Caller, name: str, available: bool) -> None:
    """`module_available` tells without importing."""
    assert call("module_available", {"moduleName": name}) == {"available": available}


def test_wrap_holds_a_value(call: Caller) -> None:
    """`wrap` puts data behind a handle, of the type that Python gives it."""
    wrapped = call("wrap", {"value": {"a": [1]}})
    assert wrapped["typeName"] == "dict"
    assert call("call", {"handleId": wrapped["handleId"], "methodName": "get", "args": ["a"]}) == {"value": [1]}


def test_handles_are_listed(call: Caller) -> None:
    """`handles` tells type, size and age of what is held."""
    held = call("wrap", {"value": "x" * 1000})["handleId"]
    listed = {item["handleId"]: item for item in call("handles")["handles"]}
    assert listed[held]["typeName"] == "str"
    assert listed[held]["sizeBytes"] >= 1000
    assert listed[held]["ageSeconds"] >= 0


# ---- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "payload", "named"),
    [
        ("import", {}, "moduleName"),
        ("import", {"moduleName": 3}, "moduleName"),
        ("call", {"handleId": "x", "methodName": "y", "args": {}}, "args"),
        ("eval", {}, "expression"),
        ("exec", {"code": None}, "code"),
        ("eval", {"expression": "1", "locals": {"a": {"$nope": 1}}}, r"\$nope"),
    ],
)
def test_a_bad_request_names_the_field(call: Caller, command: str, payload: dict[str, object], named: str) -> None:
    """A missing field, a wrong type or an unknown tag is `invalid_request` and is named."""
    with pytest.raises(InvalidRequest, match=named):
        call(command, payload)


def test_unknown_fields_are_refused(call: Caller) -> None:
    """The error names the nearest field; what clients of the older host send beside the contract's changes nothing."""
    with pytest.raises(InvalidRequest, match='eval: the field "local" is unknown; is "locals" meant'):
        call("eval", {"expression": "1", "local": {}})
    assert call("eval", {"expression": "1", "isValid": True}) == {"value": 1}


def test_an_unknown_handle(call: Caller) -> None:
    """A handle that was never given out is `handle_not_found`."""
    with pytest.raises(HandleNotFound):
        call("call", {"handleId": "nobody", "methodName": "x"})


def test_an_unknown_session(call: Caller) -> None:
    """A session that does not exist is `not_found`, and named."""
    with pytest.raises(NotFound, match="nobody"):
        call("eval", {"expression": "1"}, session="nobody")


@pytest.mark.about("everywhere")
def test_user_errors_carry_the_traceback(call: Caller) -> None:
    """Type, message and the user's own lines come back; none of venvd's."""
    call("exec", {"code": "def fail():\n    raise LookupError('gone')\n"})
    with pytest.raises(UserError, match="gone") as caught:
        call("eval", {"expression": "fail()"})
    assert caught.value.error_type == "LookupError"
    assert caught.value.traceback is not None
    assert "raise LookupError('gone')" in caught.value.traceback
    assert "venvd" not in caught.value.traceback
    assert caught.value.state_lost is False


def test_a_syntax_error_is_the_users(call: Caller) -> None:
    """Code that does not parse is a user error that shows the place."""
    with pytest.raises(UserError) as caught:
        call("eval", {"expression": "1 +"})
    assert caught.value.error_type == "SyntaxError"


def test_exit_is_an_error_not_an_end(call: Caller) -> None:
    """`sys.exit` raises, and the session goes on."""
    call("eval", {"expression": "stays = 1"})
    with pytest.raises(UserError) as caught:
        call("eval", {"expression": "__import__('sys').exit(3)"})
    assert caught.value.error_type == "SystemExit"
    assert call("eval", {"expression": "stays"}) == {"value": 1}


@pytest.mark.about("everywhere")
def test_a_deadline_leaves_the_state(call: Caller) -> None:
    """A call over its timeout is interrupted; names defined before are still there."""
    call("eval", {"expression": "before = 5"})
    with pytest.raises(Timeout) as caught:
        call("eval", {"expression": "import time\nwhile True: time.sleep(0.01)"}, timeout=0.3)
    assert caught.value.state_lost is False
    assert call("eval", {"expression": "before"}) == {"value": 5}


def test_code_that_will_not_stop_is_killed(call: Caller) -> None:
    """Code that swallows the interrupt ends with its process, and the answer says that state is lost."""
    code = "import time\nwhile True:\n  try: time.sleep(60)\n  except BaseException: pass"
    with pytest.raises(Timeout) as caught:
        call("eval", {"expression": code}, timeout=0.3)
    assert caught.value.state_lost is True
    assert call("eval", {"expression": "1 + 1"}) == {"value": 2}


@pytest.mark.about("everywhere")
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os; os._exit(1)", "status 1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os; os.closerange(3, 4096)", "."),
    ],
)
def test_a_dead_session_is_replaced(call: Caller, code: str, says: str) -> None:
    """The call that ended its process is told how, and the next one finds a fresh session."""
    call("eval", {"expression": "lost = 1"})
    with pytest.raises(SessionLost, match=says) as caught:
        call("eval", {"expression": code})
    assert caught.value.state_lost is True
    assert call("eval", {"expression": "'lost' in globals()"}) == {"value": False}


def test_nesting_past_the_limit(call: Caller) -> None:
    """A value nested too deeply is `too_large`, on the way in and on the way out."""
    deep: object = 0
    for _ in range(101):
        deep = [deep]
    with pytest.raises(TooLarge):
        call("wrap", {"value": deep})
    with pytest.raises(TooLarge):
        call("eval", {"expression": "d = 0\nfor _ in range(101): d = [d]\nd"})


def test_nesting_at_the_limit(call: Caller) -> None:
    """A value at the limit goes through unchanged."""
    deep: object = 0
    for _ in range(100):
        deep = [deep]
    assert call("eval", {"expression": "v", "locals": {"v": deep}}) == {"value": deep}
