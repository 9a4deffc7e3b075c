"""The enrolment service: certificates for new gateways, over HTTPS.

    GET  /v1/authority   the authority's certificate; whoever has a token can tell that it is it
    POST /v1/join        {"secret", "request"} -> a certificate, once a token
    POST /v1/renew       {"request"}, with the present certificate shown in TLS -> a new one

Answers are JSON: ``{"certificate", "broker"}``, or ``{"reason"}`` with status 400, 403 or 503.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from typing import Any, Final

from aiohttp import web
from cryptography import x509

from cloud.authority import GATEWAY, Authority, AuthorityError, read_request
from cloud.enrol_book import Book, BookError, Entitled, TokenRefused
from cloud.listener import Listener, listen
from gateway.core.clock import Clock
from sync.enrolment import AUTHORITY_PATH, JOIN_PATH, PEM_BYTES_MAX, RENEW_PATH, SECRET_BYTES

log = logging.getLogger("gatepost.enrol")

BODY_BYTES_MAX: Final = 2 * PEM_BYTES_MAX


class EnrolmentService:
    """Serves one authority. `start` and `stop` once each."""

    def __init__(
        self, authority: Authority, book: Book, clock: Clock, *, broker: str, days: int
    ) -> None:
        """`broker` is the URL that a new gateway is told; `days` a certificate's life."""
        self.port = 0
        self._authority = authority
        self._book = book
        self._clock = clock
        self._broker = broker
        self._days = days
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises OSError."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.add_routes(
            [
                web.get(AUTHORITY_PATH, self._tell_authority),
                web.post(JOIN_PATH, self._join),
                web.post(RENEW_PATH, self._renew),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, logger=_http_log())
        await self._runner.setup()
        assert self._runner.server is not None, "setup made it"
        listener = Listener(self._runner.server, self._context())
        listening = listen(host, port)
        self.port = int(listening.getsockname()[1])
        self._listening = asyncio.create_task(listener.run(listening))

    async def stop(self) -> None:
        """Close every connection."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._authority.server_file, self._authority.server_key_file)
        context.load_verify_locations(self._authority.file)
        context.verify_mode = ssl.CERT_OPTIONAL  # a new gateway has none to show
        return context

    async def _tell_authority(self, request: web.Request) -> web.Response:
        return web.Response(body=self._authority.pem, content_type="application/x-pem-file")

    async def _join(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._redeem)

    async def _renew(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._renewed)

    async def _answer(self, request: web.Request, work: Any) -> web.Response:
        """Run `work` on a thread; what it refuses is an answer, not an end."""
        try:
            shown = _shown(request)
            asked = _fields(await request.read())
            pem = await asyncio.get_running_loop().run_in_executor(None, work, asked, shown)
        except TokenRefused as refusal:
            log.warning("%s %s: refused: %s", request.remote, request.path, refusal)
            return web.json_response({"reason": str(refusal)}, status=403)
        except (AuthorityError, ValueError, web.RequestPayloadError) as error:
            log.warning("%s %s: %s", request.remote, request.path, error)
            return web.json_response({"reason": str(error)}, status=400)
        except BookError as error:
            log.error("%s", error)
            return web.json_response({"reason": "the service can't keep its book"}, status=503)
        return web.json_response({"certificate": pem.decode(), "broker": self._broker})

    def _redeem(self, asked: dict[str, str], shown: x509.Certificate | None) -> bytes:
        public = read_request(asked.get("request", "").encode())
        secret = bytes.fromhex(asked.get("secret", ""))
        if len(secret) != SECRET_BYTES:
            raise ValueError("secret: not of a token")
        now_ns = self._clock.utc_ns()

        def issue(who: Entitled) -> x509.Certificate:
            log.info("certificate for the gateway %s", who.name)
            return self._authority.issue(public, who.name, who.role, now_ns, self._days, who.turn)

        return self._book.redeem(secret, public, now_ns, issue, GATEWAY)

    def _renewed(self, asked: dict[str, str], shown: x509.Certificate | None) -> bytes:
        if shown is None:
            raise TokenRefused("no certificate was shown")
        public = read_request(asked.get("request", "").encode())
        now_ns = self._clock.utc_ns()

        def issue(who: Entitled) -> x509.Certificate:
            log.info("new certificate for the %s %s", who.role, who.name)
            return self._authority.issue(public, who.name, who.role, now_ns, self._days, who.turn)

        return self._book.renew(shown, public, now_ns, issue)


def _http_log() -> logging.Logger:
    """Where aiohttp tells of requests that are no HTTP: a line each, without a stack."""
    made = logging.getLogger("gatepost.enrol.http")
    if not made.filters:
        made.addFilter(_shorten)
    return made


def _shorten(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    record.msg, record.args = f"{record.getMessage()} {error!r:.300}", ()
    record.exc_info = record.exc_text = None
    return True


def _shown(request: web.Request) -> x509.Certificate | None:
    """The client's certificate, which TLS has verified against the authority."""
    tls = request.get_extra_info("ssl_object")
    data = tls.getpeercert(binary_form=True) if tls is not None else None
    return x509.load_der_x509_certificate(data) if data else None


def _fields(body: bytes) -> dict[str, str]:
    """Raises ValueError where the body is no JSON object of texts."""
    try:
        asked = json.loads(body)
    except RecursionError:
        raise ValueError("not a JSON object") from None
    if not isinstance(asked, dict) or not all(isinstance(v, str) for v in asked.values()):
        raise ValueError("expected a JSON object of texts")
    return asked
