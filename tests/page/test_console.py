"""The console of the web page: code in, output as it comes; and output that attacks the page."""

from __future__ import annotations

import re

import pytest
from harness.browsers import create_key, log_in
from harness.controller import Controller
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.slow, pytest.mark.needs("chromium")]

FIGURE = """
import struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
class Figure:
    def _repr_png_(self):
        rows = b"".join(b"\\0" + b"\\x10\\x80\\x80" * 30 for _ in range(20))
        head = struct.pack(">IIBBBBB", 30, 20, 8, 2, 0, 0, 0)
        parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\\x89PNG\\r\\n\\x1a\\n" + parts
Figure()
"""
TABLE = """
class Table:
    def _repr_html_(self):
        return '''<style>th {color: red}</style><table border="1"><thead><tr><th></th><th>city</th></tr></thead>
        <tbody><tr><th>0</th><td><script>parent.hacked = 1</script>Bern<img src=x onerror="parent.hacked = 1"></td></tr>
        </tbody></table><p>1 row</p>'''
Table()
"""
HTML = """
class Html:
    def _repr_html_(self):
        return '''<b>bold</b><script>parent.hacked = 1; alert(1)</script><img src="https://example.com/x"
        onerror="parent.hacked = 1"><meta http-equiv="refresh" content="0;url=https://example.com/">'''
Html()
"""
SVG = """
class Drawing:
    def _repr_svg_(self):
        return '''<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20" onload="parent.hacked = 1">
        <script>parent.hacked = 1; alert(1)</script><image href="https://example.com/x"/>
        <rect width="40" height="20"/></svg>'''
Drawing()
"""


@pytest.fixture
def console(page: Page, controller: Controller) -> Page:
    """The console of the backend `demo`, for a key that may only use it."""
    log_in(page, create_key(controller, "use:demo"))
    page.get_by_role("link", name="Console of demo").press("Enter")
    expect(page.get_by_label("Code", exact=True)).to_be_focused()
    return page


def run(page: Page, code: str) -> Locator:
    """Run code, and return its output once it has ended."""
    page.get_by_label("Code", exact=True).fill(code)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Run")).to_be_enabled()
    expect(page.locator(".entry .code").last).to_have_text(code.rstrip())
    return page.locator(".entry .output").last


def test_output_results_and_errors(console: Page) -> None:
    """Output comes in its order, results are as Python writes them, and errors have their traceback."""
    output = run(
        console,
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\n(1, 2.0, 2**70, None, {'a': b'\\xff'}, 'it\\'s')",
    )
    expect(output).to_have_text(
        re.compile(r"out\s*err\s*\(1, 2\.0, 1180591620717411303424, None, \{'a': b'\\xff'\}, \"it's\"\)\s*")
    )
    expect(output.locator(".stderr")).to_have_text("err")
    expect(run(console, "object()")).to_contain_text("<object object at")
    failed = run(console, "def divide():\n    return 1 / 0\n\ndivide()")
    expect(failed).to_contain_text("in divide")
    expect(failed).to_contain_text("ZeroDivisionError: division by zero")


def test_output_comes_while_the_code_runs(console: Page) -> None:
    """Output is shown before the code ends; Ctrl+C interrupts an endless loop, and the state stays."""
    code = console.get_by_label("Code", exact=True)
    code.fill("kept = 42\nprint('begun')\nwhile True: pass")
    console.keyboard.press("Control+Enter")
    expect(console.locator(".output").last).to_contain_text("begun")
    expect(console.get_by_role("button", name="Run")).to_be_disabled()
    console.keyboard.press("Control+c")
    expect(console.locator(".output").last).to_contain_text("KeyboardInterrupt")
    expect(run(console, "kept")).to_have_text("42")


def test_the_button_interrupts_and_leaving_cancels(console: Page, controller: Controller) -> None:
    """The button interrupts as well, and a call whose client leaves the view ends at the backend."""
    console.get_by_role("button", name="New session").click()
    expect(console.get_by_label("Session", exact=True)).not_to_have_value("default")
    session = console.get_by_label("Session", exact=True).input_value()
    code = console.get_by_label("Code", exact=True)
    code.fill("print('begun')\nwhile True: pass")
    code.press("Control+Enter")
    expect(console.locator(".output").last).to_contain_text("begun")
    console.get_by_role("button", name="Interrupt").click()
    expect(console.locator(".output").last).to_contain_text("KeyboardInterrupt")
    expect(console.get_by_role("button", name="Run")).to_be_enabled()
    code.fill("print('begun')\nwhile True: pass")
    code.press("Control+Enter")
    expect(console.locator(".output").last).to_contain_text("begun")
    console.get_by_role("link", name="About the backend").click()
    expect(console.get_by_text("Address")).to_be_visible()
    console.get_by_role("link", name="Console").click()
    expect(console.locator(f"option[value='{session}']")).to_be_attached()
    console.get_by_label("Session", exact=True).select_option(session)
    expect(run(console, "'the session is free'")).to_have_text("'the session is free'")
    console.get_by_role("button", name="End session").click()
    console.get_by_role("dialog").get_by_role("button", name="End").click()
    expect(console.get_by_label("Session", exact=True)).to_have_value("default")


def test_keys_write_blocks_and_recall(console: Page) -> None:
    """Enter goes on inside a block and runs a whole statement; the arrow keys recall what was run."""
    code = console.get_by_label("Code", exact=True)
    console.keyboard.type("for i in range(2):\nprint(i)\n")
    expect(code).to_have_value("for i in range(2):\n    print(i)\n    ")
    console.keyboard.press("Control+Enter")
    expect(console.locator(".output").last).to_have_text(re.compile(r"0\s*1\s*"))
    expect(console.get_by_role("button", name="Run")).to_be_enabled()
    console.keyboard.type("'second'\n")
    expect(console.locator(".output").last).to_have_text("'second'")
    expect(console.get_by_role("button", name="Run")).to_be_enabled()
    console.keyboard.press("ArrowUp")
    expect(code).to_have_value("'second'")
    console.keyboard.press("ArrowUp")
    expect(code).to_have_value("for i in range(2):\n    print(i)")


def test_figures_and_tables(console: Page) -> None:
    """A figure is an image, and a table is a table with its heads."""
    image = run(console, FIGURE).locator("img")
    expect(image).to_be_visible()
    assert image.evaluate("async (image) => (await image.decode(), [image.naturalWidth, image.naturalHeight])") == [
        30,
        20,
    ]
    table = run(console, TABLE).get_by_role("table")
    expect(table.get_by_role("columnheader", name="city")).to_be_visible()
    expect(table.get_by_role("rowheader")).to_have_text("0")
    expect(table.get_by_role("cell")).to_contain_text("Bern")
    expect(table.locator("script, img")).to_have_count(0)


@pytest.mark.parametrize(("code", "shown"), [(TABLE, "table"), (HTML, "iframe"), (SVG, "img")])
def test_displays_run_no_code(console: Page, code: str, shown: str) -> None:
    """Scripts, handlers and addresses in HTML and SVG do nothing: no code runs, and no request leaves."""
    dialogs: list[str] = []
    foreign: list[str] = []
    console.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    console.on("request", lambda request: foreign.append(request.url) if "example.com" in request.url else None)
    console.on("requestfailed", lambda request: foreign.remove(request.url) if request.url in foreign else None)
    expect(run(console, code).locator(shown)).to_be_visible()
    if shown == "iframe":
        expect(console.frame_locator("iframe").get_by_text("bold")).to_be_visible()
    assert console.evaluate("'hacked' in window") is False
    assert (dialogs, foreign) == ([], [])
    expect(console.get_by_role("heading", name="demo")).to_be_visible()


def test_text_runs_no_code(console: Page) -> None:
    """Markup in output is text, colours are classes, and other escapes go."""
    output = run(
        console,
        "print('<img src=x onerror=hacked=1><script>hacked=1</script>\\x1b[31mred\\x1b[0m\\x1b]0;t\\x07\\x1b[2J')",
    )
    expect(output).to_have_text("<img src=x onerror=hacked=1><script>hacked=1</script>red")
    expect(output.locator(".fg-red")).to_have_text("red")
    expect(output.locator("script, img")).to_have_count(0)
    assert console.evaluate("'hacked' in window") is False


def test_a_flood_keeps_the_page_usable(console: Page) -> None:
    """A hundred thousand lines are shown as the last two thousand, and the page still takes code."""
    output = run(console, "for i in range(100_000): print(i)")
    expect(output.locator(".line").last).to_be_visible()
    assert output.locator(".line").count() <= 2000
    expect(run(console, "'still here'")).to_have_text("'still here'")


@pytest.mark.parametrize(("kind", "says"), [("pipe", "has a Unix socket"), ("rpc", "speaks gRPC")])
def test_other_types_say_why_they_have_no_console(
    admin_page: Page, controller: Controller, kind: str, says: str
) -> None:
    """A backend of another type says why it has no console, and what has one."""
    name = f"no-console-{kind}"
    controller.backend("plain", kind, name=name)
    admin_page.goto(f"/#/backends/{name}/console")
    expect(admin_page.get_by_text(says)).to_contain_text(f"venvd shell {name}")
    controller.delete_backend(name)
