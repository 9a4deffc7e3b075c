"""Every relative link of every Markdown file leads to a file, and its anchor to a heading."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from tests.docs import reading
from tests.tidy import repository

README_LINES_MAX = 120


def faults(path: str, text: str, root: Path) -> list[str]:
    """Links of one document that lead nowhere."""
    found = []
    for link in reading.links(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = unquote(link).partition("#")
        file = (root / path).parent / target if target else root / path
        if target.startswith("/") or not file.resolve().is_relative_to(root):
            found.append(f"{path}: {link} leads out of the repository")
        elif not file.exists():
            found.append(f"{path}: {link} doesn't exist")
        elif (
            anchor
            and file.suffix == ".md"
            and anchor not in reading.anchors(file.read_text(encoding="utf-8"))
        ):
            found.append(f"{path}: {link}: no such heading")
    return found


def test_relative_links() -> None:
    found = [
        fault
        for path, text in repository.texts(".md")
        for fault in faults(path, text, repository.ROOT)
    ]
    assert not found, "\n" + "\n".join(found)


def test_planted_links(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# One two\n", encoding="utf-8")
    assert faults("b.md", "[a](docs/a.md#one-two) [c](https://example.org)", tmp_path) == []
    assert faults("b.md", "`[a](none.md)`\n\n```\n[a](none.md)\n```\n", tmp_path) == []
    assert faults("b.md", "[a](docs/none.md)", tmp_path)
    assert faults("b.md", "![a](docs/none.png)", tmp_path)
    assert faults("b.md", "[a]: docs/none.md\n", tmp_path)
    assert faults("b.md", "[a](docs/a.md#three)", tmp_path)
    assert faults("docs/a.md", "[a](../../etc)", tmp_path)


def test_changelog_has_an_unreleased_section() -> None:
    changelog = repository.text("CHANGELOG.md") or ""
    assert {"unreleased"} <= {name.strip("-") for name in reading.anchors(changelog)}


def test_readme_is_short() -> None:
    readme = repository.text("README.md") or ""
    assert 0 < len(readme.splitlines()) <= README_LINES_MAX
