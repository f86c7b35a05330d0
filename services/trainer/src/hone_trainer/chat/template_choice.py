"""Which chat template a run trains and serves with: the base's own, one that comes with Hone, or a file.

ChatML and Mistral's format come with Hone, for bases that have none. Their answers end with the tokenizer's
`eos_token`, since that is where every server stops: so on a base whose tokenizer has no token `<|im_end|>`,
or another eos_token, ChatML's answers end with that one.
"""

import re
from pathlib import Path

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hone_contract.artifact import Artifact
from hone_contract.errors import BadConfiguration, BadInput, HoneError
from hone_contract.model_files import CHAT_TEMPLATE
from hone_contract.run_spec import RunSpec

_FOLDER = Path(__file__).parent / "templates"
BUILT_IN = tuple(sorted(path.stem for path in _FOLDER.glob("*.jinja")))
# transformers adds these tags; Jinja alone does not know them.
_MARKS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


def chosen_template(spec: RunSpec, spec_file: Path) -> str | None:
    """The text of the spec's `model.chat_template`; None when the base's own is to be taken.

    Raises BadConfiguration when there is no such template, or it cannot be used.
    """
    name = spec.model.chat_template
    if name is None:
        return None
    if name in BUILT_IN:
        return (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    if not (name.startswith((".", "/", "~")) or name.endswith((".jinja", ".jinja2", ".j2"))):
        raise BadConfiguration(
            f"{spec_file}: model.chat_template: there is no {name!r}; use {', '.join(BUILT_IN)}, "
            "or a Jinja file (./…)"
        )
    return _read(spec_file.parent / Path(name).expanduser(), f"{spec_file}: model.chat_template")


def own_template(base: Artifact) -> str:
    """The base's. Raises BadInput when it has none, or one that cannot be used."""
    path = base.path / CHAT_TEMPLATE
    if not path.is_file():
        raise BadInput(
            f"{base.path} has no {CHAT_TEMPLATE}; choose an instruction-tuned base, or add "
            "`model.chat_template: chatml` to the run spec"
        )
    text = path.read_text(encoding="utf-8")
    _check_date(text, f"the chat template of {base.manifest.id}", BadInput)
    return text


def _read(path: Path, place: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadConfiguration(f"{place}: {path} cannot be read: {error.strerror}; name a file") from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{place}: {path} is not UTF-8; save it as UTF-8") from error
    try:
        _environment().from_string(_MARKS.sub("", text))
    except TemplateSyntaxError as error:
        raise BadConfiguration(f"{path}:{error.lineno}: is no Jinja template: {error.message}") from error
    _check_date(text, str(path), BadConfiguration)
    return text


def _environment() -> ImmutableSandboxedEnvironment:
    # As transformers and vLLM set it up; nothing is rendered here.
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )


def _check_date(text: str, place: str, kind: type[HoneError]) -> None:
    if "strftime_now" in text:
        raise kind(
            f"{place} writes today's date into every prompt, so what is served tomorrow would not be what "
            "was trained; replace strftime_now by a fixed date in a copy of it, and name the copy as "
            "model.chat_template"
        )
