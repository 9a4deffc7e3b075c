"""ServerConfiguration: a certificate manager's changes, collected and then done as one.

OPC 10000-12, 7.10. Whatever `gatepost certs` can do in the folder can be done here; both write the
same files, and `Guard` sees what changed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from asyncua import ua
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.core.clock import Clock
from gateway.opcua.methods import MethodFault
from gateway.opcua.names import standard_id
from gateway.opcua.push import lists, request
from gateway.opcua.push.files import Files
from gateway.opcua.push.lists import ISSUER_CERTIFICATES, TRUSTED_CERTIFICATES, Lists
from gateway.opcua.security.audit import Audit
from gateway.opcua.security.certificates import Subject, der_of
from gateway.opcua.security.changes import carry_out
from gateway.opcua.security.guard import Guard
from gateway.opcua.security.own import OwnFiles
from gateway.opcua.security.trust import REJECTED, TrustFolder, modified_ns
from gateway.opcua.transport.session import Session

IDLE_NS: Final = 60_000_000_000  # so long a transaction may do nothing while others wait
REJECTED_BYTES_MAX: Final = 262_144  # of one answer
READ_MODE: Final = 1
WRITE_MODE: Final = 6  # Write and EraseExisting
_IDS: Final = ua.ObjectIds
_CODES: Final = ua.StatusCodes
CONFIGURATION: Final = standard_id(_IDS.ServerConfiguration)
APPLICATIONS: Final = standard_id(
    _IDS.ServerConfiguration_CertificateGroups_DefaultApplicationGroup
)
RSA: Final = standard_id(_IDS.RsaSha256ApplicationCertificateType)

Inputs = Sequence[Any]  # contents of the arguments
Key = tuple[rsa.RSAPrivateKey, x509.Certificate]


@dataclass(slots=True, eq=False)
class _Transaction:
    """What a session wants to have changed when it says so."""

    session: Session
    used_ns: int
    lists: dict[ua.NodeId, Lists] = field(default_factory=dict)  # by trust list
    own: Key | None = None
    method: tuple[ua.NodeId, str] = (ua.NodeId(), "")  # that put in the certificate


class Push:
    """The methods of ServerConfiguration and of its trust lists. Raise MethodFault, OSError."""

    def __init__(self, guard: Guard, audit: Audit, clock: Clock) -> None:
        self._guard = guard
        self._audit = audit
        self._clock = clock
        self._own = OwnFiles(guard.folder / "own")
        self.folders = {  # by trust list
            standard_id(
                _IDS.ServerConfiguration_CertificateGroups_DefaultApplicationGroup_TrustList
            ): TrustFolder(guard.folder),
            standard_id(
                _IDS.ServerConfiguration_CertificateGroups_DefaultUserTokenGroup_TrustList
            ): TrustFolder(guard.folder / "users"),
        }
        self.files = Files(self._drop)
        self._transaction: _Transaction | None = None
        self.order = asyncio.Lock()
        self._disk = threading.Lock()  # a method that took too long goes on in its thread

    @property
    def uri(self) -> str:
        """Our application URI."""
        return self._guard.application_uri

    # ------------------------------------------------------------ the transaction

    def _drop(self, session: Session) -> None:
        """Forget what a session wanted to change."""
        if self._transaction is not None and self._transaction.session is session:
            self._transaction = None

    def _check_free(self, session: Session) -> None:
        """Raise MethodFault where another session changes things; after a minute of rest not."""
        held = self._transaction
        if held is None or held.session is session:
            return
        if self._clock.monotonic_ns() - held.used_ns < IDLE_NS:
            reason = f"{held.session.user.name} from {held.session.client} changes it"
            raise MethodFault(_CODES.BadTransactionPending, reason)
        self.files.close_all(held.session, writing=True)
        self._transaction = None

    def _begin(self, session: Session) -> _Transaction:
        """The session's transaction, a new one where it has none. Raises MethodFault."""
        self._check_free(session)
        if session.closed:
            raise MethodFault(_CODES.BadSessionClosed, "the session has ended")
        if self._transaction is None:
            self._transaction = _Transaction(session, 0)
            self.files.follow(session)
        self._transaction.used_ns = self._clock.monotonic_ns()
        return self._transaction

    def _forget_empty(self) -> None:
        held = self._transaction
        if held and not held.lists and held.own is None and not self.files.written(held.session):
            self._transaction = None

    def touch(self, session: Session) -> None:
        """A session called a method: it is not at rest."""
        if self._transaction is not None and self._transaction.session is session:
            self._transaction.used_ns = self._clock.monotonic_ns()

    async def apply(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """ApplyChanges."""
        self._check_free(session)
        held = self._transaction
        if held is None:
            raise MethodFault(_CODES.BadNothingToDo, "nothing waits to be applied")
        if self.files.written(session):
            raise MethodFault(_CODES.BadInvalidState, "a trust list is open for writing")
        self._transaction = None  # what can't be applied is not kept
        await asyncio.to_thread(self._apply, held)
        self._guard.changed()
        for trust_list in held.lists:
            self._tell_list(session, trust_list, self._method("CloseAndUpdate", trust_list))
        if held.own is not None:
            kind = _IDS.CertificateUpdatedAuditEventType
            what = f"our certificate is {lists.name_of(held.own[1])} now"
            fields = {"CertificateGroup": APPLICATIONS, "CertificateType": RSA}
            self._audit.pushed(session, kind, CONFIGURATION, held.method, what, fields)
        return ()

    def _apply(self, held: _Transaction) -> None:
        with self._disk:
            puts: dict[Path, bytes] = {}
            removes: list[Path] = []
            for trust_list, fresh in held.lists.items():
                folder = self.folders[trust_list]
                now = lists.merged(lists.read(folder), fresh)
                lists.check(now, fresh, self._clock.utc_ns())
                more, gone = lists.plan(folder, fresh)
                puts.update(more)
                removes += gone
            if held.own is not None:
                puts.update(self._own.contents(*held.own))
                removes.append(self._own.next_key_file)
            carry_out(self._guard.folder, puts, removes)

    async def cancel(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """CancelChanges."""
        self._check_free(session)
        if self._transaction is None:
            raise MethodFault(_CODES.BadNothingToDo, "nothing waits to be applied")
        self.files.close_all(session, writing=True)
        self._transaction = None
        return ()

    # ------------------------------------------------------------ our own certificate

    def _check_group(self, group: ua.NodeId, kind: ua.NodeId) -> None:
        if group not in (APPLICATIONS, ua.NodeId()) or kind not in (RSA, ua.NodeId()):
            reason = "the DefaultApplicationGroup has a certificate, of RsaSha256"
            raise MethodFault(_CODES.BadInvalidArgument, reason)

    async def request(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """CreateSigningRequest; a new key waits in the folder until its certificate comes."""
        group, kind, name, new_key, nonce = given
        self._check_group(group, kind)
        own = self._guard.subject()
        subject = Subject(self._guard.application_uri, own.name, own.hosts)

        def work() -> bytes:
            return request.signing_request(
                self._own, subject, name or "", nonce or b"", new_key=new_key
            )

        return (await asyncio.to_thread(work),)

    async def update(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """UpdateCertificate."""
        group, kind, certificate, issuers, form, private = given
        self._check_group(group, kind)
        self._check_free(session)
        folder = self.folders[self._list_of(APPLICATIONS)]

        def work() -> Key:
            sent = (certificate or b"", [one or b"" for one in issuers or ()])
            key = (form or "", private or b"")
            uri, now_ns = self._guard.application_uri, self._clock.utc_ns()
            return request.accepted(self._own, sent, key, folder.load(), uri, now_ns)

        own = await asyncio.to_thread(work)
        held = self._begin(session)
        held.own, held.method = own, self._method("UpdateCertificate", CONFIGURATION)
        return (True,)

    async def rejected(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """GetRejectedList: the newest first, as many as an answer holds."""

        def work() -> list[bytes]:
            kept = [one for folder in self.folders.values() for one in folder.kept(REJECTED)]
            kept.sort(key=lambda one: modified_ns(one.path), reverse=True)
            return [der_of(one.certificate) for one in kept]

        found = await asyncio.to_thread(work)
        return (found[: REJECTED_BYTES_MAX // max(map(len, found), default=1)],)

    # ------------------------------------------------------------ trust lists

    def _list_of(self, group: ua.NodeId) -> ua.NodeId:
        return next(iter(self.folders)) if group == APPLICATIONS else group

    async def open(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """Open, for reading or for writing it anew."""
        if given[0] not in (READ_MODE, WRITE_MODE):
            reason = "the mode is 1, to read, or 6, to write and erase"
            raise MethodFault(_CODES.BadNotSupported, reason)
        if given[0] == READ_MODE:
            return await self.open_masked(session, node, (lists.ALL,))
        self._check_free(session)
        if self.files.written(node=node):
            raise MethodFault(_CODES.BadNotWritable, "it is open for writing")
        self.files.check_room(session)
        self._begin(session)
        return (self.files.open(session, node, b"", writing=True),)

    async def open_masked(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """OpenWithMasks: for reading, some of its parts."""
        self.files.check_room(session)
        folder = self.folders[node]
        data = await asyncio.to_thread(lambda: lists.encoded(lists.read(folder), given[0]))
        return (self.files.open(session, node, data, writing=False),)

    async def read(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """Read."""
        return (self.files.read(self.files.get(session, node, given[0]), given[1]),)

    async def write(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """Write."""
        self.files.write(self.files.get(session, node, given[0]), given[1] or b"")
        return ()

    async def position(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """GetPosition."""
        return (self.files.get(session, node, given[0]).position,)

    async def move(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """SetPosition."""
        self.files.move(self.files.get(session, node, given[0]), given[1])
        return ()

    async def close(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """Close; what was written is forgotten."""
        self.files.close(self.files.get(session, node, given[0]))
        self._forget_empty()
        return ()

    async def close_and_update(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """CloseAndUpdate: what was written is checked, and waits for ApplyChanges."""
        file = self.files.get(session, node, given[0])
        if not file.writing:
            raise MethodFault(_CODES.BadInvalidState, "the file is open for reading")
        held = self._begin(session)
        self.files.close(file)
        before, folder, data = held.lists.get(node, {}), self.folders[node], bytes(file.data)

        def work() -> Lists:
            fresh = lists.decoded(data)
            now = lists.merged(lists.read(folder), before, fresh)
            lists.check(now, fresh, self._clock.utc_ns())
            return lists.merged(before, fresh)

        try:
            held.lists[node] = await asyncio.to_thread(work)
        finally:
            self._forget_empty()
        return (True,)

    async def add(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """AddCertificate: at once. An authority needs its list of revoked ones, so not here."""
        self._check_still(node)
        if not given[1]:
            reason = "issuers come with their lists of revoked certificates, by Write"
            raise MethodFault(_CODES.BadCertificateInvalid, reason)

        def work() -> Lists:
            fresh = lists.certificate_of(given[0] or b"")
            held = lists.read(self.folders[node])
            held[TRUSTED_CERTIFICATES].append(fresh)
            lists.check(held, {TRUSTED_CERTIFICATES: [fresh]}, self._clock.utc_ns())
            return {TRUSTED_CERTIFICATES: held[TRUSTED_CERTIFICATES]}

        return await self._at_once(session, node, work, "AddCertificate")

    async def remove(self, session: Session, node: ua.NodeId, given: Inputs) -> Inputs:
        """RemoveCertificate: at once, with the lists of revoked ones of an authority."""
        self._check_still(node)
        bit = TRUSTED_CERTIFICATES if given[1] else ISSUER_CERTIFICATES

        def work() -> Lists:
            return lists.without(lists.read(self.folders[node]), given[0] or "", bit)

        return await self._at_once(session, node, work, "RemoveCertificate")

    def _check_still(self, node: ua.NodeId) -> None:
        if self.files.written(node=node):
            raise MethodFault(_CODES.BadInvalidState, "the list is open for writing")
        if self._transaction is not None:
            raise MethodFault(_CODES.BadTransactionPending, "changes wait to be applied")

    async def _at_once(self, session: Session, node: ua.NodeId, work: Any, name: str) -> Inputs:
        def change() -> None:
            with self._disk:
                puts, removes = lists.plan(self.folders[node], work())
                carry_out(self._guard.folder, puts, removes)

        await asyncio.to_thread(change)
        self._guard.changed()
        self._tell_list(session, node, self._method(name, node))
        return ()

    # ------------------------------------------------------------ audit

    def _tell_list(self, session: Session, node: ua.NodeId, method: tuple[ua.NodeId, str]) -> None:
        users = node != self._list_of(APPLICATIONS)
        what = f"the trust list of {'users' if users else 'clients'} was changed"
        kind = _IDS.TrustListUpdatedAuditEventType
        self._audit.pushed(session, kind, node, method, what, {"TrustListId": node})

    def _method(self, name: str, node: ua.NodeId) -> tuple[ua.NodeId, str]:
        """NodeId and name of a method of an object."""
        held = next(n for n in dir(_IDS) if getattr(_IDS, n) == node.Identifier)
        return standard_id(getattr(_IDS, f"{held}_{name}")), name
