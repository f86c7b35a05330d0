"""`make install` where torch's CPU build comes from an index, not from pip's own configuration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chain import ROOT

pytestmark = pytest.mark.full

CONSTRAINTS = ROOT / "requirements" / "constraints.txt"


@pytest.fixture
def index(tmp_path: Path) -> str:
    """A package index that has nothing but torch's CPU build."""
    torch = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    folder = tmp_path / "index" / "torch"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    if subprocess.run([*pip, f"{torch}+cpu"], stderr=subprocess.DEVNULL).returncode:
        url = "https://download.pytorch.org/whl/cpu"
        subprocess.run([*pip, "--index-url", url, f"{torch}+cpu"], check=True)
    wheel = next(folder.glob("*.whl")).name
    (folder / "index.html").write_text(f'<a href="{wheel.replace("+", "%2B")}">{wheel}</a>\n')
    return folder.parent.as_uri()


def test_torch_comes_from_the_index_when_pip_does_not_know_it(index: str, tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
    environment = clean | {"PIP_CONFIG_FILE": os.devnull, "TORCH_CPU_INDEX": index}
    command = [str(ROOT / "requirements" / "install"), sys.executable, str(tmp_path / "venv")]
    subprocess.run(command, check=True, env=environment)
    program = "import torch, transformers, vllm; print(torch.__version__)"
    output = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "python"), "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert output.splitlines()[-1].endswith("+cpu")
