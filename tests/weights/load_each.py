"""Run by test_hub.py in a process of its own, for huggingface_hub reads its settings when it is imported.

Loads each source named on the command line and prints, as JSON, one dict for each: its digest, files, summary and the
heads beside it, or the message of the WeightsError.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from vpt_gym.errors import WeightsError
from vpt_gym.weights import load_checkpoint, load_heads, resolve


def attempt(source: str) -> dict[str, object]:
    """Load one source, or say why not."""
    try:
        resolved = resolve(source)
        checkpoint = load_checkpoint(resolved)
        heads = load_heads(resolved, checkpoint.config.hidden_size)
    except WeightsError as error:
        return {"error": str(error)}
    files = [str(path) for path in checkpoint.report.files]
    return {"digest": checkpoint.digest, "files": files, "summary": checkpoint.report.summary(), "heads": repr(heads)}


def forbid(folder: str, event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what a folder that may only be read refuses; real permissions do not bind every user."""
    writes = event == "os.mkdir" and not Path(arguments[0]).exists()
    writes |= event == "open" and isinstance(arguments[0], str) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    writes |= event in {"os.remove", "os.rename", "os.symlink"}
    if writes and str(arguments[0]).startswith(folder):
        raise PermissionError(13, "Permission denied", str(arguments[0]))


if __name__ == "__main__":
    if read_only := os.environ.get("READ_ONLY"):
        sys.addaudithook(lambda event, arguments: forbid(read_only, event, arguments))
    if "huggingface_hub" in sys.modules:
        sys.exit("huggingface_hub is imported before anything is asked of the hub")
    # huggingface_hub waits longer and longer between its attempts at a server that does not answer; nothing here gets
    # better by waiting.
    with mock.patch("time.sleep"):
        answers = [attempt(source) for source in sys.argv[1:]]
    sys.stdout.write(json.dumps(answers))
