"""Cross-checks of ``link.json``, and of where secrets are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from config.broker import broker_of, is_own, without_password
from config.check_opcua import OPCUA_CHECKS, OPCUA_KEY_CHECKS
from config.findings import Finding, Severity, printable
from config.hours import parse_span
from config.link import (
    CLOUD,
    LINKS_MAX,
    BrokerConnection,
    BrokerEntry,
    LinkEntry,
    WithLink,
    topic_root,
)
from config.site import Site

MQTT_SCHEMES: Final = ("mqtt", "mqtts")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


def _link(key: str, rule: str, message: str, severity: Severity = "error") -> Finding:
    return Finding("link.json", key, rule, message, severity)


def _connections(site: WithLink) -> Iterator[tuple[str, BrokerConnection]]:
    """Every broker that is spoken to, by its place in the file."""
    link = site.link
    yield "Broker", link.Broker
    yield from ((f"Links.{name}", entry) for name, entry in link.Links.items())
    if link.SiteBus is not None:
        yield "SiteBus", link.SiteBus
    for name, bridge in link.Bridges.items():
        yield f"Bridges.{name}.Local", bridge.Local
        yield f"Bridges.{name}.Remote", bridge.Remote


def _split(url: str) -> tuple[SplitResult | None, int | None]:
    """A URL and its port; (None, None) where it is no URL at all."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed
        return None, None
    return parts, port


def _broker_url(site: WithLink) -> Iterator[Finding]:
    for place, entry in _connections(site):
        parts, port = _split(entry.URL)
        fits = parts is not None and parts.scheme in MQTT_SCHEMES and bool(parts.hostname)
        if not fits or port == 0 or (parts is not None and parts.path not in ("", "/")):
            text = f'"{without_password(entry.URL)}" is no address of a broker. '
            yield _link(f"{place}.URL", "broker-url", f"{text}Write mqtts://[user@]host:port.")


def _broker_tls(site: Site) -> Iterator[Finding]:
    for place, entry in _connections(site):
        parts, _ = _split(entry.URL)
        if parts is None or parts.scheme != "mqtt":
            continue
        for key in ("AuthorityFile", "CertificateFile", "KeyFile"):
            if getattr(entry, key) is not None:
                text = "Nothing is encrypted with mqtt://. Write mqtts://[user@]host:port into URL."
                yield _link(f"{place}.{key}", "tls-off", text)


def _broker_certificate(site: Site) -> Iterator[Finding]:
    for place, entry in _connections(site):
        if (entry.CertificateFile is None) != (entry.KeyFile is None):
            missing = "KeyFile" if entry.KeyFile is None else "CertificateFile"
            text = "A certificate of our own goes with its key."
            yield _link(f"{place}.{missing}", "certificate-missing", text)


def _broker_unencrypted(site: Site) -> Iterator[Finding]:
    for place, entry in _connections(site):
        parts, _ = _split(entry.URL)
        if parts is None or parts.scheme != "mqtt" or not parts.hostname:
            continue
        if is_own(parts.hostname):
            continue
        text = "What is sent and the password cross the network in clear. Use mqtts://."
        if isinstance(entry, BrokerEntry) and entry.Ack == "historian":
            text = (
                "Values, acknowledgements and the password cross the network in clear, and "
                "whoever forges an acknowledgement makes the gateway delete frames. Use mqtts://."
            )
        yield _link(f"{place}.URL", "broker-unencrypted", text, "warning")


def _broker_user_missing(site: Site) -> Iterator[Finding]:
    for place, entry in _connections(site):
        parts, _ = _split(entry.URL)
        if entry.PasswordFile is not None and parts is not None and not parts.username:
            yield _link(
                f"{place}.PasswordFile",
                "broker-user-missing",
                "A password needs a user. Write the user into URL: mqtts://user@host:port.",
            )


# ---------------------------------------------------------------- links


def _link_name(site: WithLink) -> Iterator[Finding]:
    seen: dict[str, str] = {CLOUD: CLOUD}
    for name in site.link.Links:
        first = seen.setdefault(name.lower(), name)
        if not _NAME.fullmatch(name):
            text = f'"{printable(name)}" can\'t name a link: it stands in tags and client names. '
            text += "Use a letter, then letters, digits and _, at most 32."
        elif first == CLOUD:
            text = f'"{CLOUD}" is the link of Broker. Give this one another name.'
        elif first != name:
            text = f'"{name}" and "{first}" differ in capitals only. Give one another name.'
        else:
            continue
        yield _link(f"Links.{printable(name)}", "link-name", text)


def _link_count(site: Site) -> Iterator[Finding]:
    count = len(site.link.links())
    if count > LINKS_MAX:
        text = f"{count} links are active, {LINKS_MAX} at most can be. Set Active of some to false."
        yield _link("Links", "link-count", text)


def _link_none(site: Site) -> Iterator[Finding]:
    if not site.link.links():
        text = "No link is active: nothing leaves the site, and nothing is stored for later."
        yield _link("Broker.Active", "link-none", text, "warning")


def _link_hours(site: WithLink) -> Iterator[Finding]:
    for place, entry in _links(site):
        for position, span in enumerate(entry.BacklogHours):
            try:
                parse_span(span)
            except ValueError as error:
                key = f"{place}.BacklogHours[{position}]"
                yield _link(key, "link-hours", f"{printable(str(error))}.")


def _links(site: WithLink) -> Iterator[tuple[str, BrokerEntry]]:
    yield "Broker", site.link.Broker
    yield from ((f"Links.{name}", entry) for name, entry in site.link.Links.items())


def _link_double(site: Site) -> Iterator[Finding]:
    """Two links whose messages are the same ones on the same topics."""
    seen: dict[tuple[object, ...], str] = {}
    for place, entry in _links(site):
        form = entry.Format if isinstance(entry, LinkEntry) else "gatepost"
        if not entry.Active or form == "sparkplug":
            continue  # of sparkplug see form-twin
        root = ""
        if isinstance(entry, LinkEntry) and form == "json":
            root = topic_root(entry.Topic).replace("{site}", site.name)
        first = seen.setdefault((broker_of(entry.URL), form, root), place)
        if first != place:
            text = f"{first} sends to the same broker on the same topics. "
            text += "Give one of them another Topic or Format, or leave it out."
            yield _link(f"{place}.URL", "link-double", text)


def _secret_inside(site: Site) -> Iterator[Finding]:
    for place, entry in _connections(site):
        parts, _ = _split(entry.URL)
        if parts is not None and parts.password is not None:
            text = "The URL holds a password. Put it into a file outside the site folder and "
            yield _link(f"{place}.URL", "secret-inside", f"{text}name that in PasswordFile.")
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
    for place, entry in _connections(site):
        for key in ("PasswordFile", "KeyFile"):
            name = getattr(entry, key)
            if name is not None:
                yield "link.json", f"{place}.{key}", name
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


# Rule -> check. The order is the order of docs/checks.md.
LINK_CHECKS: Final[tuple[tuple[str, Callable[[Site], Iterator[Finding]]], ...]] = (
    ("broker-url", _broker_url),
    ("tls-off", _broker_tls),
    ("certificate-missing", _broker_certificate),
    ("broker-unencrypted", _broker_unencrypted),
    ("broker-user-missing", _broker_user_missing),
    ("link-name", _link_name),
    ("link-count", _link_count),
    ("link-none", _link_none),
    ("link-hours", _link_hours),
    ("link-double", _link_double),
    *OPCUA_CHECKS,
    ("secret-inside", _secret_inside),
    ("password-file-missing", _password_file_missing),
)


# Those that look at one key each, whatever else is wrong in the file.
LINK_KEY_CHECKS: Final[tuple[Callable[[WithLink], Iterator[Finding]], ...]] = (
    _broker_url,
    _link_name,
    _link_hours,
    *OPCUA_KEY_CHECKS,
)
