"""Cross-checks of ``link.json``, and of where secrets are kept."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from config.findings import Finding, Severity, printable
from config.site import Site

MQTT_SCHEMES: Final = ("mqtt", "mqtts")
OPCUA_SCHEME: Final = "opc.tcp"


def _link(key: str, rule: str, message: str, severity: Severity = "error") -> Finding:
    return Finding("link.json", key, rule, message, severity)


def _split(url: str) -> tuple[SplitResult | None, int | None]:
    """A URL and its port; (None, None) where it is no URL at all."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed
        return None, None
    return parts, port


def _broker_url(site: Site) -> Iterator[Finding]:
    url = site.link.Broker.URL
    parts, port = _split(url)
    fits = parts is not None and parts.scheme in MQTT_SCHEMES and bool(parts.hostname)
    if not fits or port == 0 or (parts is not None and parts.path not in ("", "/")):
        yield _link(
            "Broker.URL",
            "broker-url",
            f'"{_without_password(url)}" is no address of a broker. Write mqtts://[user@]host:port.',
        )


def _broker_tls(site: Site) -> Iterator[Finding]:
    broker = site.link.Broker
    parts, _ = _split(broker.URL)
    if parts is None or parts.scheme != "mqtt":
        return
    for key in ("AuthorityFile", "CertificateFile", "KeyFile"):
        if getattr(broker, key) is not None:
            text = "Nothing is encrypted with mqtt://. Write mqtts://[user@]host:port into URL."
            yield _link(f"Broker.{key}", "tls-off", text)


def _broker_certificate(site: Site) -> Iterator[Finding]:
    broker = site.link.Broker
    if (broker.CertificateFile is None) != (broker.KeyFile is None):
        missing = "KeyFile" if broker.KeyFile is None else "CertificateFile"
        text = "A certificate of our own goes with its key."
        yield _link(f"Broker.{missing}", "certificate-missing", text)


def _broker_unencrypted(site: Site) -> Iterator[Finding]:
    parts, _ = _split(site.link.Broker.URL)
    if parts is None or parts.scheme != "mqtt" or not parts.hostname:
        return
    if not _is_loopback(parts.hostname):
        text = (
            "Values, acknowledgements and the password cross the network in clear, and whoever "
            "forges an acknowledgement makes the gateway delete frames. Use mqtts://."
        )
        yield _link("Broker.URL", "broker-unencrypted", text, "warning")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _broker_user_missing(site: Site) -> Iterator[Finding]:
    broker = site.link.Broker
    parts, _ = _split(broker.URL)
    if broker.PasswordFile is not None and parts is not None and not parts.username:
        yield _link(
            "Broker.PasswordFile",
            "broker-user-missing",
            "A password needs a user. Write the user into Broker.URL: mqtt://user@host:port.",
        )


def _opcua_endpoint(site: Site) -> Iterator[Finding]:
    endpoint = site.link.OpcUa.Endpoint
    parts, _ = _split(endpoint)
    if parts is None or parts.scheme != OPCUA_SCHEME or not parts.hostname:
        yield _link(
            "OpcUa.Endpoint",
            "opcua-endpoint",
            f'"{endpoint}" is no OPC UA endpoint. Write opc.tcp://host:port/path.',
        )


def _secret_inside(site: Site) -> Iterator[Finding]:
    broker = site.link.Broker
    parts, _ = _split(broker.URL)
    if parts is not None and parts.password is not None:
        yield _link(
            "Broker.URL",
            "secret-inside",
            "The URL holds a password. Put it into a file outside the site folder and name that "
            "in PasswordFile.",
        )
    for file, key, name in _secret_files(site):
        path = Path(name)
        if not path.is_absolute() or _inside(path, site.folder):
            yield Finding(
                file,
                key,
                "secret-inside",
                "The file lies in the site folder, which is copied, versioned and sent about. "
                "Name a file elsewhere by its absolute path.",
            )


def _password_file_missing(site: Site) -> Iterator[Finding]:
    for file, key, name in _secret_files(site):
        if not Path(name).is_absolute() or _inside(Path(name), site.folder):
            continue  # these are mistakes of their own
        try:
            there = Path(name).is_file()
        except (OSError, ValueError):  # a NUL in the name, a folder that may not be searched
            there = False
        if not there:
            # The site may be checked on another machine than the gateway's.
            yield Finding(
                file,
                key,
                "password-file-missing",
                f'There is no file "{printable(name)}" on this machine, or no right to see it. The '
                "gateway connects to nobody without it.",
                "warning",
            )


def _secret_files(site: Site) -> Iterator[tuple[str, str, str]]:
    """File, key and path of everything that is secret."""
    for key in ("PasswordFile", "KeyFile"):
        name = getattr(site.link.Broker, key)
        if name is not None:
            yield "link.json", f"Broker.{key}", name
    for instrument in site.instruments.values():
        for key in ("PasswordFile", "KeyFile"):
            name = getattr(instrument.tags, key)
            if name is not None:
                yield instrument.file, f"EquipmentTags.{key}", name


def _inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL in the name
        return True  # whatever it is, it is no usable file elsewhere


def _without_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    return scheme + mark + rest.rpartition("@")[2]


# Rule -> check. The order is the order of docs/checks.md.
LINK_CHECKS: Final[tuple[tuple[str, Callable[[Site], Iterator[Finding]]], ...]] = (
    ("broker-url", _broker_url),
    ("tls-off", _broker_tls),
    ("certificate-missing", _broker_certificate),
    ("broker-unencrypted", _broker_unencrypted),
    ("broker-user-missing", _broker_user_missing),
    ("opcua-endpoint", _opcua_endpoint),
    ("secret-inside", _secret_inside),
    ("password-file-missing", _password_file_missing),
)
