"""Files to a hub repository, through huggingface_hub: its login, its endpoint, and one commit for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vpt_gym.errors import WeightsError
from vpt_gym.weights.checkpoint import load_checkpoint
from vpt_gym.weights.source import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["encoder_files", "upload"]

CARD = "README.md"
_BESIDE = ("curves.png",)


def encoder_files(folder: Path, repository: str) -> dict[str, Path | bytes]:
    """What of a folder of `vpt-gym pretrain` goes onto the hub: weights, config, model card, curves; no checkpoint and no log.

    Args:
        folder: the folder.
        repository: `owner/name`, which the card says to load.

    Raises:
        WeightsError: the weights are not whole, or the folder has no card.
    """
    load_checkpoint(str(folder))
    card = folder / CARD
    if not card.is_file():
        raise WeightsError(
            f"{folder} has no {CARD}: write one that says what the weights are, of which data, and under which licence."
        )
    text = card.read_text(encoding="utf-8").replace(f'load_encoder("{folder.name}")', f'load_encoder("{repository}")')
    files: dict[str, Path | bytes] = {CARD: text.encode()}
    for name in (WEIGHTS_FILE, CONFIG_FILE, *_BESIDE):
        if (folder / name).is_file():
            files[name] = folder / name
    return files


def upload(files: Mapping[str, Path | bytes], repository: str, *, private: bool, message: str) -> str:
    """Puts files into a repository, which is made if it is not there: in one commit, all of them or none.

    Args:
        files: by their names there.
        repository: `owner/name`.
        private: of a repository that is made.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        WeightsError: the name cannot be one, nobody is logged in, the owner does not let you, or nothing answers.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:  # which older releases of huggingface_hub do not heed when they write
        raise WeightsError(
            f"The hub is switched off by HF_HUB_OFFLINE, and {repository!r} is to go there: set HF_HUB_OFFLINE=0."
        )
    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        operations = [
            CommitOperationAdd(name, file if isinstance(file, bytes) else str(file)) for name, file in files.items()
        ]
        return str(hub.create_commit(repository, operations, commit_message=message).commit_url)
    except errors.HFValidationError as error:
        raise WeightsError(
            f"{repository!r} cannot be the name of a hub repository ({_first_line(error)}): give owner/name."
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            who = "nobody is logged in" if status == 401 else "who is logged in may not write there"
            raise WeightsError(
                f"The hub refuses {repository!r}: {who}. Log in with `hf auth login`, or set HF_TOKEN to one that may write."
            ) from error
        raise WeightsError(f"The hub does not take {repository!r} ({_first_line(error)}): try again.") from error
    # As in `hub.fetch`: disk and network, by whatever HTTP library and whatever second way of uploading.
    except (OSError, RuntimeError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined, unused-ignore]
        raise WeightsError(
            f"Uploading to {repository!r} failed ({_first_line(error.__cause__ or error)}): check the connection and "
            "HF_ENDPOINT, and try again; nothing is half there."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
