"""`eval` and `exec`: names, sources, tracebacks, `__main__`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest, TooLarge, UserError


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 + 1", 2),
        ("x = 4; x * 2", 8),
        ("y = 1", None),
        ("import math\nmath.floor(2.5)", 2),
        ("", None),
        ("# nothing", None),
        ("'''text'''", "text"),
        ("def f(): return 3\nf()", 3),
        ("if True:\n    7", None),
        ("None", None),
        ("  1", 1),
    ],
)
def test_eval_takes_any_code(shared: Any, code: str, value: Any) -> None:
    """The result is the last expression's value, or null."""
    assert shared.eval(code) == value


def test_wrong_indentation_is_refused(shared: Any) -> None:
    """Code whose lines do not fit together is an error of Python."""
    with pytest.raises(UserError) as caught:
        shared.eval("x = 1\n  y = 2")
    assert caught.value.error_type == "IndentationError"


def test_code_is_another_name(shared: Any) -> None:
    """`code` stands for `expression`; one of them is needed."""
    assert shared("eval", {"code": "2 * 3"}) == {"value": 6}
    with pytest.raises(InvalidRequest, match="expression"):
        shared("eval", {})


def test_names_stay(session: Any) -> None:
    """What `exec` defines, `eval` sees, and the other way round."""
    session("exec", {"code": "a = [1]"})
    session.eval("b = a + [2]")
    assert session("exec", {"code": "b"})["result"] == {"value": [1, 2]}


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("a + b", 3),
        ("[a * i for i in range(3)]", [0, 1, 2]),
        ("(lambda: a + b)()", 3),
        ("def f():\n    return a\nf()", 1),
        ("class C:\n    x = a\nC.x", 1),
        ("sum(x for x in (a, b) if x > a)", 2),
        ("sorted(locals())", ["a", "b"]),
    ],
)
def test_locals_are_variables(shared: Any, code: str, value: Any) -> None:
    """Names in `locals` are seen wherever a variable would be, comprehensions and lambdas included."""
    assert shared.eval(code, a=1, b=2) == value


def test_locals_leave_nothing_behind(session: Any) -> None:
    """Names in `locals` last for the call, other names that it binds stay, and a lambda keeps what it saw."""
    code = "import math as m\nkept: int = a\nfor i in range(2): pass\n[n := 5]\na = 9\nf = lambda: a\ndel i\na"
    assert session.eval(code, a=1) == 9
    assert session.eval("[kept, n, f(), 'a' in globals(), 'i' in globals(), m.floor(1.5)]") == [
        1,
        5,
        9,
        False,
        False,
        1,
    ]


def test_locals_and_futures(shared: Any) -> None:
    """An import from `__future__` stays the first statement although locals are given."""
    code = "from __future__ import annotations\ndef g(x: nowhere): pass\ng.__annotations__['x'] + a"
    assert shared.eval(code, a="!") == "nowhere!"


def test_locals_must_be_names(shared: Any) -> None:
    """A key of `locals` that cannot be a variable is named."""
    for name in ("not a name", "class", ""):
        with pytest.raises(InvalidRequest, match="no name of a variable"):
            shared("eval", {"expression": "1", "locals": {name: 1}})


def test_awaiting(session: Any) -> None:
    """`await` works in both, with and without locals, on one event loop that lives on."""
    session("exec", {"code": "import asyncio\nloop = asyncio.get_running_loop()\nawait asyncio.sleep(0)"})
    assert session.eval("await asyncio.sleep(0, 'woken')") == "woken"
    assert session.eval("await asyncio.sleep(0, a)", a=3) == 3
    assert session.eval("asyncio.get_running_loop() is (await asyncio.sleep(0, loop))") is True
    assert session.eval("async def f(): return 4\nawait f()") == 4
    assert session.eval("asyncio.run(f())") == 4
    with pytest.raises(UserError, match="inside") as caught:
        session.eval("async def fail(): raise LookupError('inside')\nawait fail()")
    assert "asyncio" not in str(caught.value.traceback)


def test_an_interrupted_await_is_cancelled(session: Any) -> None:
    """A coroutine that is interrupted gets to run its cleanup, and the loop goes on."""
    session("exec", {"code": "import asyncio\nlog = []"})
    code = "try:\n    print('in')\n    await asyncio.sleep(60)\nfinally:\n    log.append('cleaned')"
    session.send("exec", {"code": code}, stream=True)
    session.shown("in")
    session.interrupt()
    assert session.reply()["code"] == "timeout"
    assert session.eval("await asyncio.sleep(0, log)") == ["cleaned"]


# ---- tracebacks ------------------------------------------------------------------------------------------------


def traceback_of(session: Any, code: str, command: str = "eval") -> str:
    if command == "exec":
        traceback: str = session("exec", {"code": code})["error"]["traceback"]
        return traceback
    with pytest.raises(UserError) as caught:
        session("eval", {"expression": code})
    assert caught.value.traceback is not None
    return caught.value.traceback


def test_a_traceback_shows_the_users_lines(session: Any) -> None:
    """Each frame of the user's with its line, earlier definitions included, and none of ours."""
    session("exec", {"code": "def fail():\n    raise LookupError('gone')\n"})
    for command in ("eval", "exec"):
        text = traceback_of(session, "1\nfail()", command)
        assert "line 2, in <module>\n    fail()" in text
        assert "line 2, in fail\n    raise LookupError('gone')" in text
        assert "venvd" not in text
        assert ".pyz" not in text


def test_causes_are_stripped_too(session: Any) -> None:
    """Frames of ours are hidden in causes and contexts as well."""
    text = traceback_of(session, "try:\n    input()\nexcept EOFError as e:\n    raise ValueError('outer') from e")
    assert "direct cause" in text
    assert "venvd" not in text
    assert "pyz" not in text


def test_errors_of_called_functions(session: Any) -> None:
    """An error in a method that is called by handle shows the method's lines only."""
    session("exec", {"code": "class Box:\n    def open(self):\n        return 1 / 0\n"})
    with pytest.raises(UserError, match="division") as caught:
        session("call", {"handleId": session.held("Box()"), "methodName": "open"})
    assert "return 1 / 0" in str(caught.value.traceback)
    assert "pyz" not in str(caught.value.traceback)


def test_a_syntax_error_shows_its_place(shared: Any) -> None:
    """Code that does not compile is a user error with the line."""
    text = traceback_of(shared, "x = 1\ny = = 2")
    assert "line 2" in text
    assert "y = = 2" in text


def test_lines_survive_many_other_texts(session: Any) -> None:
    """The text of a function outlives the hundreds of texts that were run after it."""
    session("exec", {"code": "def early():\n    raise LookupError('kept')"})
    for number in range(400):
        session.eval(f"{number} + 0")
    assert "raise LookupError('kept')" in traceback_of(session, "early()")
    assert session.eval("import inspect\ninspect.getsource(early)").startswith("def early")


@pytest.mark.parametrize(
    ("code", "error_type", "says"),
    [
        ("import sys\nsys.exit(3)", "SystemExit", "3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit('x')", "GeneratorExit", "x"),
        ("import asyncio\nraise asyncio.CancelledError", "CancelledError", "Cancelled"),
        ("raise type('Odd', (Exception,), {'__str__': lambda s: 1 / 0})()", "Odd", "Odd"),
        ("raise type('Odd', (Exception,), {'__str__': lambda s: 5})()", "Odd", "Odd"),
        ("raise ValueError('\\ud800')", "ValueError", "\\\\ud800"),
        ("def f(): f()\nf()", "RecursionError", "recursion"),
        ("raise ValueError('x' * 10**6)", "ValueError", "left out"),
        ("compile('1 +', '', 'exec')", "SyntaxError", "invalid syntax"),
        ("raise type('E', (BaseException,), {})('base')", "E", "base"),
        ("import os\nos.nothing", "AttributeError", "nothing"),
    ],
)
def test_whatever_is_raised_is_the_users_error(session: Any, code: str, error_type: str, says: str) -> None:
    """Exits, odd exceptions and endless recursion are user errors, and the session keeps its state."""
    session.eval("stays = 1")
    with pytest.raises(UserError, match=says) as caught:
        session.eval(code)
    assert caught.value.error_type == error_type
    assert session("exec", {"code": code})["error"]["errorType"] == error_type
    assert session.eval("stays") == 1


def test_an_exception_does_not_keep_its_locals(session: Any) -> None:
    """Once it is answered, nothing holds the frames of a call that failed."""
    session("exec", {"code": "import weakref, gc\nclass T: pass\nrefs = []\n"
                             "def f():\n    t = T()\n    refs.append(weakref.ref(t))\n    1 / 0"})  # fmt: skip
    for command, field in (("eval", "expression"), ("exec", "code")):
        try:
            session(command, {field: "f()"})
        except UserError:
            pass
    assert session.eval("[r() for r in refs]") == [None, None]


# ---- __main__ --------------------------------------------------------------------------------------------------


def test_the_namespace_is_main(shared: Any) -> None:
    """Code runs in the module `__main__`, which looks like that of an interactive Python."""
    assert shared.eval("__name__") == "__main__"
    assert shared.eval("import sys\nvars(sys.modules['__main__']) is globals()") is True
    assert shared.eval("sys.argv") == [""]
    assert shared.eval("'__file__' in globals()") is False


def test_pickle_knows_the_users_classes(session: Any) -> None:
    """Objects of classes that were defined here can be pickled and come back."""
    code = "import pickle\nclass P:\n    def __init__(self, n): self.n = n\npickle.loads(pickle.dumps(P(4))).n"
    assert session.eval(code) == 4


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.slow
def test_multiprocessing(session: Any, method: str) -> None:
    """Functions and classes that were defined here work in processes started by each method, later ones too."""
    session("exec", {"code": "import multiprocessing as mp\nK = 10\n"
                             "class Item:\n    def __init__(self, n): self.n = n\n"
                             "def grow(item): return Item(item.n * K)\n"
                             f"ctx = mp.get_context('{method}')"})  # fmt: skip
    run = "with ctx.Pool(2) as pool:\n    found = [item.n for item in pool.map({}, [Item(1), Item(2)])]\nfound"
    assert session.eval(run.format("grow")) == [10, 20]
    session("exec", {"code": "def shrink(item): return Item(-item.n)\nprint('not again')"})
    assert session.eval(run.format("shrink")) == [-1, -2]


def test_nothing_of_ours_can_be_imported(shared: Any) -> None:
    """The session's modules and its archive are not there for user code."""
    code = "import sys\n[n for n in sys.modules if n.startswith('venvd')], [p for p in sys.path if 'pyz' in p]"
    assert shared.eval(code) == [[], []]
    with pytest.raises(UserError, match="venvd_worker"):
        shared("import", {"moduleName": "venvd_worker.session"})


def test_input_says_why_it_cannot(shared: Any) -> None:
    """`input()` and reading standard input fail at once."""
    with pytest.raises(UserError, match="input"):
        shared.eval("input('name?')")
    assert shared.eval("import sys\nsys.stdin.read()") == ""


def test_own_directory_and_home(start: Any) -> None:
    """Each session has directories of its own that no other user may read, and its code starts in one of them."""
    one, other = start(), start()
    code = "import os, tempfile\n[os.getcwd(), os.environ['HOME'], tempfile.gettempdir()]"
    mine, its = one.eval(code), other.eval(code)
    assert not set(mine) & set(its)
    assert one.eval("oct(os.stat('..').st_mode & 0o777)") == "0o700"


@pytest.mark.slow
def test_the_environment_is_an_allow_list(new_host: Any) -> None:
    """User code finds what the venv and the session ask for, and nothing else of the warden's environment."""
    host = new_host(VENVD_WORKER_ENV='{"FROM_VENV": "1", "BOTH": "venv"}', VENVD_SECRET="x", OTHER="y", TZ="UTC")
    environment = host.start(env={"BOTH": "session"}).eval("import os\ndict(os.environ)")
    assert (environment["FROM_VENV"], environment["BOTH"], environment["TZ"]) == ("1", "session", "UTC")
    assert not [name for name in environment if name.startswith("VENVD_") or name == "OTHER"]
    assert {"PATH", "HOME", "TMPDIR", "LANG"} <= set(environment)


@pytest.mark.slow
def test_a_site_directory_is_added(new_host: Any, tmp_path: Any) -> None:
    """Modules of `--site` can be imported, `.pth` files in it included."""
    site = tmp_path / "site"
    (site / "more").mkdir(parents=True)
    (site / "here.py").write_text("x = 1")
    (site / "more" / "there.py").write_text("x = 2")
    (site / "add.pth").write_text("more\n")
    session = new_host("--site", str(site)).start()
    assert session.eval("import here, there\n[here.x, there.x]") == [1, 2]


@pytest.mark.slow
def test_the_warden_runs_no_pth_files(new_host: Any, python: str, archives: Any, tools: Any) -> None:
    """The warden has no site packages at all: code that they would run at start does not run in it."""
    host = new_host()
    arguments = Path(f"/proc/{host.hello['pid']}/cmdline").read_text().split("\0")
    assert arguments[1:4] == ["-I", "-S", str(archives(python))]


# ---- patched and broken surroundings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import json\njson.dumps = json.loads = json.JSONEncoder.encode = None\njson.decoder.scanstring = None",
        "import builtins\nput = setattr\nfor n in [n for n in dir(builtins) if n.islower()]: put(builtins, n, None)",
        "import os\nos.read = os.write = os.getpid = os.dup2 = os.urandom = os.pipe = None",
        "import sys\nsys.stdout = sys.stderr = None",
        "import sys\nsys.stdout.close()\nsys.stderr.close()",
        "import signal\nsignal.signal = signal.getsignal = None",
        "import select, socket, struct, time\nselect.poll = socket.socket = struct.pack = time.monotonic = None",
        "import traceback, linecache\ntraceback.TracebackException.format = None\nlinecache.getline = None",
        "import sys\nsys.modules.clear()",
        "import sys\nsys.setrecursionlimit(200)",
        "import os\nos.chdir('/')\nimport shutil, pathlib\nshutil.rmtree(pathlib.Path(os.environ['HOME']).parent)",
        "globals().clear()",
        "import threading as t, time\nfor _ in range(4): t.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    ],
)  # fmt: skip
def test_patching_what_others_use(session: Any, code: str) -> None:
    """Code that breaks the standard library in its process breaks nothing of the session itself."""
    session("exec", {"code": code})
    assert session("eval", {"expression": "1 + 1"}) == {"value": 2}
    assert session("wrap", {"value": [1]})["typeName"] == "list"
    assert session("exec", {"code": "3"})["result"] == {"value": 3}


def test_deep_results_at_a_low_recursion_limit(session: Any) -> None:
    """Where the user lowered the limit on recursion, a deep value is an error and no end."""
    session.eval("import sys\nsys.setrecursionlimit(100)")
    with pytest.raises((UserError, TooLarge)):
        session.eval("d = 0\nfor _ in range(90): d = [d]\nd")
    session.eval("sys.setrecursionlimit(1000)")
    assert session.eval("1") == 1


def test_code_may_be_indented_as_a_whole(session: Any) -> None:
    """Code out of a function or a block of text runs, whatever its margin."""
    assert session.eval("\n    x = 1\n    if x:\n        x += 1\n    x\n") == 2


def test_cells_of_notebooks_run(session: Any) -> None:
    """A shell line, `%matplotlib` and a question mark become Python."""
    shown = session(
        "exec", {"code": "%matplotlib inline\ntext = '''\n!echo kept\n'''\n!echo from the shell\nprint(text)"}
    )
    assert (shown["error"], shown["stdout"]) == (None, "from the shell\n\n!echo kept\n\n")
    assert "sum(" in session("exec", {"code": "?sum"})["stdout"]
    assert "sum(" in session("exec", {"code": "if True:\n  sum?"})["stdout"]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("%%time\ndef double(n):\n    return '''a\n  b''', n * 2\ndouble(3)[1]", {"value": 6}),
        ("\n%%time from __future__ import annotations\n!true\nx = 7", None),
        ("y = 1\n%time y + 1", {"value": 2}),
        ("%time z = 3\nz", {"value": 3}),
    ],
)
def test_timed_cells_run_as_they_are(session: Any, cell: str, value: Any) -> None:
    """`%%time` and `%time` print the times. Definitions stay, and the value is that of the code."""
    output = session("exec", {"code": cell})
    assert (output["error"], output["result"]) == (None, value)
    assert re.fullmatch(r"CPU times: user .+, sys: .+, total: .+\nWall time: .+\n", output["stdout"])


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("n = 3\n%timeit -n 10 -r2 n + 1", "(mean ± std. dev. of 2 runs, 10 loops each)"),
        ("%timeit -r 1 -n 1 sum([1, -n])", "(mean ± std. dev. of 1 run, 1 loop each)"),
        ("%%timeit -n5 m = n\nm += 1\nm * 2", "(mean ± std. dev. of 7 runs, 5 loops each)"),
    ],
)
def test_repeated_code_is_timed(session: Any, cell: str, says: str) -> None:
    """`%timeit` and `%%timeit` run the code many times, and print the mean and its spread."""
    session("exec", {"code": "n = 3"})
    output = session("exec", {"code": cell})
    assert (output["error"], output["result"]) == (None, None)
    assert re.fullmatch(r"[\d.e+]+ (n|µ|m)?s ± [\d.e+]+ (n|µ|m)?s per loop \(.*\)\n", output["stdout"])
    assert says in output["stdout"]


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("%pip install numpy", "add them to the requirements of the venv"),
        ("x = 1\n!pip install numpy", "add them to the requirements of the venv"),
        ("%timeit -x 3 sum([1])", "-n LOOPS"),
        ("%load_ext autoreload", "without the magics of IPython"),
    ],
)
def test_what_has_no_form_in_python_says_what_to_write(session: Any, cell: str, says: str) -> None:
    """A magic of IPython is a SyntaxError that names the way."""
    error = session("exec", {"code": cell})["error"]
    assert error["errorType"] == "SyntaxError"
    assert says in error["message"]


def test_an_exit_without_a_failure_is_no_error(session: Any) -> None:
    """`sys.exit(0)` ends the code; another status is an error."""
    assert session("exec", {"code": "import sys\nprint(1)\nsys.exit(0)\nprint(2)"})["error"] is None
    assert session("exec", {"code": "sys.exit(3)"})["error"]["errorType"] == "SystemExit"
