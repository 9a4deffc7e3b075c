"""OPC UA's own namespace in the library's address space, without what this server has none of.

The library builds all 6174 nodes (54 MB, 1.4 s). Here the nodes of parts that this server does not
implement are left out while the rest is built, and equal attribute values are kept once: a third of
the memory, half the time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace, AttributeValue, NodeManagementService

from gateway.core.garbage import collection_paused
from gateway.opcua.names import standard_id

# Types of parts that this server has none of: PubSub (OPC 10000-14), key services (12; what its
# push of certificates needs is there), alias names (17), user management (18), folders of files
# (20), base network (22), programs (10), logs (26), quantities and serialisation (5), geometry and
# media.
_FOREIGN_TYPES: Final = (
    *("PubSub", "PublishSubscribe", "Published", "Writer", "Reader", "DataSet", "Json", "Uadp"),
    *("Datagram", "Broker", "Dtls", "SecurityGroup", "SubscribedDataSet", "StandaloneSubscribed"),
    *("CertificateGroupData", "CertificateUpdateRequested", "TrustListUpdateRequested"),
    *("TrustListOutOfDate", "TrustListValidation", "Transaction", "KeyCredential"),
    *("AuthorizationService", "Provisionable", "ApplicationConfiguration", "Alias"),
    *("UserManagement", "Program", "Lldp", "Priority", "Qos", "Tsn", "NetworkAddress"),
    *("IIeee", "IIetf", "IBase", "IVlan", "ISrClass"),
    *("FileDirectory", "FileTransfer", "TemporaryFile", "AddressSpaceFile"),
    *("ConfigurationFile", "UABinaryFile", "LogObject", "LogRecord", "BaseLog", "LogOverflow"),
    *("Quantity", "ServerUnit", "AlternativeUnit", "Serialization", "DictionaryFolder"),
    *("3D", "Frame", "Cartesian", "Vector", "Orientation", "Audio", "Image", "Ecc", "Https", "Tls"),
)
# Structures of the services' messages: no variable has them.
_MESSAGE_TYPES: Final = ("Request", "Response")
_FOREIGN_OBJECTS: Final = frozenset(
    (
        ua.ObjectIds.PublishSubscribe,
        ua.ObjectIds.AuthorizationServices,
        ua.ObjectIds.CertificateGroupFolderType_AdditionalGroup_Placeholder,
        ua.ObjectIds.Server_ServerCapabilities_RoleSet,
        ua.ObjectIds.OpcUa_BinarySchema,
        ua.ObjectIds.OpcUa_XmlSchema,
    )
)
# Optional members of types and objects of part 12, with up to 150 nodes each.
_FOREIGN_MEMBERS: Final = frozenset(
    (
        *("CertificateExpired", "TrustListOutOfDate", "DefaultHttpsGroup", "GetCertificates"),
        *("ResetToServerDefaults", "CreateSelfSignedCertificate", "DeleteCertificate"),
        *("DefaultValidationOptions", "TransactionDiagnostics", "ConfigurationFile"),
    )
)
# Messages here are binary; these objects would promise other encodings.
_FOREIGN_ENCODINGS: Final = ("Default XML", "Default JSON")
_TYPE_CLASSES: Final = (ua.NodeClass.ObjectType, ua.NodeClass.VariableType, ua.NodeClass.DataType)

# Attributes of the standard's nodes that neither the library nor anybody else ever writes.
_FIXED: Final = frozenset(
    (
        *(ua.AttributeIds.NodeClass, ua.AttributeIds.BrowseName, ua.AttributeIds.DisplayName),
        *(ua.AttributeIds.Description, ua.AttributeIds.WriteMask, ua.AttributeIds.UserWriteMask),
        *(ua.AttributeIds.DataType, ua.AttributeIds.ValueRank, ua.AttributeIds.IsAbstract),
        *(ua.AttributeIds.Symmetric, ua.AttributeIds.InverseName),
    )
)

_PACKAGE: Final = "asyncua.server.standard_address_space"
_PART: Final = re.compile(r"standard_address_space_services_(\d+)\.py")


def quiet() -> None:
    """Keep what clients provoke out of our log; a level set by hand stays."""
    logger = logging.getLogger("asyncua")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


class _Builder:
    """Takes the generated code's nodes and references, and leaves out what we have none of."""

    def __init__(self, space: AddressSpace, service: NodeManagementService) -> None:
        self._space = space
        self._service = service
        self._left_out: set[Any] = set()
        self._nodes_later: list[ua.AddNodesItem] = []
        self._references_later: list[ua.AddReferencesItem] = []
        self._values: dict[Any, ua.DataValue] = {}
        self._fixed: dict[Any, AttributeValue] = {}

    def add_nodes(self, items: Iterable[ua.AddNodesItem]) -> None:
        """Called by the generated code."""
        wanted = [item for item in items if self._is_wanted(item)]
        self._nodes_later += self._service.try_add_nodes(wanted, check=False)
        self._share(wanted)

    def add_references(self, items: Iterable[ua.AddReferencesItem]) -> None:
        """Called by the generated code."""
        wanted = [item for item in items if not self._is_cut(item)]
        self._references_later += self._service.try_add_references(wanted)

    def finish(self) -> None:
        """Add what had to wait for its parent, type or target."""
        waiting = [item for item in self._nodes_later if self._is_wanted(item)]
        while waiting:
            left = list(self._service.try_add_nodes(waiting, check=False))
            self._share(waiting)
            if len(left) == len(waiting):
                break
            waiting = [item for item in left if self._is_wanted(item)]
        self._left_out.update(item.RequestedNewNodeId.Identifier for item in waiting)
        wanted = [item for item in self._references_later if not self._is_cut(item)]
        # Whatever fails now points to a node that was left out.
        list(self._service.try_add_references(wanted))

    def _is_wanted(self, item: ua.AddNodesItem) -> bool:
        number, name = item.RequestedNewNodeId.Identifier, item.BrowseName.Name
        foreign = (
            number in _FOREIGN_OBJECTS
            or name in _FOREIGN_ENCODINGS
            or name in _FOREIGN_MEMBERS
            or item.ParentNodeId.Identifier in self._left_out
            or item.TypeDefinition.Identifier in self._left_out
            or (item.NodeClass in _TYPE_CLASSES and name.startswith(_FOREIGN_TYPES))
            or (item.NodeClass == ua.NodeClass.DataType and name.endswith(_MESSAGE_TYPES))
        )
        if foreign:
            self._left_out.add(number)
        return not foreign

    def _is_cut(self, item: ua.AddReferencesItem) -> bool:
        ends = (item.SourceNodeId.Identifier, item.TargetNodeId.Identifier)
        return not self._left_out.isdisjoint(ends)

    def _share(self, items: Iterable[ua.AddNodesItem]) -> None:
        """Keep equal attribute values once. A write replaces a value, it never changes one."""
        for item in items:
            node = self._space.get(item.RequestedNewNodeId)
            if node is None:
                continue
            for number, attribute in list(node.attributes.items()):
                value = attribute.value
                if value is None or value.Value is None:
                    continue
                content = value.Value.Value
                key = (value.Value.VariantType, type(content), _hashable(content))
                with contextlib.suppress(TypeError):  # lists and structures stay as they are
                    if number in _FIXED:
                        node.attributes[number] = self._fixed.setdefault(key, attribute)
                    else:
                        attribute.value = self._values.setdefault(key, value)


def _hashable(content: Any) -> Any:
    """Names and texts have no hash of their own."""
    if isinstance(content, ua.LocalizedText):
        return (content.Locale, content.Text)
    if isinstance(content, ua.QualifiedName):
        return (content.NamespaceIndex, content.Name)
    return content


def _parts() -> list[Path]:
    """The library's generated files, in order. Empty where its layout is another one."""
    spec = importlib.util.find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    found = []
    for place in places or ():
        for path in Path(place).iterdir():
            match = _PART.fullmatch(path.name)
            if match:
                found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def _run_part(path: Path, builder: _Builder) -> None:
    """Run one generated file outside `sys.modules`, so that its code is freed behind it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    number = path.stem.rpartition("_")[2]
    getattr(module, f"create_standard_address_space_Services_{number}")(builder)
    # A module and its functions hold each other; cut, they are freed now and not some time later.
    module.__dict__.clear()


def standard_space() -> AddressSpace:
    """A new address space with OPC UA's own nodes; half a second of computing, for a thread."""
    space = AddressSpace()
    service = NodeManagementService(space)
    parts = _parts()
    with collection_paused():
        if parts:
            builder = _Builder(space, service)
            for path in parts:
                _run_part(path, builder)
            builder.finish()
        else:  # all of it: another version of the library
            from asyncua.server.standard_address_space import fill_address_space

            fill_address_space(service)
    # The two references that the generated code lacks.
    organizes = standard_id(ua.ObjectIds.Organizes)
    for type_id, folder in (
        (ua.ObjectIds.BaseObjectType, ua.ObjectIds.ObjectTypesFolder),
        (ua.ObjectIds.BaseDataType, ua.ObjectIds.DataTypesFolder),
    ):
        item = ua.AddReferencesItem()
        item.SourceNodeId, item.TargetNodeId = standard_id(type_id), standard_id(folder)
        item.ReferenceTypeId, item.IsForward = organizes, False
        list(service.try_add_references([item]))
    return space
