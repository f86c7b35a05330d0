"""Makes the scripts of examples/hone-faq and the trainer's tiny bases importable from here."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
# hone-faq is no name of a Python package.
sys.path[:0] = [str(_ROOT / "examples" / "hone-faq"), str(_ROOT / "services" / "trainer" / "tests")]
