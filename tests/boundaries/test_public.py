"""The repository names nothing of the machine that it was written on."""

import subprocess

import pytest
from source import ROOT

# Built from parts, so that this file does not find itself.
PRIVATE = ["/" + "root/", "/" + "work/", "file:" + "///opt", "extra-" + "index-url", "pyenv" + "/"]


def _listed() -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("word", PRIVATE)
def test_no_file_names_a_path_or_index_of_a_machine(word: str) -> None:
    for name in _listed():
        path = ROOT / name
        if path.is_file():
            assert word not in path.read_text(encoding="utf-8", errors="ignore"), name


def test_pinned_lists_name_no_url() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(encoding="utf-8"), path.name
