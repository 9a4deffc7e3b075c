"""Small files: written whole, with the mode that they need from the first moment on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.core.files import create_file, replace_file


def test_a_new_file_has_its_mode_and_never_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    create_file(path, b"secret", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        create_file(path, b"other", 0o600)
    assert path.read_bytes() == b"secret"


@pytest.mark.parametrize("write", [create_file, replace_file])
def test_what_the_disk_refuses_leaves_no_half_of_a_file(
    write: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.pem", b"secret", 0o600)  # type: ignore[operator]
    assert not list(tmp_path.iterdir())
