"""Prometheus and its promtool, for the tests of what watches Hone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """The folder with `prometheus` and `promtool`: installed, or taken from Debian's package, unpacked only.

    A newcomer's machine may lack both; in CI one of them must be there.
    """
    if installed := shutil.which("promtool"):
        return Path(installed).parent
    unpacked = Path(__file__).resolve().parents[1] / "build" / "prometheus"
    if not (unpacked / "usr/bin/promtool").is_file() and not _unpack(unpacked):
        if os.environ.get("CI"):
            pytest.fail(
                "promtool is not installed, and Debian's package prometheus cannot be had", pytrace=False
            )
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return unpacked / "usr/bin"


def _unpack(folder: Path) -> bool:
    if shutil.which("apt-get") is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, capture_output=True).returncode:
        # The list of packages may be old, or not there at all.
        subprocess.run(["apt-get", "update"], capture_output=True, check=False)
        subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, capture_output=True, check=False)
    return any(
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)]).returncode == 0
        for package in folder.glob("prometheus_*.deb")
    )
