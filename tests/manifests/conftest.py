"""Makes the modules that these tests share importable, and says what they need."""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A newcomer's machine may lack kubectl, which builds k8s/; CI must have it.

    Components and their combinations are many: `make check` looks at each overlay as it is.
    """
    for item in items:
        source = getattr(item, "callspec", None) and item.callspec.params.get("source")
        if " with " in str(source):
            item.add_marker(pytest.mark.chain)
    if shutil.which("kubectl") is None and not os.environ.get("CI"):
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="kubectl 1.27 or newer is not installed"))
