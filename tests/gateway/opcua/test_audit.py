"""Audit events, and receipts of what the server refused."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from asyncua import ua

from gateway.core.clock import ManualClock
from gateway.opcua.event import UaEvent
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.orders.diagnostics import small
from gateway.opcua.security.audit import BURST, SERVER, WAITING_MAX, Audit, is_confidential
from gateway.opcua.security.codes import Code
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role, User
from tests.gateway.opcua_case import NoDesk, until

DENIED = ua.StatusCodes.BadUserAccessDenied
PSU = own_id("PSU.Limit")
FIVE = ua.Variant(5.0, ua.VariantType.Double)
WHICH = ua.Variant(b"1234", ua.VariantType.ByteString)
WHY = ua.Variant(ua.LocalizedText("seen"), ua.VariantType.LocalizedText)


class Book:
    def __init__(self) -> None:
        self.events: list[UaEvent] = []
        self.clock = ManualClock()
        self.desk = NoDesk()
        self.audit = Audit(self.events.append, self.desk, self.clock)

    @property
    def last(self) -> UaEvent:
        return self.events[-1]

    def field(self, name: str) -> Any:
        return self.last.fields[name].Value

    async def journaled(self, count: int) -> list[Mapping[str, Any]]:
        task = asyncio.create_task(self.audit.run())
        await until(lambda: len(self.desk.journaled) >= count)
        task.cancel()
        return self.desk.journaled


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def session() -> Session:
    made = Session(ua.NodeId(7, 1), ua.NodeId(b"secret", 0), "SCADA 192.0.2.7", secured=True)
    made.user = User("anna", Role.OPERATOR)
    return made


def test_a_write_that_was_done_is_told_with_old_and_new(book: Book, session: Session) -> None:
    old = ua.Variant(4.0, ua.VariantType.Double)
    book.audit.write(session, PSU, FIVE, 0, "", old=old, here=False)
    assert book.last.type_id == standard_id(ua.ObjectIds.AuditWriteUpdateEventType)
    assert (book.last.source, book.last.source_name) == (PSU, "Attribute/Write")
    assert book.last.notifiers == (SERVER,)
    assert (book.field("OldValue"), book.field("NewValue")) == (4.0, 5.0)
    assert (book.field("Status"), book.field("ClientUserId")) == (True, "anna")
    assert book.field("AttributeId") == 13
    assert "write of PSU.Limit by anna from SCADA 192.0.2.7" in book.last.message
    assert len(book.last.event_id) == 16


async def test_a_write_that_was_refused_here_is_journaled_too(book: Book, session: Session) -> None:
    book.audit.write(session, PSU, ua.DataValue(FIVE), DENIED, "it is the engineer's")
    assert book.field("Status") is False
    assert book.last.severity > 100
    assert "BadUserAccessDenied" in book.last.message
    (receipt,) = await book.journaled(1)
    assert receipt == {
        "command": "",
        "tag": "PSU.Limit",
        "value": 5.0,
        "origin": "operator",
        "source": "opcua:anna@SCADA 192.0.2.7",
        "step": "refused",
        "reason": "it is the engineer's",
        "by": "opcua",
    }


async def test_what_the_field_refused_has_its_own_receipt(book: Book, session: Session) -> None:
    book.audit.write(session, PSU, FIVE, DENIED, "out of range", here=False)
    book.audit.write(session, PSU, FIVE, DENIED, "not yours", here=True)
    (receipt,) = await book.journaled(1)
    assert receipt["reason"] == "not yours"


def test_a_call_is_told_with_its_arguments(book: Book, session: Session) -> None:
    method, rig = own_id("/Rig/Release"), own_id("/Rig")
    book.audit.call(session, rig, method, [FIVE], DENIED, "not the operator's")
    assert book.last.type_id == standard_id(ua.ObjectIds.AuditUpdateMethodEventType)
    assert (book.last.source, book.field("MethodId")) == (rig, method)
    assert [one.Value for one in book.field("InputArguments")] == [5.0]
    assert book.field("StatusCodeId").value == DENIED


@pytest.mark.parametrize(
    ("number", "inputs", "kind", "name", "fields"),
    [
        (9111, (WHICH, WHY), "Acknowledge", "Acknowledge", (b"1234", "seen")),
        (9029, (WHICH, WHY), "Comment", "AddComment", (b"1234", "seen")),
        (9113, (WHICH, WHY), "Confirm", "Confirm", (b"1234", "seen")),
        (9111, (FIVE,), "Acknowledge", "Acknowledge", (None, None)),
        (2949, (FIVE,), "Shelving", "TimedShelve", (5.0,)),
        (24756, (FIVE, WHY), "Shelving", "TimedShelve2", (5.0,)),
        (2947, (), "Shelving", "Unshelve", ()),
        (9028, (), "Enable", "Disable", ()),
        (24320, (WHY,), "OutOfService", "RemoveFromService2", ()),
    ],
)
@pytest.mark.parametrize("code", [0, DENIED])
def test_a_condition_has_audit_events_of_its_own(
    book: Book,
    session: Session,
    number: int,
    inputs: tuple[ua.Variant, ...],
    kind: str,
    name: str,
    fields: tuple[Any, ...],
    code: int,
) -> None:
    alarm = own_id("Alarms.Hot/Condition")
    place = own_id("Alarms.Hot/Condition/ShelvingState") if kind == "Shelving" else alarm
    book.audit.call(session, place, standard_id(number), inputs, code, "", here=bool(code))
    type_id = getattr(ua.ObjectIds, f"AuditCondition{kind}EventType")
    assert book.last.type_id == standard_id(type_id)
    assert (book.last.source, book.last.source_name) == (alarm, f"Method/{name}")
    assert book.field("Status") is (code == 0)
    assert len(book.field("InputArguments")) == len(inputs)
    own = ("ShelvingTime",) if kind == "Shelving" else ("ConditionEventId", "Comment")
    seen = [book.field(one) for one in own[: len(fields)]]
    assert [one.Text if isinstance(one, ua.LocalizedText) else one for one in seen] == list(fields)


def test_a_call_that_names_a_point_is_told_as_the_point_s(book: Book, session: Session) -> None:
    method = own_id("/PSU/WriteWithLease")
    book.audit.call(session, own_id("/PSU"), method, [FIVE], 0, "", about="PSU.Limit", here=False)
    assert (book.last.source, book.field("MethodId")) == (PSU, method)


@pytest.mark.parametrize("what", ["create", "activate", "close"])
def test_sessions_come_and_go(book: Book, session: Session, what: str) -> None:
    book.audit.session(what, "SCADA", "anna", 0, session.id)
    assert book.field("SessionId") == session.id
    assert book.field("Status") is True
    assert book.field("StatusCodeId").value == 0
    assert is_confidential(book.last)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.CERTIFICATE_UNTRUSTED, "AuditCertificateUntrustedEventType"),
        (Code.CERTIFICATE_TIME_INVALID, "AuditCertificateExpiredEventType"),
        (Code.CERTIFICATE_REVOKED, "AuditCertificateRevokedEventType"),
        (Code.CERTIFICATE_INVALID, "AuditCertificateInvalidEventType"),
        (Code.CERTIFICATE_USE_NOT_ALLOWED, "AuditCertificateMismatchEventType"),
        (Code.CERTIFICATE_URI_INVALID, "AuditCertificateDataMismatchEventType"),
    ],
)
def test_each_fault_of_a_certificate_has_its_event_type(book: Book, code: Code, kind: str) -> None:
    book.audit.certificate("SCADA", "AB" * 20, code, b"der")
    assert book.last.type_id == standard_id(getattr(ua.ObjectIds, kind))
    assert book.field("Certificate") == b"der"
    assert book.field("StatusCodeId").value == code
    assert is_confidential(book.last)


def test_a_flood_is_counted_and_told_later(book: Book) -> None:
    for _ in range(BURST + 30):
        book.audit.certificate("SCADA", "AB" * 20, Code.CERTIFICATE_UNTRUSTED)
    assert len(book.events) == BURST
    book.clock.advance(1_000_000_000)
    book.audit.certificate("SCADA", "AB" * 20, Code.CERTIFICATE_UNTRUSTED)
    assert "30 more like it were not told" in book.last.message


def test_nobody_drowns_what_others_are_told_in_refusals(book: Book, session: Session) -> None:
    """Alarms wait in the same queues: whoever fills them with refusals would hide alarms."""
    other = Session(ua.NodeId(8, 1), ua.NodeId(b"other", 0), "SCADA 192.0.2.8", secured=True)
    other.user = User("otto", Role.OPERATOR)
    for _ in range(BURST + 30):
        book.audit.write(session, PSU, FIVE, DENIED, "not yours")
        book.audit.call(session, PSU, PSU, [], DENIED, "not yours")
    assert len(book.events) == BURST
    book.audit.write(other, PSU, FIVE, DENIED, "not yours")
    book.audit.write(session, PSU, FIVE, 0, "", here=False)
    assert len(book.events) == BURST + 2
    assert "more like it" not in "".join(event.message for event in book.events)
    book.clock.advance(1_000_000_000)
    book.audit.write(session, PSU, FIVE, DENIED, "not yours")
    assert f"{BURST + 60} more like it were not told" in book.last.message


def test_methods_that_only_read_are_told_in_bounds(book: Book, session: Session) -> None:
    for _ in range(BURST + 30):
        book.audit.call(session, SERVER, SERVER, [], 0, "", here=True)
    assert len(book.events) == BURST
    book.audit.call(session, SERVER, SERVER, [], 0, "", here=False)  # a command
    assert len(book.events) == BURST + 1


async def test_each_user_has_his_own_row_of_receipts(book: Book, session: Session) -> None:
    for _ in range(BURST + 3):
        book.audit.write(session, PSU, FIVE, DENIED, "not yours")
    session.user = User("otto", Role.OPERATOR)
    book.audit.write(session, PSU, FIVE, DENIED, "his own")
    receipts = await book.journaled(BURST + 1)
    assert receipts[-1]["reason"] == "his own"
    session.user = User("anna", Role.OPERATOR)
    book.clock.advance(1_000_000_000)
    book.audit.write(session, PSU, FIVE, DENIED, "later")
    assert (await book.journaled(BURST + 2))[-1]["reason"] == "later (and 3 more)"


def test_sessions_that_come_and_go_are_told_in_bounds(book: Book, session: Session) -> None:
    """Whoever has a trusted certificate can make sessions all day."""
    for _ in range(2 * BURST):
        book.audit.session("create", "SCADA", "", 0, session.id)
        book.audit.session("close", "SCADA", "", 0, session.id)
    assert len(book.events) == BURST
    book.audit.session("activate", "SCADA", "anna", 0, session.id)
    assert len(book.events) == BURST + 1
    for _ in range(2 * BURST):
        book.audit.session("activate", "SCADA", "anna", 0, session.id)
    assert len(book.events) == 2 * BURST


def test_what_was_done_is_told_however_much_it_is(book: Book, session: Session) -> None:
    for _ in range(3 * BURST):
        book.audit.write(session, PSU, FIVE, 0, "", here=False)
    assert len(book.events) == 3 * BURST
    assert not is_confidential(book.last)


def test_receipts_wait_in_a_bounded_row(book: Book, session: Session) -> None:
    for _ in range(3 * WAITING_MAX):
        book.audit.write(session, PSU, FIVE, DENIED, "no")
        book.clock.advance(1_000_000_000)
    assert len(book.audit._waiting) == WAITING_MAX
    assert len(book.events) == 3 * WAITING_MAX


def test_what_a_client_sends_does_not_make_an_event_endless(book: Book, session: Session) -> None:
    book.audit.write(session, own_id("x" * 5_000), FIVE, DENIED, "y" * 5_000)
    assert len(book.last.message) <= 500


@pytest.mark.parametrize(
    ("content", "kind", "shown"),
    [
        (5.0, ua.VariantType.Double, True),
        (b"e" * 16, ua.VariantType.ByteString, True),
        (b"k" * 121, ua.VariantType.ByteString, False),  # perhaps a private key
        ("t" * 1_001, ua.VariantType.String, False),
        (ua.LocalizedText("t" * 1_001), ua.VariantType.LocalizedText, False),
        (ua.LocalizedText("why"), ua.VariantType.LocalizedText, True),
        ([1.0], ua.VariantType.Double, False),
        (ua.Argument(), ua.VariantType.ExtensionObject, False),
    ],
)
def test_an_event_keeps_what_is_small_and_no_secret(
    content: Any, kind: ua.VariantType, shown: bool
) -> None:
    assert (small(ua.Variant(content, kind)).Value is not None) == shown
