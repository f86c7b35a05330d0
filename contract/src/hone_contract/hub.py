"""The Hugging Face Hub, as far as services must agree on it."""

import os


def hub_token() -> str | None:
    """From HF_TOKEN, else HUGGINGFACE_HUB_TOKEN; None when neither is set. Never to be logged."""
    return os.environ.get("HF_TOKEN") or os.environ.get("HUGGINGFACE_HUB_TOKEN") or None


def hub_repository(origin: str) -> str | None:
    """`hub:owner/name@commit`, as a lineage has it, is `owner/name`; None for what is not from the Hub."""
    return origin.removeprefix("hub:").partition("@")[0] if origin.startswith("hub:") else None
