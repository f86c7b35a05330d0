"""Whether the product itself bears a fact out: one small function for each kind of check.

A check in facts.yaml is a mapping with one key:

    command: hone-store ls      a declared console script and, after it, a sub-command it lists
    make_target: demo           a target of the Makefile that `make help` lists
    repo_path: contract         a path in the repository, or a list of them
    store_path: {call: [live, faq], equals: models/faq/live}
                                a method of the store, called with the rest, gives that path
    exit_code: {BadInput: 65}   the exit code of an error class of the contract
    text: {file: README.md, contains: /ready}
                                a string in a file of the repository; `file` may be a glob
"""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def contradiction(check: Mapping[str, Any]) -> str | None:
    """Why the product does not bear a fact out; None when it does."""
    [(kind, claim)] = check.items()
    try:
        return CHECKS[kind](claim)
    except (OSError, ImportError, AttributeError, subprocess.SubprocessError) as error:
        return f"{kind} cannot be looked at: {error}"


def _command(claim: str) -> str | None:
    script, *sub_command = claim.split()
    target = _console_scripts().get(script)
    if target is None:
        return f"no pyproject.toml of contract/ or services/ declares the script {script}"
    if not sub_command:
        return None
    module = target.partition(":")[0]
    return _missing_word(sub_command[0], _output(sys.executable, "-m", module, "--help"))


def _make_target(claim: str) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    if not re.search(rf"^([\w-]+ +)*{re.escape(claim)}( +[\w-]+)* *:(?!=)", makefile, re.MULTILINE):
        return f"the Makefile has no target {claim}"
    return _missing_word(claim, _output("make", "--silent", "--no-print-directory", "help"))


def _repo_path(claim: str | list[str]) -> str | None:
    paths = [claim] if isinstance(claim, str) else claim
    missing = [path for path in paths if not (ROOT / path).exists()]
    return f"the repository has no {', '.join(missing)}" if missing else None


def _store_path(claim: Mapping[str, Any]) -> str | None:
    method, *arguments = claim["call"]
    root = Path("/store")
    store = importlib.import_module("hone_contract.store").Store(root)
    found = getattr(store, method)(*arguments).relative_to(root).as_posix()
    expected = claim["equals"]
    return None if found == expected else f"Store.{method} gives {found}, not {expected}"


def _exit_code(claim: Mapping[str, int]) -> str | None:
    errors = importlib.import_module("hone_contract.errors")
    found = {name: getattr(errors, name).exit_code for name in claim}
    return None if found == claim else f"hone_contract.errors says {found}, not {claim}"


def _text(claim: Mapping[str, str]) -> str | None:
    files = [path for path in sorted(ROOT.glob(claim["file"])) if path.is_file()]
    if not files:
        return f"there is no file {claim['file']}"
    if any(claim["contains"] in path.read_text(encoding="utf-8") for path in files):
        return None
    return f"{claim['contains']!r} does not stand in {claim['file']}"


CHECKS: dict[str, Callable[[Any], str | None]] = {
    "command": _command,
    "make_target": _make_target,
    "repo_path": _repo_path,
    "store_path": _store_path,
    "exit_code": _exit_code,
    "text": _text,
}


@cache
def _console_scripts() -> dict[str, str]:
    files = [*ROOT.glob("contract/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]
    projects = [tomllib.loads(file.read_text(encoding="utf-8"))["project"] for file in files]
    return {name: target for each in projects for name, target in each.get("scripts", {}).items()}


@cache
def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise subprocess.SubprocessError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


def _missing_word(word: str, text: str) -> str | None:
    if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text):
        return None
    return f"{word!r} is not listed in the help:\n{text.strip()}"
