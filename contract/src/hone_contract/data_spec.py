"""The part of a run spec that says what to learn from: where it comes from, and what is done to it."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from hone_contract.shape import Shape

Text = Annotated[str, StringConstraints(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


class FilterSpec(Shape):
    """A test of one record. It holds when a keyword occurs, or the pattern matches; case does not count."""

    keywords: list[Text] = []
    """Words or phrases; around each must stand no letter or digit, but in scripts without spaces."""
    regex: Annotated[str, AfterValidator(_compiles)] | None = None
    """A regular expression (Python's `re`), searched for anywhere in the text. None: keywords only."""
    field: Text | None = None
    """Where to look: a role (`user`, `assistant`, …) or a column of the source. None: in every message."""

    @model_validator(mode="after")
    def _tests_something(self) -> "FilterSpec":
        if not self.keywords and self.regex is None:
            raise ValueError("tests nothing: give it keywords or a regex")
        return self


class SourceSpec(Shape):
    """One of several places that examples come from."""

    path: Text | list[Text] | None = None
    """A file, a folder or a glob, or a list of them, relative to the run spec. None: there is a `hub`."""
    hub: Text | None = None
    """A dataset on the Hub (`owner/name`), read as a stream. None: there is a `path`."""
    revision: str | None = None
    """Branch, tag or commit on the Hub. None: the default branch, resolved to a commit and recorded."""
    config: str | None = None
    """Which of the Hub dataset's configurations. None: its only or default one."""
    split: Text = "train"
    """Which of the Hub dataset's splits."""
    name: Text | None = None
    """What reports call this source. None: the file's or the dataset's name."""
    columns: dict[Text, Text] = {}
    """What a record is made of, for any table: `prompt: "{input}\\n{context}"`. Targets: system, prompt,
    completion, or any field of a known format; a value without braces is a column's name."""
    html: bool = False
    """Whether the texts are HTML, of which only the text is wanted."""
    system: Text | None = None
    """System prompt for records that have none. None: the one of `data`."""
    join: Text | None = None
    """How `instruction` and `input` become one prompt. None: the one of `data`."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of `data.total`, relative to the other sources' weights. None: `count`, or every record."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Exactly how many records to take. None: as `weight` says, or every record."""
    upsample: bool = False
    """Whether records may be repeated when the source has too few; otherwise that is refused."""
    include: list[FilterSpec] = []
    """Only records of which at least one of these holds are kept."""
    exclude: list[FilterSpec] = []
    """Records of which any of these holds are removed."""

    @model_validator(mode="after")
    def _is_one_place(self) -> "SourceSpec":
        if (self.path is None) == (self.hub is None):
            raise ValueError("needs a path or a hub, and not both")
        if self.hub is None and (self.revision is not None or self.config is not None):
            raise ValueError("revision and config belong to a hub; a path has none")
        if self.weight is not None and self.count is not None:
            raise ValueError("give a weight or a count, not both")
        return self


class CleanSpec(Shape):
    """What is done to every record, and which records are removed."""

    nfc: bool = False
    """Whether texts are brought into Unicode's composed form (NFC)."""
    trim: bool = True
    """Whether white space around each message is removed."""
    duplicates: bool = True
    """Whether a record that repeats an earlier one, or is like it, is removed; case and white space do not
    count."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = 0.8
    """Removed is a record that is this similar to an earlier one (Jaccard similarity of the texts' 8-byte
    pieces, system prompts left out). Texts under 200 bytes are left alone. None: no such search."""


class DataSpec(Shape):
    """The examples to learn from. Paths are relative to the run spec's folder."""

    train: Text | list[Text] | None = None
    """A file, a folder or a glob, or a list of them: JSONL, JSON, CSV, TSV or Parquet, also with gzip or
    zstd. None: there are `sources`."""
    sources: list[SourceSpec] = []
    """Several places to mix, in the place of `train`."""
    total: Annotated[int, Field(ge=1)] | None = None
    """How many records the weights of `sources` share out. None: no source has a weight."""
    eval: Text | list[Text] | None = None
    """Files for evaluation, in the same forms. None: a part of the training records is set aside."""
    eval_fraction: Share = 0.1
    """Share of the records set aside when `eval` is None; 0 sets none aside. A record stays on its side
    when others are added."""
    eval_count: Annotated[int, Field(ge=1)] | None = None
    """How many records to set aside. None: as `eval_fraction` says."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of that split, and of what is drawn from the sources."""
    columns: dict[Text, Text] = {}
    """As in a source, for `train` and `eval`."""
    system: Text | None = None
    """System prompt for records that have none. None: they stay without."""
    join: Text = "{instruction}\n\n{input}"
    """How `instruction` and a non-empty `input` become one prompt."""
    format: Text | None = None
    """How a record is written for the model, such as `"Q: {instruction}\\nA: {response}"`, with the record's
    own fields and one answer at the end. None: as the chat template writes it."""
    clean: CleanSpec = CleanSpec()
    min_tokens: Annotated[int, Field(ge=1)] | None = None
    """Records with fewer tokens are rejected. None: no such limit."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Records with more tokens are rejected, as those above `training.max_length` are. None: only those."""
    max_rejected: Share = 0.05
    """Share of records that may be rejected; with more the data is refused."""
    min_records: Annotated[int, Field(ge=1)] = 1
    """Records to learn from, at least; with fewer the data is refused."""
    max_records: Annotated[int, Field(ge=2)] | None = None
    """Records taken at most, drawn by `seed`, evaluation records from `train` among them. None: all."""
    strict: bool = False
    """Whether the first bad record refuses the data."""

    @field_validator("sources", mode="before")
    @classmethod
    def _plain_paths(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{"path": each} if isinstance(each, str) else each for each in value]

    @model_validator(mode="after")
    def _is_consistent(self) -> "DataSpec":
        if (self.train is None) == (not self.sources):
            raise ValueError("needs train or sources, and not both")
        weighted = [source.weight is not None for source in self.sources]
        if any(weighted) and self.total is None:
            raise ValueError("sources have a weight, so total must say how many records they share out")
        if self.total is not None and not any(weighted):
            raise ValueError("total is shared out by weight; give the sources one")
        if self.total is not None and any(
            source.weight is None and source.count is None for source in self.sources
        ):
            raise ValueError("beside a source with a weight, every source needs a weight or a count")
        return self
