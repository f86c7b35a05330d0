"""Fuses an adapter into its base and publishes the result."""

__version__ = "0.1.0"

import logging

# bitsandbytes warns on import that it could not fetch a kernel from the Hub; nothing here is to be fetched.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
