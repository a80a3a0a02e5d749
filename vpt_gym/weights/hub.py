"""Files of a hub repository, through huggingface_hub: its cache, its offline mode, its progress bar."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vpt_gym.errors import WeightsError
from vpt_gym.weights.shards import is_index, shard_names

__all__ = ["fetch"]

_LOG = logging.getLogger("vpt_gym")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(repository: str, revision: str | None, weights: Sequence[str], config: str) -> tuple[Path, Path | None]:
    """Download the weights and, where the repository has one, the config; files in the cache are not fetched again.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit; None is the default branch.
        weights: names of files of which the first that is there is taken; the files that an index leads to come with it.
        config: name of the file that may be there.

    Returns:
        Both files in the cache, of one and the same commit; None in place of a config that the repository lacks, or
        that the cache lacks while the hub is switched off by HF_HUB_OFFLINE.

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
    except _NoConfigError as error:
        raise WeightsError(
            f"The hub holds the weights of {repository!r}, but did not answer ({_first_line(error.__cause__ or error)}) when "
            f"it was asked for their {config}, so it cannot be known whether that describes them: try again, or set "
            "HF_HUB_OFFLINE=1 to do with what the cache holds."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise WeightsError(_unreachable(repository, revision, error)) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(
            f"The hub repository {repository!r} holds no {weights[0]}, and nothing like it: name a repository with VPT weights "
            "in that file."
        ) from error
    except errors.HFValidationError as error:
        raise WeightsError(
            f"{repository!r} cannot be the name of a hub repository ({_first_line(error)}): give owner/name."
        ) from error
    except PermissionError as error:
        raise WeightsError(
            f"What is missing of {repository!r} cannot be written into the cache ({error.strerror}: {error.filename}): set "
            "HF_HUB_CACHE to a folder of yours, or have the owner of the cache download the repository."
        ) from error
    # OSError: disk full, download cut off. HTTPError: that of whatever HTTP library this version of huggingface_hub uses.
    # RuntimeError: all that hf_xet, its second way of downloading, ever raises.
    except (OSError, RuntimeError, errors.HTTPError) as error:  # type: ignore[attr-defined, unused-ignore]
        raise WeightsError(
            f"Downloading {repository!r} from the hub failed ({_first_line(error)}): try again, or download "
            "the files by other means and name their folder."
        ) from error


class _NoConfigError(Exception):
    """Nothing answered when the config was asked for."""


def _fetch(repository: str, revision: str | None, weights: Sequence[str], config: str) -> tuple[Path, Path | None]:
    from huggingface_hub import constants, errors, hf_hub_download

    path = _first(repository, revision, weights)
    # The snapshot's folder is named after its commit. Asking for the others of that very commit keeps all files together
    # even if the branch moves in between; and since a commit never changes, what the cache knows of it is final.
    if _COMMIT.fullmatch(path.parent.name):
        revision = path.parent.name
    if is_index(path):
        for name in shard_names(path):
            try:
                hf_hub_download(repository, name, revision=revision)
            except errors.LocalEntryNotFoundError:
                raise
            except errors.EntryNotFoundError as error:
                raise WeightsError(
                    f"The hub repository {repository!r} holds {path.name}, but not the {name} that it leads to: name another "
                    "revision."
                ) from error
    cached = _cached(repository, revision, config)
    if cached is not None:
        return path, cached or None
    try:
        return path, Path(hf_hub_download(repository, config, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            _LOG.warning(
                "the cache holds the weights of %s and no %s, and with HF_HUB_OFFLINE=1 it cannot be known whether there is "
                "one: the architecture is read from the tensors alone",
                repository,
                config,
            )
            return path, None
        raise _NoConfigError(str(error)) from error
    except errors.EntryNotFoundError:
        return path, None


def _first(repository: str, revision: str | None, names: Sequence[str]) -> Path:
    """The first of the files that the repository holds, in the cache."""
    from huggingface_hub import constants, errors, hf_hub_download

    reasons: list[errors.EntryNotFoundError] = []
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except errors.LocalEntryNotFoundError as error:
            # Without the hub, the cache may know that the repository has no such file, and hold the next.
            if _cached(repository, revision, name) is None and not constants.HF_HUB_OFFLINE:
                raise
            reasons.insert(0, error)
        except errors.EntryNotFoundError as error:
            reasons.append(error)
    raise reasons[0]


def _cached(repository: str, revision: str | None, name: str) -> Path | Literal[False] | None:
    """A file's place in the cache; False where the cache knows that there is none; None where it knows nothing."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    if found is None:
        return None
    return Path(found) if isinstance(found, str) else False


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
