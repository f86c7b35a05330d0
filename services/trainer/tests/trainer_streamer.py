"""The other end of trainer_stream: answers each line of its input, a dataset, with what came of it."""

import json
import os
import sys
import time
from typing import Any

from hone_contract.data_spec import SourceSpec
from hone_contract.errors import HoneError
from hone_trainer.data import hub


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    hub._BUFFER = asked["buffer"]
    os.environ.pop("HUGGINGFACE_HUB_TOKEN", None)
    if asked["token"] is not None:
        os.environ["HUGGINGFACE_HUB_TOKEN"] = asked["token"]
    source = SourceSpec(**asked["source"])
    found: dict[str, Any] = {"commit": "", "rows": [], "error": "", "message": ""}
    try:
        found["commit"] = hub.resolve(str(source.hub), source.revision)
        for name, row in hub.stream(source, found["commit"], asked["seed"]):
            found["rows"].append((name, row.line, row.value))
            if len(found["rows"]) == asked["limit"]:
                break
    except HoneError as error:
        found |= {"error": type(error).__name__, "message": str(error)}
    return found


def _at_once(_: float) -> None:
    """The libraries wait between attempts, up to two minutes in all."""


if __name__ == "__main__":
    time.sleep = _at_once
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
