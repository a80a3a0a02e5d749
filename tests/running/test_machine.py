from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from vpt_gym.running.machine import FLAGS, commit, cpu_flags, cpu_words, hardware


def test_the_machine_is_described() -> None:
    facts = hardware(torch.device("cpu"))
    assert facts["cores"] >= 1
    assert facts["threads"] == torch.get_num_threads()
    assert set(facts["cpu_flags"]) <= set(FLAGS)
    assert "gpu" not in facts
    assert facts["cpu_flags"] == cpu_flags()
    assert cpu_words().startswith(facts["cpu"])


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_is_known_by_its_commit(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        return subprocess.run(
            ["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    assert commit(package) is None
    git("init", "--quiet")
    (package / "a.py").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    head = git("rev-parse", "HEAD")
    assert head.startswith(commit(package) or "nothing")
    (package / "a.py").write_text("2")
    found = commit(package)
    assert found is not None
    assert found.endswith("-dirty")
    # A package that is installed somewhere inside of it is not the project that the checkout is of.
    assert commit(tmp_path / "env" / "site-packages" / "package") is None
