"""Merges in forked processes, so that a test that kills many of them waits for the imports once.

Reads a command a line, as JSON: the seconds after which it is killed or null, and arguments of `hone-merger`.
Prints a line when it is ready, and then how each ended, negative for a signal.
"""

import json
import os
import signal
import sys
import time
from functools import partial

from hone_merger import content
from hone_merger.__main__ import main
from hone_merger.fusing.shards import share_out
from hone_merger.merge import merge

# So that a small model has shards to be killed between.
content.share_out = partial(share_out, limit=8_000)  # type: ignore[assignment]


def serve() -> None:
    print(f"ready: {merge.__name__}", flush=True)
    for line in sys.stdin:
        kill_after, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            sys.argv = ["hone-merger", *arguments]
            sys.stdout = sys.stderr
            main()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
