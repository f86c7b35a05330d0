"""Makes the scripts of examples/hone-faq importable: its name is no Python package's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "hone-faq"))
