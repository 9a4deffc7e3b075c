"""Runs the command line as a person does, in this process: arguments in, status and text out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.cli import app


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


Gatepost = Callable[..., Outcome]


@pytest.fixture
def gatepost(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Gatepost:
    """Call it with the words behind `gatepost`."""

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["gatepost", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        said = capsys.readouterr()
        code = ended.value.code
        assert "Traceback" not in said.err
        return Outcome(code if isinstance(code, int) else int(bool(code)), said.out, said.err)

    return run
