"""A repository on the Hugging Face Hub, by the Hub's own client, in one commit."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, logging, validate_repo_id

from hone_contract.errors import BadConfiguration, HoneError, RetryableFailure
from hone_contract.events import Reporter
from hone_contract.hub import hub_token
from hone_contract.probes import FILE_NAME as PROBES
from hone_contract.progress import Progress
from hone_merger.publishing.bundle import Bundle, Item, may_leave

# Too slow, in conflict with another commit, no longer on top of what it began with, too often.
_RETRIED = (408, 409, 412, 429)
# What hf_xet 1 makes of a token that the Hub does not take: a ConnectionError with the status in its text.
_XET_REFUSES = re.compile(r"\((401|403) ")


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


def upload(bundle: Bundle, repository: str, token: str, reporter: Reporter, *, public: bool) -> str:
    """Make the repository if there is none, private unless `public`; the commit's address.

    One that is there and public is refused without `public`. What is there already is not sent again; what an
    earlier publication left there goes in the same commit.
    Raises BadConfiguration when the Hub refuses token, name or files, RetryableFailure when it does not
    answer.
    """
    # Only events belong on standard error where nobody looks at it.
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    hub = HfApi(token=token)
    adds = [_add(item) for item in bundle.items]
    with _told(repository):
        hub.create_repo(repository, private=not public, exist_ok=True)
        if not (public or hub.model_info(repository).private):
            raise BadConfiguration(
                f"--hub: {repository!r} is public; add --public where everyone may have this"
            )
        with Progress("uploading", "B", bundle.size, reporter) as progress:
            for add, item in zip(adds, bundle.items, strict=True):
                hub.preupload_lfs_files(repository, [add], free_memory=False)
                progress.advance(item.size)
        changes = [*adds, *_left_over(hub, repository, bundle)]
        commit = hub.create_commit(
            repository, changes, commit_message=f"Publish {bundle.artifact.manifest.id}"
        )
    return str(commit.commit_url)


def _add(item: Item) -> CommitOperationAdd:
    add = CommitOperationAdd(item.name, item.content)
    # From the manifest; the client would read every byte once more.
    add.upload_info.sha256 = bytes.fromhex(item.digest)
    return add


def _left_over(hub: HfApi, repository: str, bundle: Bundle) -> list[CommitOperationDelete]:
    """Another model's shards or index would be loaded with this one's weights, or in their place.

    Only what a publication may have written; whatever else is there, such as a licence, stays.
    """
    there = set(hub.list_repo_files(repository)) - {item.name for item in bundle.items}
    return [CommitOperationDelete(name) for name in sorted(there) if may_leave(name) or name == PROBES]


@contextmanager
def _told(repository: str) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise BadConfiguration("--hub: HF_HUB_OFFLINE is set; unset it to publish") from error
    except HfHubHTTPError as error:
        raise _answered(repository, error) from error
    except (PermissionError, ValueError, KeyError) as error:
        # Xet's refusal of the token; an answer that is none of a Hub, or says that a file is not taken.
        raise _refused(repository, error) from error
    except RuntimeError as error:
        # What the client makes of whatever happened to a large file, by Git LFS or Xet.
        raise RetryableFailure(f"--hub: {_line(error)}; publish again") from error
    except (HTTPError, OSError) as error:
        if _XET_REFUSES.search(str(error)):
            raise _refused(repository, error) from error
        raise RetryableFailure(
            f"--hub: {repository!r} cannot be written to the Hub ({type(error).__name__}); publish again"
        ) from error


def _refused(repository: str, error: Exception) -> BadConfiguration:
    return BadConfiguration(
        f"--hub: {repository!r} cannot be written ({_line(error)}); check the token, and HF_ENDPOINT where "
        "it is set"
    )


def _answered(repository: str, error: HfHubHTTPError) -> HoneError:
    status = error.response.status_code
    if status >= 500 or status in _RETRIED:
        return RetryableFailure(f"--hub: the Hub failed (HTTP {status}); publish again")
    reason = f": {_line(error.server_message)}" if error.server_message else ""
    return BadConfiguration(
        f"--hub: the Hub refuses {repository!r} for this token (HTTP {status}{reason}); check the name, and "
        "that the token may write there"
    )


def _line(message: object) -> str:
    return " ".join(str(message).split())[:300]
