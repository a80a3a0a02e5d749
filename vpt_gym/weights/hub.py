"""Files of a hub repository, through huggingface_hub: its cache, its offline mode, its progress bar."""

from __future__ import annotations

import re
from pathlib import Path

from vpt_gym.errors import WeightsError

__all__ = ["fetch"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(repository: str, revision: str | None, weights: str, config: str) -> tuple[Path, Path | None]:
    """Download the weights and, where the repository has one, the config; files in the cache are not fetched again.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; None is the default branch.
        weights: name of the file that must be there.
        config: name of the file that may be there.

    Returns:
        Both files in the cache, of one and the same commit; None in place of a config that the repository lacks, or
        that is not in the cache when the weights are and nothing answers.

    Raises:
        WeightsError: the repository, the revision or the weights are not there, access is refused, or nothing answers
            and the cache does not hold the files.
    """
    from huggingface_hub import errors

    try:
        return _fetch(repository, revision, weights, config)
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"The hub repository {repository!r} is gated: ask for access on its page, then log in with "
            "`hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"{repository!r} is neither a file or folder here nor a repository that the hub shows: check "
            "the spelling, or log in with `hf auth login` or HF_TOKEN if it is private."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(
            f"The hub repository {repository!r} has no revision {revision!r}: name one of its branches, "
            "tags or commits."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise WeightsError(_unreachable(repository, revision, error)) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(
            f"The hub repository {repository!r} holds no {weights}: name a repository with VPT weights in that file."
        ) from error
    except errors.HFValidationError as error:
        raise WeightsError(
            f"{repository!r} cannot be the name of a hub repository ({_first_line(error)}): give owner/name."
        ) from error
    # OSError: cache not writable, disk full, download cut off. HTTPError: that of whatever HTTP library this version of
    # huggingface_hub uses. RuntimeError: all that hf_xet, its second way of downloading, ever raises.
    except (OSError, RuntimeError, errors.HTTPError) as error:  # type: ignore[attr-defined, unused-ignore]
        raise WeightsError(
            f"Downloading {repository!r} from the hub failed ({_first_line(error)}): try again, or download "
            "the files by other means and name their folder."
        ) from error


def _fetch(repository: str, revision: str | None, weights: str, config: str) -> tuple[Path, Path | None]:
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    path = Path(hf_hub_download(repository, weights, revision=revision))
    # The snapshot's folder is named after its commit. Asking for the config of that very commit keeps both files together
    # even if the branch moves in between; and since a commit never changes, what the cache knows of it is final.
    if _COMMIT.fullmatch(path.parent.name):
        revision = path.parent.name
    cached = try_to_load_from_cache(repository, config, revision=revision)
    if cached is not None:
        return path, Path(cached) if isinstance(cached, str) else None
    try:
        return path, Path(hf_hub_download(repository, config, revision=revision))
    except errors.EntryNotFoundError:
        # The repository has no config, or it cannot be reached now and the cache has the weights alone. They are enough.
        return path, None


def _unreachable(repository: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import constants

    wanted = f"{repository}@{revision}" if revision else repository
    if constants.HF_HUB_OFFLINE:
        return (
            f"The hub is switched off by HF_HUB_OFFLINE and the cache does not hold {wanted!r}: load it once with "
            "HF_HUB_OFFLINE=0, or name a folder that holds its files."
        )
    reason = _first_line(error.__cause__ or error)
    return (
        f"The hub did not answer ({reason}) and the cache does not hold {wanted!r}: check the connection and "
        "HF_ENDPOINT, or name a folder that holds its files."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
