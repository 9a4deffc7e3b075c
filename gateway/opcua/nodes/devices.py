"""The site, its equipment by place and by kind, and each instrument as a device (OPC 10000-100).

An equipment is one node, ``/Name``, whatever folders show it; it stands below the site, and the
folders of places and kinds and DI's DeviceSet only organize it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from config import status as codes
from config.points import GATEWAY_EQUIPMENT, RESERVED_EQUIPMENT, PointDef
from gateway.opcua.model import EquipmentModel, SiteModel
from gateway.opcua.names import DI_NAMESPACE, own_id, standard_id
from gateway.opcua.nodes import di
from gateway.opcua.nodes.builder import ORGANIZES, Nodes, child_id
from gateway.opcua.nodes.di import Health
from gateway.opcua.nodes.shown import bad_value, time_of
from gateway.opcua.values import Values

SITE: Final = own_id("/")
LOCATIONS: Final = own_id("//Locations")
KINDS: Final = own_id("//Types")
_FOLDER: Final = standard_id(ua.ObjectIds.FolderType)
_OBJECT: Final = standard_id(ua.ObjectIds.BaseObjectType)
_SERVER: Final = standard_id(ua.ObjectIds.Server)
_HAS_NOTIFIER: Final = standard_id(ua.ObjectIds.HasNotifier)

# Groups of the gateway's own points, by the first word of the channel.
_GROUPS: Final[Mapping[str, str]] = {
    "Scan": "Scan",
    "Link": "Link",
    "Broker": "Link",
    "Bus": "Link",
    "Bridge": "Link",
    "Store": "Store",
    "Backlog": "Store",
    "Alarm": "Alarms",
    "Alarms": "Alarms",
    "Schedule": "Schedule",
}
# The device is well where it refuses an address, or where the site doesn't ask for a channel.
_NOT_ILL: Final = (codes.BAD_CONFIGURATION_ERROR, codes.BAD_OUT_OF_SERVICE)


def health_of(status: NDArray[np.uint32]) -> Health | None:
    """How a device is, from the (N,) status codes of its points; None where nothing is known.

    All bad: it fails, or is not heard, which is the same to those who rely on it. Some bad or
    uncertain: off its specification. Set by hand: a check of its function.
    """
    refused, out_of_service = _NOT_ILL
    status = status[(status != refused) & (status != out_of_service)]
    if not len(status) or bool((status == codes.BAD_WAITING_FOR_INITIAL_DATA).all()):
        return None
    bad = status >= codes.BAD
    if bool(bad.all()) or bool((status == codes.BAD_DEVICE_FAILURE).any()):
        return Health.FAILURE
    if bool((status == codes.GOOD_LOCAL_OVERRIDE).any()):
        return Health.CHECK_FUNCTION
    if bool(bad.any()) or bool((status >= 0x4000_0000).any()):
        return Health.OFF_SPEC
    return Health.NORMAL


def away(values: Values) -> bool:
    """True while the field process is not heard: then not even the gateway's points are good."""
    status = values.rows["status"][1:]
    if len(status) and status[0] != codes.BAD_NO_COMMUNICATION:
        return False  # nearly always: asked at each read, so it must not look at 10,000 points
    return bool((status == codes.BAD_NO_COMMUNICATION).all())  # also where there are no points


def _device_health(values: Values, indexes: NDArray[np.int64]) -> Callable[[], ua.DataValue]:
    """The health of a device from its points, of which there is one at least."""

    def ask() -> ua.DataValue:
        utc_ns = int(values.rows["utc_ns"][indexes].max())
        if away(values):
            return bad_value(codes.BAD_NO_COMMUNICATION, utc_ns)
        health = health_of(values.rows["status"][indexes])
        if health is None:
            return bad_value(codes.BAD_WAITING_FOR_INITIAL_DATA, utc_ns)
        shown = ua.Variant(health.value, ua.VariantType.Int32)
        return ua.DataValue(shown, SourceTimestamp=time_of(utc_ns))

    return ask


def _gateway_health(values: Values, store_ok: int) -> Callable[[], ua.DataValue]:
    def ask() -> ua.DataValue:
        row = values.rows[store_ok]
        health = Health.NORMAL
        if away(values):
            health = Health.FAILURE
        elif store_ok and codes.is_good(int(row["status"])) and row["value"] == 0:
            health = Health.MAINTENANCE_REQUIRED
        return ua.DataValue(ua.Variant(health.value, ua.VariantType.Int32))

    return ask


class Equipment:
    """Adds the site and its equipment; points come below them."""

    def __init__(
        self,
        nodes: Nodes,
        values: Values,
        model: SiteModel,
        points: Sequence[PointDef],
        *,
        history: bool,
    ) -> None:
        """`history`: the site's events can be read back."""
        self._nodes = nodes
        self._values = values
        self._model = model
        self._history = history
        self._points: dict[str, list[PointDef]] = {}
        for point in points:
            self._points.setdefault(point.equipment, []).append(point)
        self.containers: list[ua.NodeId] = []  # nodes whose references a configuration changes

    def build(self) -> None:
        """Add all but the points."""
        nodes, model = self._nodes, self._model
        objects = standard_id(ua.ObjectIds.ObjectsFolder)
        nodes.object(
            SITE,
            model.site,
            objects,
            _FOLDER,
            reference=ORGANIZES,
            notifies=True,
            history=self._history,
        )
        nodes.refer(_SERVER, _HAS_NOTIFIER, SITE)
        self.containers += [SITE, di.DEVICE_SET]
        self._folder(LOCATIONS, "ByLocation", SITE)
        self._folder(KINDS, "ByType", SITE)
        for name in self._points:
            self._equipment(name)

    def group_gateway(self) -> None:
        """Show the gateway's points by what they tell of, too; the points are there already."""
        points = self._points.get(GATEWAY_EQUIPMENT)
        if points is None:
            return
        root = own_id(f"/{GATEWAY_EQUIPMENT}/Diagnostics")
        group = di.FUNCTIONAL_GROUP
        gateway = own_id(f"/{GATEWAY_EQUIPMENT}")
        self._nodes.object(root, "Diagnostics", gateway, group, namespace=DI_NAMESPACE)
        for point in points:
            name = _GROUPS.get(point.channel.partition("_")[0])
            if name is None:
                continue
            folder = child_id(root, name)
            if folder not in self._nodes:
                self._nodes.object(folder, name, root, group, reference=ORGANIZES)
            self._nodes.refer(folder, ORGANIZES, own_id(point.tag))

    def _folder(self, node: ua.NodeId, name: str, parent: ua.NodeId) -> None:
        if node in self._nodes:
            return
        while name in self._points:  # an equipment may be called so
            name += "_"
        self._nodes.object(node, name, parent, _FOLDER, reference=ORGANIZES)
        self.containers.append(node)

    def _equipment(self, name: str) -> None:
        nodes, node = self._nodes, own_id(f"/{name}")
        known = self._model.equipment.get(name)
        kind = _OBJECT
        if name == GATEWAY_EQUIPMENT:
            kind = di.GATEWAY_TYPE
        elif name not in RESERVED_EQUIPMENT:
            kind = di.INSTRUMENT_TYPE
        nodes.object(node, name, SITE, kind, notifies=True)
        nodes.refer(SITE, _HAS_NOTIFIER, node)
        self.containers.append(node)
        if kind == _OBJECT:
            return
        nodes.refer(di.DEVICE_SET, ORGANIZES, node)
        if kind == di.GATEWAY_TYPE:
            self._gateway(node)
            return
        self._instrument(node, name, known)
        if known is not None:
            self._organize(LOCATIONS, known.location, node)
            self._organize(KINDS, known.kind, node)

    def _organize(self, folder: ua.NodeId, name: str, equipment: ua.NodeId) -> None:
        """Show an equipment in a folder of its place or kind; nowhere where none is named."""
        if not name:
            return
        inner = child_id(folder, name)
        if inner not in self._nodes:
            self._nodes.object(inner, name, folder, _FOLDER, reference=ORGANIZES)
            self.containers.append(inner)
        self._nodes.refer(inner, ORGANIZES, equipment)

    def _instrument(self, node: ua.NodeId, name: str, known: EquipmentModel | None) -> None:
        told = {"ComponentName": name}
        if known is not None:
            told |= {
                "Manufacturer": known.manufacturer,
                "Model": known.model,
                "DeviceManual": known.manual or known.reference,
            }
            if known.kind:
                told["DeviceClass"] = known.kind
        self._nameplate(node, told)
        asked = [p.index for p in self._points[name] if p.source == "device" and p.readable]
        if asked:  # else nothing tells how it is
            self._health(node, _device_health(self._values, np.array(asked, dtype=np.int64)))

    def _gateway(self, node: ua.NodeId) -> None:
        told = {
            "Manufacturer": "Gatepost",
            "Model": "Gatepost",
            "SoftwareRevision": metadata.version("gatepost"),
            "DeviceManual": "docs/opcua.md of the Gatepost software",
            "DeviceClass": "Gateway",
            "ComponentName": self._model.site,
        }
        self._nameplate(node, told)
        index = {point.channel: point.index for point in self._points[GATEWAY_EQUIPMENT]}
        self._health(node, _gateway_health(self._values, index.get("Store_Ok", 0)))

    def _nameplate(self, node: ua.NodeId, told: Mapping[str, str]) -> None:
        """What DeviceType asks for, empty where it is not known; and what is known beyond."""
        for name in dict.fromkeys((*di.MANDATORY_NAMES, *told)):
            shown = di.nameplate_value(name, told.get(name, ""))
            di.nameplate_property(self._nodes, node, name, shown)

    def _health(self, node: ua.NodeId, ask: Callable[[], ua.DataValue]) -> None:
        self._nodes.variable(
            child_id(node, "DeviceHealth"),
            "DeviceHealth",
            node,
            ask,
            data_type=di.HEALTH_TYPE,
            type_id=standard_id(ua.ObjectIds.BaseDataVariableType),
            namespace=DI_NAMESPACE,
        )
