"""The slash commands of a conversation."""

import difflib
from collections.abc import Callable
from pathlib import Path

from hone_chat.client import Client
from hone_chat.conversation import Conversation
from hone_chat.errors import BadInput

_HELP = """\
/help         show this
/reset        forget what was said; the system prompt stays
/system TEXT  set the system prompt; without TEXT: remove it
/model NAME   talk to another model; without NAME: list them
/save FILE    write the conversation to a new file, as one line of chat JSONL
exit, quit    leave, as Ctrl-D and Ctrl-C do; during an answer Ctrl-C stops only the answer
A space before the / asks the line as a question."""

_Command = Callable[[Conversation, Client, str], str]


def run_command(line: str, conversation: Conversation, client: Client) -> str:
    """Do what a line that starts with a slash says; the result is what to tell the user."""
    name, _, argument = line.strip().partition(" ")
    command = _COMMANDS.get(name.lower())
    if command is None:
        close = difflib.get_close_matches(name, _COMMANDS, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise BadInput(f"There is no command {name}. {hint}/help lists them.")
    return command(conversation, client, argument.strip())


def _help(_conversation: Conversation, _client: Client, _argument: str) -> str:
    return _HELP


def _reset(conversation: Conversation, _client: Client, _argument: str) -> str:
    conversation.turns.clear()
    return "Forgotten."


def _system(conversation: Conversation, _client: Client, argument: str) -> str:
    conversation.system = argument or None
    return "System prompt set." if argument else "System prompt removed."


def _model(conversation: Conversation, client: Client, argument: str) -> str:
    if not argument:
        names = "\n".join(client.model_names())
        return f"{names}\nYou talk to {conversation.model}."
    conversation.model = argument
    return f"You talk to {argument} now."


def _save(conversation: Conversation, _client: Client, argument: str) -> str:
    if not argument:
        raise BadInput("/save needs a file: /save FILE")
    if not conversation.turns:
        raise BadInput("Nothing was said yet. Ask something, then /save.")
    file = Path(argument).expanduser()
    conversation.save(file)
    return f"Saved to {file}."


_COMMANDS: dict[str, _Command] = {
    "/help": _help,
    "/reset": _reset,
    "/system": _system,
    "/model": _model,
    "/save": _save,
}
