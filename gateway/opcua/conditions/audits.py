"""Which audit event the call of a condition's method is (OPC 10000-9, 5.10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from asyncua import ua

from gateway.opcua.event import NULL
from gateway.opcua.names import own_id

SHELVING: Final = "/ShelvingState"  # behind a condition's NodeId: where its shelving stands
_IDS: Final = ua.ObjectIds
_KINDS: Final = ua.VariantType
_EVENT_ID: Final = ("ConditionEventId", _KINDS.ByteString)
_COMMENT: Final = ("Comment", _KINDS.LocalizedText)
_TIME: Final = ("ShelvingTime", _KINDS.Double)


@dataclass(frozen=True, slots=True)
class ConditionAudit:
    """The audit event of a method.

    name    of the method
    type    number of the event's type in namespace 0
    fields  beyond those of AuditUpdateMethodEventType, by the place of the input argument
    """

    name: str
    type: int
    fields: tuple[tuple[str, ua.VariantType], ...] = ()

    @property
    def source_name(self) -> str:
        """SourceName of the event (OPC 10000-9, 5.10.2)."""
        return f"Method/{self.name}"

    def values(self, inputs: Sequence[ua.Variant]) -> dict[str, ua.Variant]:
        """Its own fields; null where the call did not have them."""
        found = dict.fromkeys((name for name, _ in self.fields), NULL)
        for (name, kind), given in zip(self.fields, inputs, strict=False):
            if given.VariantType == kind and not given.is_array:
                found[name] = given
        return found


def _of(
    event: int, fields: tuple[tuple[str, ua.VariantType], ...], **methods: tuple[int, ...]
) -> dict[int, ConditionAudit]:
    return {
        number: ConditionAudit(name, event, fields)
        for name, numbers in methods.items()
        for number in numbers
    }


# By the number of the method in namespace 0.
AUDITS: Final[Mapping[int, ConditionAudit]] = {
    **_of(_IDS.AuditConditionEnableEventType, (), Enable=(9027,), Disable=(9028,)),
    **_of(_IDS.AuditConditionCommentEventType, (_EVENT_ID, _COMMENT), AddComment=(9029,)),
    **_of(_IDS.AuditConditionAcknowledgeEventType, (_EVENT_ID, _COMMENT), Acknowledge=(9111,)),
    **_of(_IDS.AuditConditionConfirmEventType, (_EVENT_ID, _COMMENT), Confirm=(9113,)),
    **_of(
        *(_IDS.AuditConditionShelvingEventType, (_TIME,)),
        TimedShelve=(9213, 2949),
        TimedShelve2=(24738, 24756),
    ),
    **_of(
        *(_IDS.AuditConditionShelvingEventType, ()),
        Unshelve=(9211, 2947),
        Unshelve2=(24740, 24758),
        OneShotShelve=(9212, 2948),
        OneShotShelve2=(24742, 24760),
    ),
    **_of(
        *(_IDS.AuditConditionSuppressionEventType, ()),
        Suppress=(16403,),
        Suppress2=(24316,),
        Unsuppress=(17868,),
        Unsuppress2=(24318,),
    ),
    **_of(
        *(_IDS.AuditConditionOutOfServiceEventType, ()),
        RemoveFromService=(17869,),
        RemoveFromService2=(24320,),
        PlaceInService=(17870,),
        PlaceInService2=(24322,),
    ),
    **_of(_IDS.AuditConditionResetEventType, (), Reset=(18199,), Reset2=(24324,)),
}


def audit_of(method: ua.NodeId) -> ConditionAudit | None:
    """The audit event of a method's call; None where it is no condition's."""
    number = method.Identifier if method.NamespaceIndex == 0 else None
    return AUDITS.get(number) if isinstance(number, int) else None


def condition_of(node: ua.NodeId) -> ua.NodeId:
    """The condition that a call means: on itself, or on where its shelving stands."""
    identifier = str(node.Identifier)
    return own_id(identifier.removesuffix(SHELVING)) if identifier.endswith(SHELVING) else node
