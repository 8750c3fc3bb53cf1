"""What `exec` catches, shows and streams."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest


def run(session: Any, code: str, **fields: Any) -> Any:
    return session("exec", {"code": code}, **fields)


@pytest.mark.slow
def test_output_of_every_level(session: Any) -> None:
    """Prints, raw writes, C code and child processes are caught, in the order in which they were written."""
    code = (
        "import os, sys, subprocess, ctypes\nprint('one')\nos.write(1, b'two\\n')\n"
        "subprocess.run(['sh', '-c', 'echo three; echo bad >&2'])\nos.system('echo four')\n"
        "ctypes.CDLL(None).puts(b'five')\nctypes.CDLL(None).fflush(None)\nprint('six', file=sys.stderr)"
    )
    output = run(session, code)
    assert output["stdout"] == "one\ntwo\nthree\nfour\nfive\n"
    assert output["stderr"] == "bad\nsix\n"
    assert output["error"] is None
    assert output["truncated"] is False


def test_a_python_of_user_code_does_not_buffer(session: Any) -> None:
    """What a Python that user code starts prints comes before what it writes later."""
    child = "import os; print('one'); os.write(1, b'two\\n')"
    finished = run(session, f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])")
    assert finished["stdout"] == "one\ntwo\n"


def test_buffered_c_output_is_flushed(session: Any) -> None:
    """What C code printed and its library still held is in the output too."""
    assert run(session, "import ctypes\nctypes.CDLL(None).printf(b'late')\nNone")["stdout"] == "late"


def test_output_of_a_failing_exec(session: Any) -> None:
    """What was printed before the error is kept, partial lines too."""
    output = run(session, "print('before', end='')\nimport sys\nsys.stderr.write('w')\n1 / 0")
    assert (output["stdout"], output["stderr"]) == ("before", "w")
    assert output["error"]["errorType"] == "ZeroDivisionError"
    assert output["result"] is None


def test_results(session: Any) -> None:
    """The result is the last expression's: a value, a handle, or null."""
    assert run(session, "1\n2")["result"] == {"value": 2}
    assert run(session, "x = 1")["result"] is None
    assert run(session, "None")["result"] is None
    held = run(session, "object()")["result"]
    assert held["isHandle"] is True
    assert held["repr"].startswith("<object")


def test_executions_are_numbered_and_have_the_text_of_their_value(session: Any) -> None:
    """As in a notebook; only `exec` counts, also where it fails."""
    first = run(session, "[1, 'a']")
    session.eval("1")
    failed, last = run(session, "1 / 0"), run(session, "'x' * 2000")
    assert [each["executionCount"] - first["executionCount"] for each in (failed, last)] == [1, 2]
    assert (first["resultText"], failed["resultText"]) == ("[1, 'a']", None)
    assert (len(last["resultText"]), run(session, "None")["resultText"]) == (1000, None)


def test_texts_that_are_no_utf8(session: Any) -> None:
    """Bytes that are no UTF-8 become replacement characters; characters cut in two by chunks do not."""
    output = run(
        session, "import os\nos.write(1, b'\\xff')\nfor part in (b'\\xe2', b'\\x98', b'\\x83'): os.write(1, part)"
    )
    assert output["stdout"] == "\ufffd\u2603"
    assert run(session, "print('\\ud800')")["stdout"] == "\\ud800\n"


@pytest.mark.slow
def test_output_between_calls_is_not_caught(new_host: Any) -> None:
    """What `eval` prints goes to the worker host's log and into no answer."""
    host = new_host()
    session = host.start()
    assert session.eval("print('from eval')\nimport os\nos.write(2, b'raw\\n')\n5") == 5
    assert run(session, "print('from exec')")["stdout"] == "from exec\n"
    assert session.eval("print('again')\n6") == 6
    log = host.stop()
    assert "from eval" in log
    assert "raw" in log
    assert "again" in log
    assert "from exec" not in log


def test_background_output_never_blocks(session: Any) -> None:
    """A process left in the background by one `exec` writes as much as it likes, and calls go on."""
    flood = f"i=0; while [ $i -lt 3000 ]; do echo {'y' * 100}; i=$((i+1)); done"
    run(session, f"import subprocess\np = subprocess.Popen(['sh', '-c', {flood!r}])")
    assert session.eval("p.wait()") == 0


def test_threads_print_into_the_exec(session: Any) -> None:
    """Output of the user's threads is caught while the `exec` runs."""
    code = "import threading\nt = threading.Thread(target=print, args=('thread',))\nt.start()\nt.join()"
    assert run(session, code)["stdout"] == "thread\n"


@pytest.mark.slow
def test_output_is_bounded(start: Any) -> None:
    """Output over `outputBytes` is cut with a marker, and the code runs to its end."""
    session = start(outputBytes=10_000)
    output = run(session, "import sys\nfor i in range(200_000): print('x' * 100)\ndone = 1")
    assert output["truncated"] is True
    assert output["error"] is None
    assert output["stdout"].startswith("x" * 100)
    assert output["stdout"].rstrip().endswith("outputBytes is 10000]")
    assert len(output["stdout"]) < 10_200
    assert session.eval("done") == 1
    assert run(session, "print('short')")["truncated"] is False


@pytest.mark.parametrize("written", [b"\0", b"\n", b"\xff", b"x", "\U0001f600".encode()])
def test_output_is_counted_as_json(session: Any, written: bytes) -> None:
    """Output fits into the result, whatever it takes as JSON: it is cut with a marker before."""
    output = run(session, f"import sys\nsys.stdout.buffer.write({written!r} * (5 << 20))")
    assert output["truncated"] is True
    assert output["stdout"].endswith("\n[output cut: the limit outputBytes is 4194304]\n")
    assert len(json.dumps(output["stdout"], ensure_ascii=False).encode()) in range(4_190_000, 4_194_304 + 100)


def test_output_leaves_room_in_the_result(start: Any) -> None:
    """More output than a result may have is cut by that, and the marker says so."""
    output = run(start(resultBytes=10_000), "print('x' * 20_000)")
    assert output["stdout"].endswith("\n[output cut: the limit resultBytes is 10000]\n")
    assert len(output["stdout"]) > 7000


@pytest.mark.slow
def test_output_without_limits(start: Any) -> None:
    """Without any limit it is cut where a line ends."""
    session = start(outputBytes=None, resultBytes=None)
    output = run(session, "print('x' * (20 << 20))")
    assert "a line holds 16777216 bytes" in output["stdout"][-100:]


def test_c_output_is_bounded(start: Any) -> None:
    """A child process that floods its output is bounded too and not stopped by it."""
    session = start(outputBytes=1000)
    finished = run(session, "import subprocess\nsubprocess.run('yes | head -c 20000000', shell=True).returncode")
    assert finished["result"] == {"value": 0}
    assert finished["truncated"] is True
    assert len(finished["stdout"]) < 1200


def test_streaming(session: Any) -> None:
    """With `stream` output comes as events while the code still runs, and the reply holds it again."""
    code = "import time\nprint('first')\nwhile not globals().get('go'): time.sleep(0.01)"
    session.eval("import threading, os, time")
    session.eval(
        "def watch():\n    global go\n    while not os.path.exists('go'): time.sleep(0.01)\n    go = True\n"
        "threading.Thread(target=watch, daemon=True).start()"
    )
    session.send("exec", {"code": code + "\nprint('last')"}, stream=True)
    session.shown("first")
    directory = session.files.parent
    (directory / "files" / "go").touch()
    reply = session.reply()
    assert reply["result"]["stdout"] == "first\nlast\n"
    assert "".join(event["data"] for event in session.events if event["event"] == "stdout") == "first\nlast\n"
    assert {event["id"] for event in session.events} == {reply["id"]}


def test_no_events_unless_asked(session: Any) -> None:
    """Without `stream` there is one line of answer and no more."""
    run(session, "print(1)\ndisplay(2)")
    assert session.events == []


# ---- display ---------------------------------------------------------------------------------------------------


def test_rich_results(session: Any) -> None:
    """An object with `_repr_*_` methods is shown in all its formats, binary ones in base64."""
    code = (
        "class Rich:\n    def _repr_html_(self): return '<b>x</b>'\n    def _repr_png_(self): return b'\\x89PNG'\n"
        "    def _repr_json_(self): return {'a': [1]}\n    def _repr_latex_(self): return None\n"
        "    def __repr__(self): return 'rich'\nRich()"
    )
    output = run(session, code)
    (bundle,) = output["display"]
    assert bundle == {
        "text/html": "<b>x</b>",
        "image/png": base64.b64encode(b"\x89PNG").decode(),
        "application/json": {"a": [1]},
        "text/plain": "rich",
    }
    assert output["result"]["isHandle"] is True


def test_mimebundles(session: Any) -> None:
    """`_repr_mimebundle_` is asked too, with or without metadata."""
    code = "class M:\n    def _repr_mimebundle_(self, **which):\n        return {'text/x': 'y'}, {}\nM()"
    assert run(session, code)["display"][0]["text/x"] == "y"


def test_plain_results_are_not_shown(session: Any) -> None:
    """A value without rich formats is the result only; objects that answer to any name mean nothing by it."""
    code = "class Any:\n    def __getattr__(self, name): return lambda *a, **k: 'junk'\nAny()"
    assert run(session, code)["display"] == []
    assert run(session, "[1]")["display"] == []


IDS = """
handle = display('a', 'b', display_id='x')
display('c')
handle.update('d')
print(handle.display_id, display(1, display_id=True).display_id != '')
update_display('e', display_id='earlier')
"""
ID = "application/vnd.venvd.display-id+json"


def test_updates_of_displays(session: Any) -> None:
    """An update takes the place of what its ID shows. One of an earlier `exec` is an update still."""
    session.send("exec", {"code": IDS}, stream=True)
    reply = session.reply()
    texts = [(item["text/plain"], item.get(ID, {}).get("update")) for item in reply["result"]["display"]]
    assert texts == [("'d'", False), ("'d'", False), ("'c'", None), ("1", False), ("'e'", True)]
    shown = [event["data"] for event in session.events if event["event"] == "display"]
    assert [item["text/plain"] for item in shown] == ["'a'", "'b'", "'c'", "'d'", "1", "'e'"]
    assert shown[3][ID] == {"id": "x", "update": True}
    assert reply["result"]["stdout"] == "x True\n"


def test_an_updated_display_takes_no_more_room(session: Any) -> None:
    """Only what a display shows last counts towards the limit of the output."""
    code = "h = display('x' * 90_000, display_id='a')\nfor _ in range(1000): h.update('y' * 90_000)"
    output = run(session, code)
    assert (len(output["display"]), output["truncated"]) == (1, False)


def test_display_has_the_arguments_of_ipython(session: Any) -> None:
    """Bundles are shown as they are, and formats can be chosen."""
    code = "display({'text/html': '<b>1</b>', 'text/plain': '1'}, raw=True, exclude=['text/html'])\n"
    (bundle,) = run(session, code + "None")["display"]
    assert bundle == {"text/plain": "1"}
    assert run(session, "display(1, raw=True)")["error"]["errorType"] == "TypeError"
    assert run(session, "display(1, update=True)")["error"]["errorType"] == "TypeError"


IPYTHON = """
import pathlib
for name, text in {'__init__': '', 'display': 'from IPython.core.display_functions import *', 'core/__init__': '',
                   'core/display_functions': 'def display(*_): raise OSError\\nupdate_display = display'}.items():
    path = pathlib.Path('IPython', name + '.py')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
import IPython.display
IPython.display.display(1, display_id='i')
IPython.display.update_display(2, display_id='i')
"""


def test_ipythons_display_shows(session: Any) -> None:
    """`IPython.display.display` is the built-in one."""
    output = run(session, IPYTHON)
    assert (output["error"], [item["text/plain"] for item in output["display"]]) == (None, ["2"])


def test_display_shows_in_order(session: Any) -> None:
    """`display` is a built-in; what it shows stands between what was printed before and after."""
    session.send("exec", {"code": "print('a')\ndisplay('b', 3)\nprint('c')"}, stream=True)
    reply = session.reply()
    assert [item["text/plain"] for item in reply["result"]["display"]] == ["'b'", "3"]
    told = [(event["event"], event["data"]) for event in session.events]
    assert told == [
        ("stdout", "a\n"),
        ("display", {"text/plain": "'b'"}),
        ("display", {"text/plain": "3"}),
        ("stdout", "c\n"),
    ]


def test_what_is_shown_counts_as_output(start: Any) -> None:
    """A bundle that does not fit into `outputBytes` is dropped, and the answer says so."""
    session = start(outputBytes=500)
    code = "class Big:\n    def _repr_html_(self): return 'x' * 600\ndisplay(Big())\ndisplay(1)"
    output = run(session, code)
    assert output["truncated"] is True
    assert output["display"] == [{"text/plain": "1"}]


def test_what_is_shown_is_counted_as_json(session: Any) -> None:
    """A text that takes more than `outputBytes` as JSON is dropped."""
    output = run(
        session, "class Big:\n    def _repr_html_(self): return chr(0) * (1 << 20)\ndisplay(Big())\ndisplay(1)"
    )
    assert output["truncated"] is True
    assert output["display"] == [{"text/plain": "1"}]


def test_a_rich_repr_that_fails_is_the_users_error(session: Any) -> None:
    """An error in a `_repr_*_` method is told as the error of the code."""
    output = run(session, "class Bad:\n    def _repr_html_(self): return 1 / 0\nBad()")
    assert output["error"]["errorType"] == "ZeroDivisionError"


@pytest.mark.parametrize(
    ("code", "begins"),
    [
        ("type('Bad', (), {'__repr__': lambda s: 1 / 0})()", "<Bad object, whose repr raised ZeroDivisionError>"),
        ("type('Bad', (), {'__repr__': lambda s: 5})()", "<Bad object, whose repr raised TypeError>"),
        ("type('Slow', (), {'__repr__': lambda s: __import__('time').sleep(60) or ''})()", "<Slow object, whose repr"),
        ("[object()] * 10**6", "[<object object"),
        ("{i: object() for i in range(10**5)}", "{0: <object object"),
        ("type('Long', (), {'__repr__': lambda s: 'x' * 10**6})()", "xxx"),
        ("type('Odd', (), {'__repr__': lambda s: '\\ud800'})()", "\\ud800"),
    ],
)
def test_reprs_are_safe(session: Any, code: str, begins: str) -> None:
    """The repr of a handle is bounded in length and time, and never an error."""
    result = session("eval", {"expression": code})
    assert result["repr"].startswith(begins)
    assert len(result["repr"]) <= 1000


def test_a_slow_repr_leaves_the_users_alarm(session: Any) -> None:
    """A timer that the user set still goes off."""
    session("exec", {"code": "import signal\nrang = []\nsignal.signal(signal.SIGALRM, lambda *a: rang.append(1))\n"
                             "signal.setitimer(signal.ITIMER_REAL, 0.2)"})  # fmt: skip
    session("eval", {"expression": "object()"})
    assert session.eval("import time\nwhile not rang: time.sleep(0.01)\nrang") == [1]


FIGURES = """
import sys, types

class Figure:
    def __init__(self, number): self.number = number
    def savefig(self, file, format, **options): file.write(b'PNG%d' % self.number)

pyplot = types.ModuleType('matplotlib.pyplot')
figures = {n: Figure(n) for n in (1, 2)}
pyplot.get_fignums = lambda: list(figures)
pyplot.figure = figures.__getitem__
pyplot.close = lambda figure: figures.pop(figure.number)
module = types.ModuleType('matplotlib.figure')
module.Figure = Figure
sys.modules.update({'matplotlib.pyplot': pyplot, 'matplotlib.figure': module})
figures[1]
"""


def test_open_figures_are_shown(session: Any) -> None:
    """Figures that pyplot has open are shown once each as PNG, and closed."""
    output = run(session, FIGURES)
    shown = [base64.b64decode(item["image/png"]) for item in output["display"]]
    assert shown == [b"PNG1", b"PNG2"]
    assert run(session, "1")["display"] == []
    assert base64.b64decode(run(session, "Figure(7)")["display"][0]["image/png"]) == b"PNG7"
