"""The site's keys as they stand in ``keys.json`` now: read anew when the file changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from config.command_keys import KEYS_FILE, CommandKey, load_keys

log = logging.getLogger(__name__)


class KeyRing:
    """Public keys by their names.

    fault   why no key counts; "" = they do
    damage  what is wrong with the file; "" = nothing, or it is not there
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is the site folder; nothing is read before `refresh`."""
        self.keys: Mapping[str, CommandKey] = {}
        self.fault = "the keys were not read yet"
        self.damage = ""
        self._folder = folder
        self._stamp: tuple[int, ...] | None = None

    def refresh(self) -> None:
        """Read the file where it is another one than before. Waits for the disk."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self.keys, findings = load_keys(self._folder)
        self.fault = self.damage = ""
        if findings:
            self.damage = f"{KEYS_FILE} can't be used, so no key counts: {findings[0]}"[:300]
            self.fault = self.damage
            for finding in findings:
                log.error("commands: %s", finding)
        elif self.keys:
            log.info("commands: keys of %s", ", ".join(sorted(self.keys)))
        else:
            self.fault = (
                f"this site has no keys ({KEYS_FILE}), so it takes no commands from outside"
            )

    def _look(self) -> tuple[int, ...]:
        """What changes with the file; an empty one where there is none, or it can't be seen."""
        try:
            about = os.stat(self._folder / KEYS_FILE)
        except OSError as error:
            return (error.errno or 0,)
        return about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino
