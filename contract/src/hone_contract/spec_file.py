"""Reads a run spec file; every mistake is told with its line, its key and the remedy."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hone_contract.errors import BadConfiguration
from hone_contract.run_spec import RunSpec

Location = tuple[int | str, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML reads YAML 1.1, in which 2e-4 is a string, 010 is 8, `on` is true."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":float", ":int", ":bool", ":timestamp"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class _Dumper(yaml.SafeDumper):
    """Quotes a string that PyYAML or _Loader would read as something else, such as a commit 12345e6."""


_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + rules
    for first, rules in _Loader.yaml_implicit_resolvers.items()
}


def load_run_spec(path: Path) -> RunSpec:
    """Read and validate a YAML or JSON run spec.

    Raises BadConfiguration naming the file, the line and the key of every mistake in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path}: cannot be read as text: {error}") from error
    if path.suffix == ".json":
        # JSON may be indented with tabs, YAML may not; in a JSON string a tab is always escaped.
        text = text.replace("\t", " ")
    try:
        return _validate(path, text)
    except RecursionError:
        raise BadConfiguration(f"{path}: is nested too deeply, or an alias in it refers to itself") from None


def dump_run_spec(spec: RunSpec) -> str:
    """The spec as YAML, every default spelled out; load_run_spec reads it back equal."""
    return yaml.dump(spec.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _validate(path: Path, text: str) -> RunSpec:
    root = _compose(path, text)
    try:
        return RunSpec.model_validate(_construct(path, text))
    except ValidationError as error:
        lines = [_explain(path, root, detail) for detail in error.errors()]
        raise BadConfiguration("\n       ".join(dict.fromkeys(lines))) from None


def _compose(path: Path, text: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise _not_yaml(path, error) from error
    if not isinstance(root, yaml.MappingNode):
        raise BadConfiguration(
            f"{path}: holds no run spec; the shortest is:  model: {{name: demo:smollm2-135m-instruct}}"
        )
    _refuse_duplicates(path, root)
    return root


def _not_yaml(path: Path, error: Exception) -> BadConfiguration:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 1
    problem = getattr(error, "problem", None) or "unreadable"
    return BadConfiguration(f"{path}:{line}: not valid YAML: {problem}")


def _construct(path: Path, text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # PyYAML lets the last three through for a tag that its value does not fit, such as `!!bool 3`.
        raise _not_yaml(path, error) from error
    finally:
        loader.dispose()


def _refuse_duplicates(path: Path, node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise BadConfiguration(
                f"{path}:{line}: a key must be a plain word; quote a value that starts with {{"
            )
        if key.value in seen:
            raise BadConfiguration(
                f"{path}:{line}: {key.value}: given twice, first in line {seen[key.value]}; keep one"
            )
        seen[key.value] = line
        if isinstance(value, yaml.MappingNode):
            _refuse_duplicates(path, value)


def _explain(path: Path, root: yaml.Node, detail: ErrorDetails) -> str:
    exact = detail["type"] in ("extra_forbidden", "missing")
    place = tuple(part for part in detail["loc"] if exact or _is_key(root, part))
    where = f"{path}:{_line(root, place)}: {'.'.join(map(str, place)) or 'run spec'}"
    if detail["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(place)}"
    if detail["type"] == "missing":
        return f"{where}: is missing"
    if detail["type"] == "value_error":
        return f"{where}: {detail['ctx']['error']}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{where}: {message}, not {detail['input']!r}"


def _is_key(root: yaml.Node, part: int | str) -> bool:
    """False for the names that pydantic puts into a location for the members of a union."""
    if isinstance(part, int):
        return True
    return part in set(_keys(root))


def _keys(node: yaml.Node) -> Iterable[str]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key.value
            yield from _keys(value)


def _line(node: yaml.Node, place: Location) -> int:
    """The line, counted from 1, of the deepest part of `place` that the file has."""
    line = node.start_mark.line + 1
    for part in place:
        found = _step(node, part)
        if found is None:
            break
        line, node = found
    return line


def _step(node: yaml.Node, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    return None


def _suggestion(place: Location) -> str:
    shape: type[BaseModel] = RunSpec
    for part in place[:-1]:
        shape = _shape_of(shape, str(part))
    known = list(shape.model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}"


def _shape_of(shape: type[BaseModel], field: str) -> type[BaseModel]:
    annotation = shape.model_fields[field].annotation
    candidates = getattr(annotation, "__args__", (annotation,))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), shape)
