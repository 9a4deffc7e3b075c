"""A certificate manager: a client that pushes, the authority that signs, and what it hears."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.core.clock import utc_datetime
from gateway.opcua.names import standard_id
from tests.gateway.opcua import security_case as case

IDS = ua.ObjectIds
CONFIGURATION = standard_id(IDS.ServerConfiguration)
GROUP = standard_id(IDS.ServerConfiguration_CertificateGroups_DefaultApplicationGroup)
LIST = standard_id(IDS.ServerConfiguration_CertificateGroups_DefaultApplicationGroup_TrustList)
USERS = standard_id(IDS.ServerConfiguration_CertificateGroups_DefaultUserTokenGroup_TrustList)
RSA = standard_id(IDS.RsaSha256ApplicationCertificateType)
MANAGER = case.holder("manager")
AUTHORITY = case.authority("plant")
NONCE = bytes(32)
LISTS = ("TrustedCertificates", "TrustedCrls", "IssuerCertificates", "IssuerCrls")


class Manager:
    """A connected administrator, and what he calls."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, name: str, *given: ua.Variant, of: ua.NodeId = CONFIGURATION) -> Any:
        node = self.client.get_node(of)
        return await node.call_method(f"0:{name}", *given)

    async def refusal(self, name: str, *given: ua.Variant, of: ua.NodeId = CONFIGURATION) -> str:
        with pytest.raises(ua.UaStatusCodeError) as caught:
            await self.call(name, *given, of=of)
        return type(caught.value).__name__

    async def open(self, mode: int, of: ua.NodeId = LIST) -> ua.Variant:
        return uint(await self.call("Open", ua.Variant(mode, ua.VariantType.Byte), of=of))

    async def read(self, masks: int = 15, of: ua.NodeId = LIST) -> ua.TrustListDataType:
        handle = uint(await self.call("OpenWithMasks", uint(masks), of=of))
        data = b""
        while part := await self.call("Read", handle, int32(1000), of=of):
            data += part
        await self.call("Close", handle, of=of)
        return struct_from_binary(ua.TrustListDataType, Buffer(data))

    async def write(self, data: bytes, of: ua.NodeId = LIST) -> ua.Variant:
        """A handle that waits for CloseAndUpdate."""
        handle = await self.open(6, of)
        for at in range(0, len(data), 60_000):
            await self.call("Write", handle, octets(data[at : at + 60_000]), of=of)
        return handle

    async def replace(self, of: ua.NodeId = LIST, **fields: Sequence[bytes]) -> bool:
        handle = await self.write(listed(**fields), of)
        return bool(await self.call("CloseAndUpdate", handle, of=of))

    async def update(self, certificate: bytes, *issuers: bytes, **given: Any) -> Any:
        return await self.call("UpdateCertificate", *updating(certificate, *issuers, **given))


def updating(
    certificate: bytes, *issuers: bytes, form: str = "", private: bytes | None = None
) -> list[ua.Variant]:
    return [
        ua.Variant(GROUP),
        ua.Variant(RSA),
        octets(certificate),
        ua.Variant(list(issuers), ua.VariantType.ByteString, is_array=True),
        ua.Variant(form, ua.VariantType.String),
        octets(private) if private else ua.Variant(),
    ]


def asking(name: str | None = None, *, new_key: bool = False, nonce: bytes = NONCE) -> list[Any]:
    text = ua.Variant(name, ua.VariantType.String) if name else ua.Variant()
    return [ua.Variant(GROUP), ua.Variant(RSA), text, ua.Variant(new_key), octets(nonce)]


def listed(**fields: Sequence[bytes]) -> bytes:
    made = ua.TrustListDataType()
    for bit, name in enumerate(LISTS):
        if name in fields:
            made.SpecifiedLists |= 1 << bit
            setattr(made, name, list(fields[name]))
    return struct_to_binary(made)


def uint(number: int) -> ua.Variant:
    return ua.Variant(number, ua.VariantType.UInt32)


def int32(number: int) -> ua.Variant:
    return ua.Variant(number, ua.VariantType.Int32)


def octets(data: bytes | None) -> ua.Variant:
    return ua.Variant(data, ua.VariantType.ByteString)


def text(data: str) -> ua.Variant:
    return ua.Variant(data, ua.VariantType.String)


def flag(value: bool) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.Boolean)


def signed(request: bytes, *, days: int = 30, uri: str = "", server: bool = True) -> bytes:
    """What the authority makes of a request, in DER."""
    asked = x509.load_der_x509_csr(request)
    assert asked.is_signature_valid
    made = (
        x509.CertificateBuilder()
        .subject_name(asked.subject)
        .issuer_name(AUTHORITY.certificate.subject)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_datetime(case.NOW_NS - 90 * case.DAY_NS))
        .not_valid_after(utc_datetime(case.NOW_NS + days * case.DAY_NS))
    )
    for extension in asked.extensions:
        value: Any = extension.value
        if uri and isinstance(value, x509.SubjectAlternativeName):
            value = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        if not server and isinstance(value, x509.ExtendedKeyUsage):
            value = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
        made = made.add_extension(value, extension.critical)
    return made.sign(AUTHORITY.key, hashes.SHA256()).public_bytes(Encoding.DER)


class Heard:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)
