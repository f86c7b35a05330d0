"""A line editor with a history. Enter asks, Alt-Enter starts another line, and a paste stays one question."""

import sys
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.vt100 import Vt100_Output

from hone_chat.prompt import GOES_ON, MORE, PROMPT
from hone_chat.terminal import note


class Editor:
    """Reads what a person types; what was typed before comes back with the arrow keys."""

    def __init__(self, history: Path | None) -> None:
        self._history = InMemoryHistory() if history is None else _PrivateHistory(history)
        screen = Vt100_Output.from_pty(sys.stderr if sys.stderr.isatty() else sys.stdout)
        # Asking the terminal where the cursor is confuses those that are slow or do not answer.
        screen.enable_cpr = False
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation=MORE,
            key_bindings=_keys(),
            history=self._history,
            input=create_input(sys.stdin),
            output=screen,
            reserve_space_for_menu=0,
            enable_suspend=True,
        )

    def read(self) -> str | None:
        """What was typed; Ctrl-D, and Ctrl-C with nothing typed, leave."""
        try:
            return _text(self._session.prompt())
        except (EOFError, KeyboardInterrupt):
            return None
        finally:
            self._tell_of_trouble()

    def _tell_of_trouble(self) -> None:
        # Not at once: a note would spoil a line that is being edited.
        if isinstance(self._history, _PrivateHistory) and self._history.trouble:
            note(self._history.trouble)
            self._history.trouble = None


class _PrivateHistory(FileHistory):
    """A file that only its owner reads. That it cannot be used is `trouble`, and no failure."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self.trouble: str | None = None
        self._file = file
        self._is_usable = True
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
        except OSError as error:
            self._give_up(error)

    def load_history_strings(self) -> Iterable[str]:
        """What was typed before, the newest first."""
        try:
            return list(super().load_history_strings()) if self._is_usable else []
        except OSError as error:
            self._give_up(error)
            return []

    def store_string(self, string: str) -> None:
        """Keep what was typed."""
        if not self._is_usable:
            return
        try:
            super().store_string(_text(string))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._is_usable = False
        self.trouble = (
            f"What you type is not kept for later: {self._file}: {error.strerror}. "
            "Correct that, or use --no-history."
        )


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _ask_or_go_on(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if (
            buffer.document.current_line_before_cursor.endswith(GOES_ON)
            and buffer.document.is_cursor_at_the_end
        ):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _start_a_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _clear_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys


def _text(typed: str) -> str:
    # Bytes that are no UTF-8 arrive as lone surrogates, which can be neither kept nor sent.
    return typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
