"""Who may open a channel, a session, and as whom: certificates, users, and what is offered.

The folder is ``<state>/opcua``: ``own`` (our key and certificate), ``trusted``, ``issuers``,
``rejected`` (clients), ``users`` (the same for certificates of people) and ``users.json``. What an
administrator changes there counts from the next channel, session or look of `may_stay` on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from asyncua import ua
from cryptography import x509

from config.opcua import OpcUaEntry
from gateway.core.clock import Clock
from gateway.opcua import OpcUaError
from gateway.opcua.security import certificates, changes, passwords, policies, tokens
from gateway.opcua.security.attempts import Attempts
from gateway.opcua.security.audit import Allowance, Audit
from gateway.opcua.security.certificates import (
    DAY_NS,
    CertificateError,
    Subject,
    subject_of,
    thumbprint,
)
from gateway.opcua.security.codes import Code
from gateway.opcua.security.own import Own, OwnError, OwnFiles
from gateway.opcua.security.policies import NONE_URI, Factory, NoneFactory, Policy
from gateway.opcua.security.trust import (
    SETTLE_NS,
    TrustFolder,
    TrustList,
    modified_ns,
)
from gateway.opcua.security.user_file import (
    CERTIFICATES_MAX,
    USERS_MAX,
    Entry,
    UserFileError,
    read_users,
)
from gateway.opcua.security.validation import is_strong, judge, judge_user
from gateway.opcua.service import Fault
from gateway.opcua.users import ANONYMOUS, User

log = logging.getLogger("gatepost.opcua")

USERS_FILE: Final = "users.json"
RENEW_NS: Final = 30 * DAY_NS  # so long before its end a certificate that we signed is renewed
LOOK_NS: Final = 3_600_000_000_000  # how often its end is looked at
READ_NS: Final = 250_000_000  # between two looks into folders that change
KNOWN_MAX: Final = 100  # certificates whose verdict is kept
KNOWN_NS: Final = 10_000_000_000
SHOWN_MAX: Final = USERS_MAX * CERTIFICATES_MAX  # whose logon is forgotten logs on again
HASHING_MAX: Final = 1  # passwords that are hashed at a time; the other cores are the plant's
WAITING_MAX: Final = 16
ADDRESS_WAITING_MAX: Final = 4  # so that nobody takes all places
REJECTIONS: Final = 10  # files of rejected certificates at once, then one a second


class GuardError(OpcUaError):
    """Keys, certificates or users can't be used; the message names the file and the remedy."""


class ChannelView(Protocol):
    """What the guard asks of a channel on which a user logs on."""

    @property
    def policy(self) -> Any:
        """Its security policy; `URI` names it."""

    @property
    def peer(self) -> str:
        """The client's address, without the port."""

    @property
    def own_certificate(self) -> bytes:
        """Ours when it was opened, which may have been renewed since; empty without security."""


@dataclass(frozen=True, slots=True)
class _State:
    """Everything that was read from the folder, at one time."""

    own: Own
    clients: TrustList
    people: TrustList
    users: dict[str, Entry]
    stamp: tuple[int, ...]


class Guard:
    """Decides by what the site file and the state folder say. Used on one event loop."""

    def __init__(
        self, settings: OpcUaEntry, folder: Path, site: str, clock: Clock, audit: Audit
    ) -> None:
        self._settings = settings
        self._site = site
        self._clock = clock
        self._audit = audit
        self.folder = folder
        self._own_files = OwnFiles(folder / "own")
        self._clients = TrustFolder(folder)
        self._people = TrustFolder(folder / "users")
        self._users_file = folder / USERS_FILE
        self._state: _State | None = None
        self._known: dict[bytes, tuple[int, int]] = {}
        self._shown: dict[str, list[x509.Certificate]] = {}  # chains of users, by thumbprint
        self._attempts = Attempts()
        self._hashing = ThreadPoolExecutor(HASHING_MAX, thread_name_prefix="opcua password")
        self._waiting = 0
        self._addresses: Counter[str] = Counter()  # of those that wait
        self._rejections = Allowance(clock, REJECTIONS, 1.0)
        self._looked_ns = self._read_ns = clock.monotonic_ns()
        self._tokens = {
            token.PolicyId: policy
            for policy in policies.chosen(settings)
            for token in policies.token_policies(policy, anonymous=False)
        }

    def close(self) -> None:
        """End the thread that hashes passwords."""
        self._hashing.shutdown(wait=False, cancel_futures=True)

    async def open(self) -> None:
        """Make folders, key and certificate where there are none, and load. Raises GuardError."""
        try:
            self._state = await asyncio.to_thread(self._open)
        except (OwnError, UserFileError) as error:
            raise GuardError(f"OPC UA: {error}") from error
        except OSError as error:
            raise GuardError(f"OPC UA: {error.filename}: {error.strerror}") from error
        self._tell_faults()

    def _open(self) -> _State:
        self._users_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clients.make()
        self._people.make()
        changes.finish(self.folder)
        if self._own_files.load() is None:
            self._own_files.renew(self.subject(), self._clock.utc_ns())
        return self._read()

    def _read(self) -> _State:
        """Everything, for the first time. Raises OwnError, UserFileError."""
        stamp = self._stamp()
        own, users = self._load_own(), read_users(self._users_file)
        return _State(own, self._clients.load(), self._people.load(), users, stamp)

    def _load_own(self) -> Own:
        own = self._own_files.load()
        if own is None:
            raise OwnError(f"{self._own_files.file} is gone; make one with `gatepost certs renew`")
        return own

    def _read_again(self, old: _State) -> _State:
        """The same; in place of a file that can't be used counts what was known before.

        Each file by itself: that one is broken keeps nobody trusted whom another one turns away.
        """
        stamp = self._stamp()
        own, users = old.own, old.users
        try:
            if old.stamp[-1] != stamp[-1]:  # to load a key costs more than everything else here
                own = self._load_own()
        except (OwnError, OSError) as error:
            log.error("opcua: %s; what counted before goes on", error)
        try:
            users = read_users(self._users_file)
        except (UserFileError, OSError) as error:
            if old.stamp != stamp:  # told once; the next change is looked at again
                log.error("opcua: %s; what counted before goes on", error)
        return _State(own, self._clients.load(), self._people.load(), users, stamp)

    def _stamp(self) -> tuple[int, ...]:
        files = (self._users_file, self._own_files.file)
        times = (*self._clients.stamp(), *self._people.stamp())
        return (*times, *(modified_ns(path) for path in files))

    def subject(self) -> Subject:
        """What a certificate of ours says."""
        return subject_of(self._settings, self._site, socket.gethostname())

    @property
    def _now(self) -> _State:
        assert self._state is not None, "the guard is opened first"
        return self._state

    # ------------------------------------------------------------ what is offered

    @property
    def application_uri(self) -> str:
        """Ours, as the certificate says it."""
        return self._now.own.uri or self.subject().uri

    @property
    def certificate(self) -> bytes:
        """Ours, in DER."""
        return self._now.own.der

    def policies(self) -> list[Any]:
        """What asyncua chooses the policy of a channel from; ask anew for each connection."""
        self.changed()
        made: list[Any] = [
            Factory(policy, mode, self._now.own)
            for policy in policies.chosen(self._settings)
            for mode in policies.modes(self._settings)
        ]
        return [*made, NoneFactory()]

    def endpoints(self, url: str) -> list[ua.EndpointDescription]:
        """What GetEndpoints tells, the best first."""
        self.changed()
        anonymous = self._settings.Anonymous
        made = [
            self._endpoint(url, policy, mode, anonymous)
            for policy in policies.chosen(self._settings)
            for mode in policies.modes(self._settings)
        ]
        if self._settings.NoSecurity:
            made.append(self._endpoint(url, None, policies.Mode.None_, True))
        return made

    def _endpoint(
        self, url: str, policy: Policy | None, mode: Any, anonymous: bool
    ) -> ua.EndpointDescription:
        shown = ua.EndpointDescription()
        shown.EndpointUrl = url
        shown.Server = self.description(url)
        shown.ServerCertificate = self.certificate
        shown.SecurityMode = mode
        shown.SecurityPolicyUri = NONE_URI if policy is None else policy.uri
        shown.UserIdentityTokens = list(policies.token_policies(policy, anonymous=anonymous))
        shown.TransportProfileUri = policies.TRANSPORT_URI
        # Signing without encryption is a level of its own, below all that encrypt.
        worse = 100 if mode == policies.Mode.Sign else 0
        shown.SecurityLevel = 0 if policy is None else policy.level - worse
        return shown

    def description(self, url: str) -> ua.ApplicationDescription:
        """The server, as FindServers and GetEndpoints tell it."""
        shown = ua.ApplicationDescription()
        shown.ApplicationUri = self.application_uri
        shown.ProductUri = "urn:gatepost"
        shown.ApplicationName = ua.LocalizedText(self.subject().name)
        shown.ApplicationType = ua.ApplicationType.Server
        shown.DiscoveryUrls = [url]
        return shown

    # ------------------------------------------------------------ certificates

    def check_channel(self, certificate: bytes | None, policy_uri: str, peer: str = "") -> int:
        """Whether a channel may be opened: 0, or a bad status code.

        certificate  what the client shows, in DER, perhaps with those of issuers behind it
        peer         its address, for the audit

        Without security a channel is for discovery; `check_session` says what else.
        """
        if policy_uri == NONE_URI:
            return 0
        if policy_uri not in {policy.uri for policy in policies.chosen(self._settings)}:
            return Code.SECURITY_POLICY_REJECTED
        if certificate is None:
            return Code.SECURITY_CHECKS_FAILED
        return self._check(certificate, None, peer)

    def check_session(self, certificate: bytes | None, application_uri: str, peer: str = "") -> int:
        """Whether a session may be made: 0, or a bad status code.

        certificate      the channel's; None where the channel has no security
        application_uri  what the client calls itself; its certificate must say the same
        """
        if certificate is None:
            return 0 if self._settings.NoSecurity else Code.SECURITY_POLICY_REJECTED
        return self._check(certificate, application_uri, peer)

    def _check(self, data: bytes, uri: str | None, peer: str) -> int:
        self.changed()
        now_ns = self._clock.monotonic_ns()
        key = hashlib.sha256(data).digest() + (b"" if uri is None else uri.encode())
        code, until_ns = self._known.get(key, (0, 0))
        if now_ns < until_ns:
            return code
        try:
            sent = certificates.read_chain(data)
        except CertificateError:
            self._audit.certificate(peer, thumbprint(data), Code.CERTIFICATE_INVALID)
            return Code.CERTIFICATE_INVALID
        code = judge(sent, self._now.clients, self._clock.utc_ns(), uri)
        if code:
            self._turned_away(self._clients, sent[0], code, peer)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[key] = (code, now_ns + KNOWN_NS)
        return code

    def _turned_away(
        self, folder: TrustFolder, certificate: x509.Certificate, code: int, peer: str
    ) -> None:
        der = certificates.der_of(certificate)
        name = "".join(filter(str.isprintable, certificates.common_name(certificate)))[:64]
        self._audit.certificate(f"{name} {peer}".strip(), thumbprint(der), code, der)
        known = self._now.clients if folder is self._clients else self._now.people
        if thumbprint(der) in known.trusted:
            return  # what is wrong with it, no trust would mend
        if len(der) <= certificates.CERTIFICATE_BYTES_MAX and self._rejections.take():
            folder.reject(certificate)

    # ------------------------------------------------------------ users

    async def user_of(
        self, token: Any, signature: Any, server_nonce: bytes, channel: ChannelView
    ) -> User:
        """Who logs on. Raises Fault.

        token         the user identity token of an ActivateSession; None is anonymous
        signature     its UserTokenSignature
        server_nonce  the last that the session was given; another is given for the next time
        """
        self.changed()
        if token is None or isinstance(token, ua.AnonymousIdentityToken) or _is_empty(token):
            return self._anonymous(channel)
        if channel.policy.URI == NONE_URI:
            raise Fault(Code.IDENTITY_TOKEN_REJECTED)  # nobody's password goes over it
        if isinstance(token, ua.UserNameIdentityToken):
            return await self._by_password(token, server_nonce, channel)
        if isinstance(token, ua.X509IdentityToken):
            return self._by_certificate(token, signature, server_nonce, channel)
        raise Fault(Code.IDENTITY_TOKEN_REJECTED)

    def _anonymous(self, channel: ChannelView) -> User:
        secured = channel.policy.URI != NONE_URI
        if self._settings.Anonymous if secured else self._settings.NoSecurity:
            return ANONYMOUS
        raise Fault(Code.IDENTITY_TOKEN_REJECTED)

    def _policy(self, token: Any) -> Policy:
        policy = self._tokens.get(token.PolicyId)
        if policy is None:
            raise Fault(Code.IDENTITY_TOKEN_INVALID)
        return policy

    async def _by_password(self, token: Any, nonce: bytes, channel: ChannelView) -> User:
        policy = self._policy(token)
        name = token.UserName or ""
        # A password that is not encrypted is not looked at, lest somebody get used to it.
        if token.EncryptionAlgorithm != policy.encryption_uri or len(name) > 64:
            raise Fault(Code.IDENTITY_TOKEN_INVALID)
        if self._waiting >= WAITING_MAX or self._addresses[channel.peer] >= ADDRESS_WAITING_MAX:
            raise Fault(Code.TOO_MANY_OPERATIONS)
        if not self._attempts.begin(name, channel.peer, self._clock.monotonic_ns()):
            raise Fault(Code.USER_ACCESS_DENIED)
        entry = self._now.users.get(name.casefold())
        self._waiting += 1
        self._addresses[channel.peer] += 1
        try:
            right = await self._is_right(entry, token.Password or b"", nonce, policy)
        finally:
            self._waiting -= 1
            self._addresses[channel.peer] -= 1
            self._addresses += Counter()  # without those that are zero
        if not right or entry is None:
            raise Fault(Code.USER_ACCESS_DENIED)
        self._attempts.succeeded(name, channel.peer)
        return entry.user(entry.password)

    async def _is_right(
        self, entry: Entry | None, encrypted: bytes, nonce: bytes, policy: Policy
    ) -> bool:
        """Takes as long for unknown names and for what can't be decrypted."""
        known = entry is not None and bool(entry.password)
        expected = entry.password if entry is not None and known else self._decoy()
        key = self._now.own.key

        def compare() -> bool:
            password = tokens.password_of(encrypted, nonce, key, policy)
            return passwords.matches(password or "", expected) and password is not None

        # A logon that is given up meanwhile ends when its thread does, not before.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._hashing, compare) and known

    def _decoy(self) -> str:
        """A hash that costs what those of the users cost."""
        hashes = [entry.password for entry in self._now.users.values() if entry.password]
        return max(hashes, key=len, default=DECOY)

    def _by_certificate(
        self, token: Any, signature: Any, nonce: bytes, channel: ChannelView
    ) -> User:
        policy = self._policy(token)
        data = token.CertificateData or b""
        try:
            sent = certificates.read_chain(data)
        except CertificateError:
            raise Fault(Code.IDENTITY_TOKEN_INVALID) from None
        # Who it is must be proven before anything is said about him.
        algorithm = getattr(signature, "Algorithm", None)
        signed = getattr(signature, "Signature", None)
        challenge = (channel.own_certificate or self.certificate) + nonce
        if not is_strong(sent[0]):
            raise Fault(Code.IDENTITY_TOKEN_REJECTED)
        if not tokens.is_signed(sent[0], algorithm, signed, challenge, policy):
            raise Fault(Code.USER_SIGNATURE_INVALID)
        code = judge_user(sent, self._now.people, self._clock.utc_ns())
        if code:
            self._turned_away(self._people, sent[0], code, channel.peer)
            raise Fault(Code.IDENTITY_TOKEN_REJECTED)
        digits = thumbprint(certificates.der_of(sent[0]))
        for entry in self._now.users.values():
            if digits in entry.certificates:
                if len(self._shown) >= SHOWN_MAX:
                    self._shown.clear()
                self._shown[digits] = sent
                return entry.user(digits)
        raise Fault(Code.USER_ACCESS_DENIED)

    # ------------------------------------------------------------ changes

    def changed(self) -> None:
        """Take up what an administrator changed. Cheap: the times of some folders.

        A file that can't be used is told in the log, and what was known before goes on counting.
        """
        state = self._now
        self._look()
        stamp = self._stamp()
        # A folder's time moves in steps: shortly after a change there may be another unseen one.
        now_ns = self._clock.monotonic_ns()
        settling = self._clock.utc_ns() - max(stamp) < SETTLE_NS
        if stamp == state.stamp and not (settling and now_ns - self._read_ns > READ_NS):
            return
        self._read_ns = now_ns
        self._state = self._read_again(state)
        if stamp != state.stamp:
            self._known.clear()
            self._tell_faults()

    def may_stay(self, user: User, certificate: bytes | None, application_uri: str = "") -> bool:
        """False where a session must end: its certificate, its user or what he logged on with does
        not count any more."""
        self.changed()
        if certificate is not None and self._check(certificate, application_uri or None, ""):
            return False
        if not user.name:
            return True
        entry = self._now.users.get(user.name.casefold())
        if entry is None or entry.user() != user:
            return False
        if user.proof not in entry.certificates:
            return user.proof == entry.password
        shown = self._shown.get(user.proof)
        return shown is not None and not judge_user(shown, self._now.people, self._clock.utc_ns())

    def _look(self) -> None:
        """Renew a certificate that we signed, in time before its end."""
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns < LOOK_NS:
            return
        self._looked_ns = now_ns
        own = self._now.own
        left_ns = certificates.ends_ns(own.certificate) - self._clock.utc_ns()
        if left_ns > RENEW_NS:
            return
        if not own.self_signed:
            log.warning("opcua: our certificate ends soon; the authority must issue another")
            return
        subject = Subject(own.uri or self.subject().uri, self.subject().name, self.subject().hosts)
        try:
            self._own_files.renew(subject, self._clock.utc_ns())
            log.warning("opcua: our certificate was renewed; clients must trust the new one")
        except OwnError as error:
            log.error("opcua: our certificate ends soon and can't be renewed: %s", error)

    def _tell_faults(self) -> None:
        for fault in (*self._now.clients.faults, *self._now.people.faults):
            log.warning("opcua: left out: %s", fault)


# Nobody's password. The salt and the hash are zeros.
DECOY: Final = "scrypt$16384$8$5$" + "A" * 22 + "==$" + "A" * 43 + "="


def _is_empty(token: Any) -> bool:
    """A null extension object stands for anonymous (OPC 10000-4, 5.7.3)."""
    return isinstance(token, ua.ExtensionObject) and token.TypeId == ua.NodeId()
