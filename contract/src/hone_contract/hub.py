"""The Hugging Face Hub, as far as services must agree on it."""

import os

from hone_contract.errors import BadConfiguration

VARIABLES = ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN")


def hub_token() -> str | None:
    """From HF_TOKEN, else HUGGINGFACE_HUB_TOKEN; None when neither is set. Never to be logged.

    Raises BadConfiguration for what no header can have: an HTTP client would tell it in its own error.
    """
    name = next((each for each in VARIABLES if os.environ.get(each)), None)
    if name is None:
        return None
    token = os.environ[name].strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise BadConfiguration(f"{name} is set to something that is no token: it has spaces or other signs")
    return token or None


def hub_repository(origin: str) -> str | None:
    """`hub:owner/name@commit`, as a lineage has it, is `owner/name`; None for what is not from the Hub."""
    return origin.removeprefix("hub:").partition("@")[0] if origin.startswith("hub:") else None
