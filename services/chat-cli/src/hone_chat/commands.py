"""The slash commands of a conversation."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from hone_chat.conversation import Conversation
from hone_chat.errors import BadInput
from hone_chat.parameters import changed, described
from hone_chat.places import typed_path
from hone_chat.settings import COMPARE_OFF
from hone_chat.speaker import Speaker, titles
from hone_chat.spelling import did_you_mean
from hone_chat.talk import Talk
from hone_chat.terminal import one_line
from hone_chat.transcript import export, load, save

_KEYS = """\
exit, quit          leave, as Ctrl-D does, and Ctrl-C where nothing is typed
Ctrl-C              during an answer, stop it; at the prompt, clear what is typed
Alt-Enter           start another line; so does a \\ at a line's end and Enter. A paste stays one question
A space before the / asks the line as a question."""


@dataclass(frozen=True)
class _Command:
    argument: str
    summary: str
    run: Callable[[Talk, str], str]


def run_command(line: str, talk: Talk) -> str:
    """Do what a line that starts with a slash says; the result is what to tell the user, if anything."""
    # At any white space: what follows may start on a line of its own.
    name, *rest = line.split(maxsplit=1)
    command = _COMMANDS.get(name.lower())
    if command is None:
        raise BadInput(f"There is no command {name}.{did_you_mean(name, _COMMANDS)} /help lists them.")
    return command.run(talk, "".join(rest).strip())


def _help(_talk: Talk, _argument: str) -> str:
    lines = [f"{f'{name} {each.argument}':<20}{each.summary}" for name, each in _COMMANDS.items()]
    return "\n".join([*lines, _KEYS])


def _reset(talk: Talk, _argument: str) -> str:
    talk.conversation.forget()
    return "Forgotten."


def _system(talk: Talk, argument: str) -> str:
    talk.conversation.system = argument or None
    return "System prompt set." if argument else "System prompt removed."


def _retry(talk: Talk, _argument: str) -> str:
    talk.retry()
    return ""


def _undo(talk: Talk, _argument: str) -> str:
    return f"Dropped: {one_line(talk.conversation.drop_last().question, longest=80)}"


def _model(talk: Talk, argument: str) -> str:
    if not argument:
        names = "\n".join(talk.speaker.client.model_names())
        return f"{names}\nYou talk to {talk.speaker.model}."
    talk.speaker = replace(talk.speaker, model=argument)
    return f"You talk to {argument} now."


def _params(talk: Talk, argument: str) -> str:
    talk.sampling = changed(talk.sampling, argument)
    return described(talk.sampling)


def _compare(talk: Talk, argument: str) -> str:
    if argument.lower() == COMPARE_OFF:
        talk.second = None
        return f"You talk to {talk.speaker.model} alone."
    talk.second = Speaker(talk.second_client, argument or _the_other_model(talk))
    first, second = titles(talk.speakers)
    return f"Each question goes to {first} and {second}. The answers of {first} make the conversation."


def _the_other_model(talk: Talk) -> str:
    names = talk.second_client.model_names()
    if talk.second_client is talk.speaker.client:
        names = [name for name in names if name != talk.speaker.model]
    if len(names) != 1:
        known = one_line(", ".join(names)) or "no other"
        raise BadInput(f"/compare needs a model: /compare NAME. There is: {known}.")
    return names[0]


def _save(talk: Talk, argument: str) -> str:
    file = typed_path(_file_for("/save", talk.conversation, argument))
    save(talk.conversation, file)
    return f"Saved to {file}."


def _load(talk: Talk, argument: str) -> str:
    if not argument:
        raise BadInput("/load needs a file: /load FILE")
    talk.conversation.continue_from(load(argument))
    count = len(talk.conversation.turns)
    return f"The conversation is now that of {argument}: {count} {'turn' if count == 1 else 'turns'}."


def _export(talk: Talk, argument: str) -> str:
    file = typed_path(_file_for("/export", talk.conversation, argument))
    export(talk.conversation, file)
    return f"Exported to {file}."


def _file_for(name: str, conversation: Conversation, argument: str) -> str:
    if not argument:
        raise BadInput(f"{name} needs a file: {name} FILE")
    if not conversation.turns:
        raise BadInput(f"Nothing was said yet. Ask something, then {name}.")
    return argument


_COMMANDS: dict[str, _Command] = {
    "/help": _Command("", "show this", _help),
    "/reset": _Command("", "forget what was said; the system prompt stays", _reset),
    "/system": _Command("TEXT", "set the system prompt; without TEXT: remove it", _system),
    "/retry": _Command("", "ask the last question again, for another answer", _retry),
    "/undo": _Command("", "drop the last question and its answer", _undo),
    "/model": _Command("NAME", "talk to another model; without NAME: list them", _model),
    "/params": _Command("NAME=VALUE", "change the sampling, or PRESET; without either: show it", _params),
    "/compare": _Command("NAME", "put each question to a second model too; off: to one again", _compare),
    "/save": _Command("FILE", "write the conversation to a new file, as one line of chat JSONL", _save),
    "/load": _Command("FILE LINE", "go on with a conversation of such a file; LINE if it has several", _load),
    "/export": _Command("FILE", "write the conversation to a new file, as Markdown to read", _export),
}
