"""The nodes of ServerConfiguration: their values, and who carries out their methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace

from gateway.opcua.methods import Method, MethodFault, Methods
from gateway.opcua.names import standard_id
from gateway.opcua.nodes.builder import Shown, value_of
from gateway.opcua.nodes.shown import bad_value, time_of
from gateway.opcua.push.lists import LIST_BYTES_MAX
from gateway.opcua.push.push import CONFIGURATION, RSA, Inputs, Push
from gateway.opcua.push.request import KEY_FORMATS
from gateway.opcua.security.certificates import CertificateError
from gateway.opcua.security.own import OwnError
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role

_IDS: Final = ua.ObjectIds
_KINDS: Final = ua.VariantType
_CODES: Final = ua.StatusCodes
_ROOT: Final = "ServerConfiguration"
_GROUPS: Final = tuple(
    f"{_ROOT}_CertificateGroups_{name}"
    for name in ("DefaultApplicationGroup", "DefaultUserTokenGroup")
)
_HIDDEN: Final = ("CreateSigningRequest", "UpdateCertificate", "Read", "Write")
_FILE_METHODS: Final = ("Open", "Close", "Read", "Write", "GetPosition", "SetPosition")
Work = Callable[[Session, ua.NodeId, Inputs], Awaitable[Inputs]]


def add(space: AddressSpace, methods: Methods, push: Push, *, history: bool) -> None:
    """Give the standard's nodes their values, and register the methods; before the site is built.

    history  of values and events can be read
    """
    _dress(space, push, history=history)
    configuration = {
        "CreateSigningRequest": push.request,
        "UpdateCertificate": push.update,
        "ApplyChanges": push.apply,
        "CancelChanges": push.cancel,
        "GetRejectedList": push.rejected,
    }
    trust_list = {
        "Open": push.open,
        "OpenWithMasks": push.open_masked,
        "Read": push.read,
        "Write": push.write,
        "GetPosition": push.position,
        "SetPosition": push.move,
        "Close": push.close,
        "CloseAndUpdate": push.close_and_update,
        "AddCertificate": push.add,
        "RemoveCertificate": push.remove,
    }
    for name, work in configuration.items():
        both = (_ROOT, "ServerConfigurationType")
        _register(space, methods, push, (CONFIGURATION,), both, name, work)
    for name, work in trust_list.items():
        kind = "FileType" if name in _FILE_METHODS else "TrustListType"
        places = (*(f"{group}_TrustList" for group in _GROUPS), kind)
        _register(space, methods, push, tuple(push.folders), places, name, work)


def _register(
    space: AddressSpace,
    methods: Methods,
    push: Push,
    objects: Sequence[ua.NodeId],
    places: Sequence[str],
    name: str,
    work: Work,
) -> None:
    """One method, at all the NodeIds that a call may name; all have the same arguments."""

    def tag(node: ua.NodeId) -> str:
        if node not in objects:
            raise MethodFault(_CODES.BadMethodInvalid, "not a method of this object")
        return ""

    first = standard_id(getattr(_IDS, f"{places[0]}_{name}"))
    outputs = _arguments(space, first, "OutputArguments")

    async def run(
        session: Session, node: ua.NodeId, inputs: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        if not session.encrypted:
            reason = "the channel must encrypt: choose the mode SignAndEncrypt"
            raise MethodFault(_CODES.BadSecurityModeInsufficient, reason)
        async with push.order:
            push.touch(session)
            try:
                given = await work(session, node, [one.Value for one in inputs])
            except (OwnError, CertificateError) as error:
                raise MethodFault(_CODES.BadInternalError, str(error)) from None
            except OSError as error:
                reason = f"{error.filename}: {error.strerror}"
                raise MethodFault(_CODES.BadResourceUnavailable, reason) from None
        return [_variant(one, argument) for one, argument in zip(given, outputs, strict=True)]

    inputs = _arguments(space, first, "InputArguments")
    method = Method(name, inputs, outputs, Role.ADMINISTRATOR, tag, run, hidden=name in _HIDDEN)
    for place in places:
        methods.add(standard_id(getattr(_IDS, f"{place}_{name}")), method)


def _variant(content: Any, argument: ua.Argument) -> ua.Variant:
    kind = _KINDS(int(argument.DataType.Identifier))
    return ua.Variant(content, kind, is_array=int(argument.ValueRank) >= 1)


def _arguments(space: AddressSpace, method: ua.NodeId, name: str) -> tuple[ua.Argument, ...]:
    """What the standard's node of a method declares; none where it has no such property."""
    for reference in space[method].references:
        data: Any = space.get(reference.NodeId)
        if reference.IsForward and data is not None:
            shown = data.attributes[ua.AttributeIds.BrowseName].value.Value.Value
            if shown.Name == name:
                return tuple(data.attributes[ua.AttributeIds.Value].value.Value.Value)
    return ()


def _dress(space: AddressSpace, push: Push, *, history: bool) -> None:
    text, flag, node = _KINDS.String, _KINDS.Boolean, _KINDS.NodeId
    capabilities = ["DA", "AC", *(("HD", "HE") if history else ())]
    shown: dict[str, Shown] = {
        "ApplicationUri": lambda: _value(push.uri, text),
        "ProductUri": ua.Variant("urn:gatepost", text),
        "ApplicationType": ua.Variant(ua.ApplicationType.Server.value, _KINDS.Int32),
        "ServerCapabilities": ua.Variant(capabilities, text, is_array=True),
        "SupportedPrivateKeyFormats": ua.Variant(list(KEY_FORMATS), text, is_array=True),
        "MaxTrustListSize": ua.Variant(LIST_BYTES_MAX, _KINDS.UInt32),
        "MulticastDnsEnabled": ua.Variant(False, flag),
        "HasSecureElement": ua.Variant(False, flag),
    }
    for group, kinds in zip(_GROUPS, ([RSA], []), strict=True):
        trust_list = standard_id(getattr(_IDS, f"{group}_TrustList"))
        name = group.removeprefix(f"{_ROOT}_")
        shown |= {
            f"{name}_CertificateTypes": ua.Variant(kinds, node, is_array=True),
            f"{name}_TrustList_Size": lambda: bad_value(_CODES.BadNotSupported),
            f"{name}_TrustList_Writable": ua.Variant(True, flag),
            f"{name}_TrustList_UserWritable": ua.Variant(True, flag),
            f"{name}_TrustList_OpenCount": partial(_open_count, push, trust_list),
            f"{name}_TrustList_LastUpdateTime": partial(_updated, push, trust_list),
        }
    for name, what in shown.items():
        data = space.get(standard_id(getattr(_IDS, f"{_ROOT}_{name}")))
        if data is not None:
            data.attributes[ua.AttributeIds.Value] = value_of(what)


def _open_count(push: Push, trust_list: ua.NodeId) -> ua.DataValue:
    return _value(push.files.count(trust_list), _KINDS.UInt16)


def _updated(push: Push, trust_list: ua.NodeId) -> ua.DataValue:
    return _value(time_of(max(1, *push.folders[trust_list].stamp())), _KINDS.DateTime)


def _value(content: Any, kind: ua.VariantType) -> ua.DataValue:
    return ua.DataValue(ua.Variant(content, kind))
