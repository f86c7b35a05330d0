"""What turns text into tokens: a base's tokenizer and chat template, not loaded before they are needed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hone_contract.artifact import Artifact
from hone_contract.manifest import digest_of
from hone_contract.model_files import TOKENIZER_FILES

if TYPE_CHECKING:
    from hone_trainer.data.lengths import Length


@dataclass(frozen=True)
class Tokeniser:
    """Of one base, with the chat template that a run trains with."""

    base: Artifact
    template: str
    """The chat template's text."""

    @property
    def folder(self) -> Path:
        return self.base.path

    @property
    def identity(self) -> dict[str, str]:
        """Equal when the same text becomes the same tokens."""
        return {
            "base": self.base.manifest.id,
            "tokenizer": digest_of(
                {file.path: file.sha256 for file in self.base.manifest.files if file.path in TOKENIZER_FILES}
            ),
            "template": digest_of(self.template),
        }

    def measure(self, lines: Iterable[bytes], count: int) -> "Iterator[Length]":
        """The length in tokens of each of `count` records."""
        from hone_trainer.data.lengths import measure  # noqa: PLC0415 - imports transformers

        return measure(lines, count, self.folder, self.template)
