"""A gateway's side of its enrolment: ask the service, check what came, keep it in one file.

The file holds key and certificate together and is replaced whole: a power cut in a renewal leaves
the old pair or the new one, never half of each.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from gateway.core.files import replace_file
from sync.enrolment import (
    AUTHORITY_PATH,
    JOIN_PATH,
    PEM_BYTES_MAX,
    RENEW_PATH,
    EnrolmentError,
    Identity,
    Token,
    check_authority,
    check_issued,
    name_of,
    new_key,
    read_certificate,
    request_for,
)

ANSWER_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 2 * PEM_BYTES_MAX


async def join(token: Token, identity: Identity) -> str:
    """Get the first certificate; returns the broker's URL. Raises EnrolmentError.

    May be repeated until it worked: the key stays the same, and the service knows it again.
    """
    _make_folder(identity.folder)
    key = _pending_key(identity)
    async with _session() as session:
        unproven = ssl.create_default_context()
        unproven.check_hostname = False
        unproven.verify_mode = ssl.CERT_NONE  # only to learn the authority, which the token proves
        pem = await _get(session, token.url + AUTHORITY_PATH, unproven)
        authority = check_authority(pem, token.fingerprint)
        proven = _context(pem)
        asked = {"secret": token.secret.hex(), "request": request_for(token.site, key).decode()}
        answer = await _post(session, token.url + JOIN_PATH, asked, proven)
    certificate = _text(answer, "certificate").encode()
    check_issued(certificate, key, token.site, authority)
    _write(identity.authority, pem, 0o644)
    _write(identity.service, token.url.encode() + b"\n", 0o644)
    _keep(identity, key, certificate)
    return _text(answer, "broker")


async def renew(identity: Identity) -> None:
    """Get the next certificate for a new key, with the present one. Raises EnrolmentError."""
    pair, pem = _read(identity.pair), _read(identity.authority)
    url = _read(identity.service).decode("utf-8", "replace").strip()
    site = name_of(read_certificate(pair))
    key = _pending_key(identity)
    proven = _context(pem)
    try:
        proven.load_cert_chain(identity.pair)
    except (OSError, ssl.SSLError) as error:
        raise EnrolmentError(f"{identity.pair}: {error}") from None
    async with _session() as session:
        asked = {"request": request_for(site, key).decode()}
        answer = await _post(session, url + RENEW_PATH, asked, proven)
    certificate = _text(answer, "certificate").encode()
    check_issued(certificate, key, site, read_certificate(pem))
    _keep(identity, key, certificate)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))


def _context(authority: bytes) -> ssl.SSLContext:
    """Whom the authority vouches for, under the name that we asked for."""
    try:
        context = ssl.create_default_context(cadata=authority.decode())
    except (ValueError, ssl.SSLError) as error:
        raise EnrolmentError(f"the authority's certificate can't be read: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def _get(session: aiohttp.ClientSession, url: str, context: ssl.SSLContext) -> bytes:
    try:
        async with session.get(url, ssl=context, allow_redirects=False) as response:
            if response.status != 200:
                raise EnrolmentError(f"{url}: status {response.status}: no enrolment service?")
            return await _body(response)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise EnrolmentError(f"{url}: {_why(error)}") from None


async def _post(
    session: aiohttp.ClientSession, url: str, asked: Mapping[str, str], context: ssl.SSLContext
) -> Mapping[str, Any]:
    try:
        async with session.post(url, json=asked, ssl=context, allow_redirects=False) as response:
            answer = json.loads(await _body(response))
            if not isinstance(answer, Mapping):
                raise EnrolmentError(f"{url}: status {response.status}: no answer of a service")
            if response.status != 200:
                reason = str(answer.get("reason", f"status {response.status}"))
                raise EnrolmentError(f"the service refuses: {reason}")
            return answer
    except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
        raise EnrolmentError(f"{url}: {_why(error)}") from None


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """All of an answer, as long as it is one of ours. Raises ValueError."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > ANSWER_BYTES_MAX:
            raise ValueError("the answer is too long for one of an enrolment service")
    return bytes(data)


def _why(error: Exception) -> str:
    return str(error) or f"no answer within {ANSWER_S:g} s"


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or len(value) > PEM_BYTES_MAX:
        raise EnrolmentError(f"the service sent no {name}")
    return value


# ---------------------------------------------------------------- files


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EnrolmentError(f"{folder}: {error.strerror}") from None


def _pending_key(identity: Identity) -> bytes:
    """The key of the request: the one of an attempt that got no answer, or a new one."""
    try:
        key = identity.pending.read_bytes()
        request_for("site", key)
        return key
    except (FileNotFoundError, EnrolmentError):  # none, or one that serves nobody any more
        pass
    except OSError as error:
        raise EnrolmentError(f"{identity.pending}: {error.strerror}") from None
    key = new_key()
    _write(identity.pending, key, 0o600)
    return key


def _keep(identity: Identity, key: bytes, certificate: bytes) -> None:
    _write(identity.pair, key + certificate, 0o600)
    try:
        identity.pending.unlink(missing_ok=True)
    except OSError as error:
        raise EnrolmentError(f"{identity.pending}: {error.strerror}") from None


def _write(path: Path, data: bytes, mode: int) -> None:
    """Replace a file; nobody else can read a private one at any moment."""
    try:
        replace_file(path, data, mode)
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}; is this gateway enrolled?") from None
