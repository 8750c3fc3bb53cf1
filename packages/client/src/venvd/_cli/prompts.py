"""The prompt that `console` and `shell` share: reads lines from a terminal with history, or from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory

from venvd._home import home_directory

__all__ = ["CompleteEvent", "Completer", "Completion", "Document", "Prompt"]


class _History(FileHistory):
    """The lines of earlier runs, without those that begin with a space."""

    def store_string(self, string: str) -> None:
        if not string.startswith(" "):
            super().store_string(string)


def _open_history(name: str) -> _History:
    """Return the history in this file of the home. Only its owner may read the file."""
    home = home_directory()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / name
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    path.chmod(0o600)
    return _History(str(path))


class Prompt:
    """Reads what the user enters: from a terminal with history and completion, else from the lines of stdin.

    Args:
        history: the name of the history's file in the home.
        completer: offers completions for Tab.
        options: further options of the terminal's `PromptSession`.
    """

    def __init__(self, history: str, completer: Completer, **options: Any) -> None:
        self.at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self._session: PromptSession[str] | None = None
        if self.at_terminal:
            self._session = PromptSession(
                history=_open_history(history),
                completer=completer,
                complete_while_typing=False,
                complete_in_thread=True,
                enable_history_search=True,
                **options,
            )

    def read(self, prompt: str) -> str:
        """Return the next entry.

        Raises:
            EOFError: stdin has ended, or the user pressed Ctrl-D at a terminal.
            KeyboardInterrupt: the user pressed Ctrl-C at a terminal. The entry is lost.
        """
        if self._session is not None:
            return self._session.prompt(prompt)
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else _end()


def _end() -> NoReturn:
    raise EOFError


def offer(words: Iterable[str], prefix: str) -> Iterable[Completion]:
    """Yield the words as completions of the prefix."""
    return (Completion(word, start_position=-len(prefix)) for word in words if word.startswith(prefix))
