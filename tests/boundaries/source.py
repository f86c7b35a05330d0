"""The project's Python files, as the rules of the house see them."""

import ast
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {
    "trainer": "hone_trainer",
    "merger": "hone_merger",
    "server": "hone_server",
    "chat-cli": "hone_chat",
    "api": "hone_api",
}
CONTRACT = "hone_contract"
MODULES = [CONTRACT, *SERVICES.values()]
"""What one can run, or import."""
PACKAGES = ["contract/src", *(f"services/{folder}/src" for folder in SERVICES)]
"""Where they are."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file."""

    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def lines(self) -> int:
        return len(self.path.read_text(encoding="utf-8").splitlines())

    @property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @property
    def imports(self) -> set[str]:
        """Top-level names of every package that is imported, wherever in the file."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
        return found


def tracked(*folders: str) -> list[Source]:
    """Python files below the folders that git knows or does not ignore, tests left out."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [ROOT / line for line in listed if line.endswith(".py")]
    return [Source(path) for path in paths if path.exists() and "tests" not in path.relative_to(ROOT).parts]


def length(function: Function) -> int:
    """Lines from `def` to the last."""
    return (function.end_lineno or function.lineno) - function.lineno + 1
