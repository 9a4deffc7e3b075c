"""The link process renews the gateway's certificate before it ends.

A gateway that was enrolled (docs/enrolment.md) has its pair in the state folder. Sessions read it
anew, so nothing is restarted.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.core.clock import UTC_PLAUSIBLE_NS, Clock

if TYPE_CHECKING:
    from sync.enrolment import Identity

log = logging.getLogger("gatepost.link")

PERIOD_S: Final = 3600.0
LIFE_LEFT: Final = 1 / 3  # of a certificate's life, below which it is renewed


class Renewal:
    """Watches over the identity in a folder. `run` renews it while that is due."""

    def __init__(self, folder: Path, clock: Clock, *, period_s: float = PERIOD_S) -> None:
        """`folder` may be missing: then this gateway was not enrolled, and nothing is done."""
        self._folder = folder
        self._clock = clock
        self._period_s = period_s
        self._fault = ""
        self._ends_ns = 0

    def status(self) -> dict[str, Any]:
        """When the certificate ends, 0 where there is none, and why it is not renewed."""
        return {"certificate_ends_ns": self._ends_ns, "certificate_fault": self._fault}

    async def run(self) -> None:
        """Look every hour, for ever; not every gateway of a fleet in the same minute."""
        await asyncio.sleep(self._clock.random() * self._period_s / 10)
        while True:
            await self._look()
            await asyncio.sleep(self._period_s)

    async def _look(self) -> None:
        now_ns = self._clock.utc_ns()
        if now_ns < UTC_PLAUSIBLE_NS:
            return
        if not self._folder.is_dir():
            self._ends_ns, self._fault = 0, ""
            return
        from sync.enrolment import EnrolmentError, Identity  # 8 MB that only certificates need

        identity = Identity(self._folder)
        try:
            left = self._left(identity, now_ns)
            if left is not None and left <= LIFE_LEFT:
                from sync.enrol_client import renew  # an HTTP client is no load of every day

                await renew(identity)
                self._left(identity, now_ns)
                log.info("%s: the certificate is renewed", identity.pair)
            self._fault = ""
        except EnrolmentError as error:
            if str(error) != self._fault:
                log.error("the certificate is not renewed: %s", error)
            self._fault = str(error)

    def _left(self, identity: Identity, now_ns: int) -> float | None:
        """The share of its life that is left; None where there is no certificate."""
        from sync.enrolment import EnrolmentError, life_left, read_certificate

        try:
            pem = identity.pair.read_bytes()
        except FileNotFoundError:
            self._ends_ns = 0
            return None
        except OSError as error:
            raise EnrolmentError(f"{identity.pair}: {error.strerror}") from None
        certificate = read_certificate(pem)
        self._ends_ns = round(certificate.not_valid_after_utc.timestamp()) * 1_000_000_000
        return life_left(certificate, now_ns)
