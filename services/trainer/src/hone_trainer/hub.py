"""The Hugging Face Hub, as far as a base model needs it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hone_contract.errors import BadConfiguration, RetryableFailure
from hone_contract.hub import hub_token


def download(repository: str, revision: str | None, patterns: Sequence[str], target: Path) -> str:
    """Download the files that match into `target` and return the commit that they are of.

    The token comes from HF_TOKEN or HUGGINGFACE_HUB_TOKEN. Raises BadConfiguration for an unknown
    repository or revision, RetryableFailure when the Hub does not answer.
    """
    token = hub_token()
    try:
        commit = huggingface_hub.HfApi(token=token).model_info(repository, revision=revision).sha
        huggingface_hub.snapshot_download(
            repository, revision=commit, allow_patterns=list(patterns), local_dir=target, token=token
        )
    except HFValidationError as error:
        raise BadConfiguration(f"model.name: {repository!r} is no Hub id: {error}") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise BadConfiguration(
            f"model.name: the Hub has no {repository!r} (revision {revision or 'default'}) for this token; "
            "check the name, or set HF_TOKEN to a token that may read it"
        ) from error
    except (HTTPError, OSError) as error:
        raise RetryableFailure(
            f"model.name: {repository!r} cannot be fetched from the Hub ({type(error).__name__}); try again, "
            "or import a folder: hone-trainer import-base ./folder --name " + repository
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return str(commit)
