"""Texts that are not ours, for a terminal."""

# Data must not command a terminal. Line breaks and tabs stay; the others get Unicode's pictures of them.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def harmless(text: str) -> str:
    """The text without what a terminal would obey."""
    return text.translate(_PICTURES)
