"""hone-server whose engine keeps the weights that it has: what a stale copy would be like.

stale_worker.py OPTIONS…   as hone-server
"""

import os
from pathlib import Path

from hone_server import command
from hone_server.__main__ import main


class Stale:
    """In the place of `hone_server.worker.Reload`."""

    def hone_reload(self, path: str) -> None:
        pass


if __name__ == "__main__":
    command.WORKER = "stale_worker.Stale"
    # For the engine's processes, which import the class by its name.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    main()
