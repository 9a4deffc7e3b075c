"""What a client may ask before it has a session: which servers and endpoints there are."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary

from gateway.opcua.transport.gate import Gate

_BINARY_PROFILE: Final = "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary"
_PLACE: Final = re.compile(r"[0-9A-Za-z._\-\[\]:]{1,255}")


def reachable(own: str, asked: str | None) -> str:
    """Our address with host and port as the client knows them: behind a tunnel they differ."""
    try:
        parts = urlsplit(asked or "")
        place = parts.netloc
        known = parts.scheme == "opc.tcp" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return own
    if not known or not _PLACE.fullmatch(place):
        return own
    return f"opc.tcp://{place}{urlsplit(own).path}"


def get_endpoints(gate: Gate, own_url: str, body: Buffer) -> ua.GetEndpointsResponse:
    """GetEndpoints (OPC 10000-4, 5.5.4)."""
    asked = struct_from_binary(ua.GetEndpointsParameters, body)
    gate.changed()
    answer = ua.GetEndpointsResponse()
    if not asked.ProfileUris or _BINARY_PROFILE in asked.ProfileUris:
        answer.Endpoints = gate.endpoints(reachable(own_url, asked.EndpointUrl))
    return answer


def find_servers(gate: Gate, own_url: str, body: Buffer) -> ua.FindServersResponse:
    """FindServers (OPC 10000-4, 5.5.2): this one, where it is among those asked for."""
    asked = struct_from_binary(ua.FindServersParameters, body)
    answer = ua.FindServersResponse()
    if not asked.ServerUris or gate.application_uri in asked.ServerUris:
        endpoints = gate.endpoints(reachable(own_url, asked.EndpointUrl))
        answer.Servers = [endpoint.Server for endpoint in endpoints[:1]]
    return answer
