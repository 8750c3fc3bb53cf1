"""`venvd console`: the commands of `venvd` at a prompt."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterable, Sequence

import click
from click.shell_completion import ShellComplete

from venvd._cli.command import State, fields
from venvd._cli.prompts import CompleteEvent, Completer, Completion, Document, Prompt, offer
from venvd._cli.running import DONE, USAGE_ERROR, run_words
from venvd._cli.terminal import write

ALIASES = {
    **dict.fromkeys(["i"], "init"),
    **dict.fromkeys(["check", "validate"], "config"),
    **dict.fromkeys(["run", "serve"], "start"),
    **dict.fromkeys(["st", "info"], "status"),
    **dict.fromkeys(["ls", "runtimes"], "list"),
    **dict.fromkeys(["virtualenv", "env"], "venv"),
    **dict.fromkeys(["h", "?"], "help"),
    **dict.fromkeys(["q", "quit"], "exit"),
    **dict.fromkeys(["cls"], "clear"),
    **dict.fromkeys(["m"], "menu"),
}
OWN_WORDS = {
    "help": "List the commands; `help COMMAND` shows the options of one.",
    "menu": "Show a numbered menu; a number runs its entry.",
    "clear": "Clear the screen.",
    "exit": "Leave; so does Ctrl-D.",
}
MENU = (
    "init",
    "config",
    "start http",
    "start pipe",
    "start rpc",
    "stop",
    "status",
    "list",
    "venv list",
    "backend list",
    "help",
    "exit",
)


class Console:
    """Runs entered lines. Its status is that of the first line that failed, or 0 if none failed.

    Args:
        group: the program with its commands.
        state: the state with the controller that the commands use.
    """

    def __init__(self, group: click.Group, state: State) -> None:
        self.status = DONE
        self._group = group
        self._outer = state

    def make_state(self) -> State:
        """Return the state of one line."""
        state = State()
        state.url, state.token = self._outer.url, self._outer.token
        return state

    def enter(self, line: str) -> bool:
        """Run one line, and return whether the console goes on."""
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            write(f"Error: {error}; a quote in a word is written \\' or \\\"", err=True)
            self._note(USAGE_ERROR)
            return True
        words = resolve(words)
        if words == ["exit"]:
            return False
        if words:
            self._note(self._run_words(words))
        return True

    def _run_words(self, words: Sequence[str]) -> int:
        word, *rest = words
        if word in OWN_WORDS:
            return self._run_own(word, rest)
        if word in {"console", "completion"}:
            write(f'Error: "{word}" is not a command of the console', err=True)
            return USAGE_ERROR
        on_termination = signal.getsignal(signal.SIGTERM)
        try:
            return run_words(self._group, words, self.make_state())
        finally:
            signal.signal(signal.SIGTERM, on_termination)

    def _run_own(self, word: str, rest: Sequence[str]) -> int:
        if word == "help" and rest and rest[0] not in OWN_WORDS:
            return run_words(self._group, [*rest, "--help"], self.make_state())
        if rest and word != "help":
            write(f'Error: "{word}" takes no arguments', err=True)
            return USAGE_ERROR
        if word == "help":
            write(OWN_WORDS[rest[0]] if rest else self._help())
        elif word == "menu":
            write(fields([(f"{number:2}", entry) for number, entry in enumerate(MENU, 1)]))
        elif word == "clear":
            click.clear()
        return DONE

    def _help(self) -> str:
        context = click.Context(self._group)
        shown = []
        for name in self.words():
            command = self._group.get_command(context, name)
            says = OWN_WORDS.get(name) or (command.get_short_help_str(80) if command else "")
            others = ", ".join(alias for alias, word in ALIASES.items() if word == name)
            shown.append((name, f"{says} ({others})" if others else says))
        return fields(shown)

    def words(self) -> list[str]:
        """Return the first words of lines, without aliases."""
        names = {*self._group.list_commands(click.Context(self._group)), *OWN_WORDS} - {"console", "completion"}
        return sorted(names)

    def _note(self, status: int) -> None:
        self.status = self.status or status


def resolve(words: Sequence[str]) -> list[str]:
    """Return the words, and replace an alias or a number of the menu with the words that it stands for."""
    if not words:
        return []
    first, *rest = words[1:] if words[0] == "venvd" and len(words) > 1 else words
    if first.isdecimal() and not rest and 0 < int(first) <= len(MENU):
        return MENU[int(first) - 1].split()
    return [ALIASES.get(first, first), *rest]


class WordCompleter(Completer):
    """Offers words, options and names, as the completion of the shell does."""

    def __init__(self, console: Console, group: click.Group) -> None:
        self._console = console
        self._group = group

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterable[Completion]:
        """Yield what may stand at the cursor."""
        text = document.text_before_cursor
        try:
            words = shlex.split(text)
        except ValueError:
            return
        last = words.pop() if words and not text.endswith(" ") else ""
        words = resolve(words)
        if not words or words == ["help"]:
            yield from offer([*self._console.words(), *(() if last == "" else ALIASES)], last)
            return
        state = self._console.make_state()
        known = ShellComplete(self._group, {"obj": state}, "venvd", "").get_completions(words, last)
        yield from offer([item.value for item in known if item.type == "plain"], last)
        state.close()


def run_console(group: click.Group, state: State) -> int:
    """Read and run lines until the user leaves. Return the exit code."""
    console = Console(group, state)
    prompt = Prompt("console_history", WordCompleter(console, group))
    if prompt.at_terminal:
        write("venvd console: `help` lists the commands, `exit` or Ctrl-D leaves", err=True)
    while True:
        try:
            if not console.enter(prompt.read("venvd> ")):
                break
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
    return DONE if prompt.at_terminal else console.status
