"""A repository on the Hugging Face Hub, by the Hub's own client, in one commit."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from hone_contract.errors import BadConfiguration, RetryableFailure
from hone_contract.hub import hub_token
from hone_merger.publishing.bundle import Bundle


def check_hub(repository: str) -> str:
    """The token. Raises BadConfiguration without one, or for what is no `owner/name`."""
    token = hub_token()
    if token is None:
        raise BadConfiguration("set HF_TOKEN (or HUGGINGFACE_HUB_TOKEN) to a token that may write to the Hub")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise BadConfiguration(f"--hub: {repository!r} is no repository's name: {error}") from error
    if "/" not in repository:
        raise BadConfiguration(f"--hub: {repository!r} has no owner; write owner/{repository}")
    return token


def upload(bundle: Bundle, repository: str, token: str, *, public: bool) -> str:
    """Make the repository if there is none, private unless `public`; the commit's address.

    Raises BadConfiguration when the Hub refuses token or name, RetryableFailure when it does not answer.
    """
    hub = HfApi(token=token)
    adds = [
        CommitOperationAdd(item.name, item.content if isinstance(item.content, bytes) else str(item.content))
        for item in bundle.items
    ]
    with _told(repository):
        hub.create_repo(repository, private=not public, exist_ok=True)
        commit = hub.create_commit(repository, adds, commit_message=f"Publish {bundle.artifact.manifest.id}")
    return str(commit.commit_url)


@contextmanager
def _told(repository: str) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if 400 <= status < 500 and status not in (408, 429):
            raise BadConfiguration(
                f"--hub: the Hub refuses {repository!r} for this token (HTTP {status}); check the name, and "
                "that the token may write there"
            ) from error
        raise RetryableFailure(f"--hub: the Hub failed (HTTP {status}); publish again") from error
    except RuntimeError as error:
        # What the client makes of whatever happened to a large file, by Git LFS or Xet.
        raise RetryableFailure(f"--hub: {' '.join(str(error).split())}; publish again") from error
    except (HTTPError, OSError) as error:
        raise RetryableFailure(
            f"--hub: {repository!r} cannot be written to the Hub ({type(error).__name__}); publish again"
        ) from error
