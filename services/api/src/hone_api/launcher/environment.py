"""What a stage's processes inherit of the api's environment: all but what is secret.

A stage reads data that strangers sent. Nothing that it runs should be able to print the database's
password or a server's key, so whatever looks like a secret stays behind; a command that needs one is given
it by name.
"""

from collections.abc import Collection, Mapping

_DATABASE = "HONE_API_DATABASE"
"""A URL, and most often with a password in it."""
_SECRET = (
    *("_KEY", "_KEYS", "_TOKEN", "_TOKENS", "_SECRET", "_SECRETS", "_AUTH", "_PAT"),
    *("PASSWORD", "PASSWD", "PASSPHRASE", "_PASS", "_PWD"),
    *("CREDENTIAL", "CREDENTIALS", "DSN", "DATABASE_URL", "CONNECTION_STRING"),
)
_NEEDED = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
"""With it a run fetches a base that is not for everyone."""


def without_secrets(environment: Mapping[str, str], secret: Collection[str] = ()) -> dict[str, str]:
    """`secret` are the names of others that do not look it."""
    hidden = {_DATABASE, *secret}
    return {
        name: value
        for name, value in environment.items()
        if name in _NEEDED or (name not in hidden and not name.upper().endswith(_SECRET))
    }
