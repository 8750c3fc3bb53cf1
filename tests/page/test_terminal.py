"""Text of user code as the page shows it: colours are classes, and no escape or control character comes through."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("node")

MODULE = Path(__file__).parents[2] / "services/controller/src/venvd_controller/page/terminal.js"
PROGRAM = """
import { readFileSync } from "node:fs";
const { source, writes, most } = JSON.parse(readFileSync(0));
const { Terminal } = await import("data:text/javascript," + encodeURIComponent(source));
const shown = writes.map((parts) => {
  const terminal = new Terminal(most);
  parts.forEach((part) => terminal.write(part));
  const lines = terminal.lines.map((line) => line.map(({ text, style }) => [text, style]));
  return { lines, dropped: terminal.dropped };
});
console.log(JSON.stringify(shown));
"""
CASES: dict[str, tuple[list[str], list[list[list[str]]]]] = {
    "text": (["a\nb\r\nc"], [[["a", ""]], [["b", ""]], [["c", ""]]]),
    "colours": (["\x1b[31mred\x1b[0m plain"], [[["red", "fg-red"], [" plain", ""]]]),
    "two codes in one": (["\x1b[1;92mbold"], [[["bold", "bold fg-green"]]]),
    "a colour over two writes": (["\x1b[3", "4mblue"], [[["blue", "fg-blue"]]]),
    "an escape over three writes": (["a\x1b", "]0;title", "\x07b"], [[["ab", ""]]]),
    "256 colours": (["\x1b[38;5;196mr\x1b[48;5;21mb"], [[["r", "fg-red"], ["b", "fg-red bg-blue"]]]),
    "16 million colours": (["\x1b[38;2;0;255;0mg\x1b[39m."], [[["g", "fg-green"], [".", ""]]]),
    "a progress bar": (["10%\r20%\r100%"], [[["100%", ""]]]),
    "a shorter text over a longer one": (["long text\rab"], [[["ab", ""], ["ng text", ""]]]),
    "erase to the end of the line": (["long text\rab\x1b[K"], [[["ab", ""]]]),
    "backspace": (["abc\b\bX"], [[["a", ""], ["X", ""], ["c", ""]]]),
    "a title and a link": (["\x1b]0;evil\x07\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\"], [[["text", ""]]]),
    "cursor and screen": (["\x1b[2J\x1b[10;10Hx\x1b[?1049h"], [[["x", ""]]]),
    "C1 controls": (["\x9b31mred\x9d0;t\x9c!"], [[["red!", "fg-red"]]]),
    "control characters": (["a\x00\x07\x0bb\x7f\u202ec\u2066d"], [[["abcd", ""]]]),
    "a tab stays": (["a\tb"], [[["a\tb", ""]]]),
    "markup is text": (["<img src=x onerror=alert(1)>"], [[["<img src=x onerror=alert(1)>", ""]]]),
    "unknown colours": (["\x1b[999mx\x1b[38;5my"], [[["x", ""], ["y", "fg-white"]]]),
}


def show(writes: list[list[str]], most: int = 5000) -> Any:
    """What terminals show after the texts that are written to each of them."""
    given = json.dumps({"source": MODULE.read_text(), "writes": writes, "most": most})
    command = ["node", "--input-type=module", "-e", PROGRAM]
    ended = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    return dict(zip(CASES, show([writes for writes, _ in CASES.values()]), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_what_a_terminal_shows(shown: dict[str, Any], case: str) -> None:
    """The lines have the text and the classes of the table."""
    lines = [[each for each in line if each[0]] for line in shown[case]["lines"]]
    assert lines == CASES[case][1]


def test_old_lines_go() -> None:
    """A terminal keeps its newest lines, and counts those that it dropped."""
    (result,) = show([[f"{number}\n" for number in range(10)]], most=3)
    assert (result["lines"], result["dropped"]) == ([[["8", ""]], [["9", ""]], []], 8)


def test_an_escape_without_an_end_holds_little() -> None:
    """A string that never ends becomes text, so that it hides no more than its beginning."""
    (result,) = show([["\x1b]0;", *["x" * 1000] * 1000, "\nend"]])
    assert result["lines"][-1] == [["end", ""]]


def test_a_line_without_an_end_is_cut() -> None:
    """A line of a million characters is shown as its beginning."""
    (result,) = show([["y" * 1000] * 1000])
    assert sum(len(text) for text, _ in result["lines"][0]) < 20_000
