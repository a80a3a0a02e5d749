"""The harness's own reading of Markdown: what it misses, no test of the documentation can catch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.markdown import anchors, blocks, commands, links

PAGE = """\
# A title: with `code`
[one](docs/a.md#b) and ![two](img.png "alt") and `[three](no.md)`

```python
x = 1
```

<!-- not run: needs the hub -->
```python
y = 2
```

- a list
  ```bash
  A=1 vpt-gym train Env-v0 --encoder random:tiny?seed=1 \\
      --env-arg frame_skip=4  # a comment
  cd x && make demo DEMO="a b"
  ```

```console
$ vpt-gym inspect owner/name@main
[four](no.md)
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def test_blocks(page: Path) -> None:
    found = blocks(page)
    assert [block.language for block in found] == ["python", "python", "bash", "console"]
    assert [block.not_run for block in found] == [None, "needs the hub", None, None]
    lines = PAGE.splitlines()
    assert [lines[block.line - 1].strip() for block in found[:2]] == ["x = 1", "y = 2"]
    assert found[2].text.startswith("A=1")


def test_commands(page: Path) -> None:
    *_, bash, console = blocks(page)
    assert commands(bash) == [
        ["vpt-gym", "train", "Env-v0", "--encoder", "random:tiny?seed=1", "--env-arg", "frame_skip=4"],
        ["cd", "x"],
        ["make", "demo", "DEMO=a b"],
    ]
    assert commands(console) == [["vpt-gym", "inspect", "owner/name@main"]]


def test_links_and_anchors(page: Path) -> None:
    assert links(page) == ["docs/a.md#b", "img.png"]
    assert anchors(page) == {"a-title-with-code"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nx = 1\n", "never closed"),
        ("<!-- not run: needs a GPU -->\n\n```python\nx\n```\n", "directly above"),
        ("<!-- not run: needs a GPU -->\n", "directly above"),
        ("<!-- not run: needs a GPU -->\n```bash\nx\n```\n", "directly above"),
    ],
)
def test_slips_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        blocks(path)
