"""Clients with certificates and users at a server that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncua import Client, ua
from asyncua.crypto.uacrypto import CertProperties
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from config.opcua import OpcUaEntry
from tests.gateway.opcua import security_case as security
from tests.gateway.opcua_case import ANY_PORT

SECURED = OpcUaEntry(Endpoint=ANY_PORT, SignOnly=True)
USERS = {"olga": "observer", "otto": "operator", "ella": "engineer", "anna": "administrator"}


def prepared(state: Path, *trusted: security.Holder) -> None:
    """The state folder of a server with USERS, all with security.PASSWORD."""
    folder = state / "opcua"
    (folder / "trusted" / "certs").mkdir(parents=True, exist_ok=True)
    security.keep(folder, *(security.user(name, role) for name, role in USERS.items()))
    for one in trusted:
        (folder / "trusted" / "certs" / f"{one.thumbprint}.der").write_bytes(one.der)


async def client(
    url: str,
    one: security.Holder,
    user: str = "",
    password: str = security.PASSWORD,
    policy: Any = security.BASIC,
    mode: ua.MessageSecurityMode = ua.MessageSecurityMode.SignAndEncrypt,
) -> Client:
    """A client that is not connected yet."""
    made = Client(url, timeout=20)
    made.application_uri = security.URI
    if user:
        made.set_user(user)
        made.set_password(password)
    private = one.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    await made.set_security(
        policy,
        CertProperties(one.der, "der"),
        CertProperties(private, "der"),
        mode=mode,
    )
    return made
