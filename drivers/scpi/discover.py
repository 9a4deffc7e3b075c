"""Asks an SCPI instrument who it is, and which of the usual queries it answers.

Only queries are sent that change nothing: ``*IDN?`` and the status byte (IEEE 488.2), the version
(SCPI-1999 volume 2, chapter 21), and the setpoints of supplies and loads. Their measurements are
asked for only where the setpoints exist, because ``MEAS:VOLT?`` reconfigures a multimeter.
"""

from __future__ import annotations

from typing import Any, Final

from drivers.discovery import Discovered, Tell, clean, listed, name_of
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected
from drivers.scpi.link import LineSession, open_line_session
from drivers.scpi.text import VALUE, number_of

ENDS: Final = ("\n", "\n")

# Channel -> its query, its type, its units, the command that sets it.
ALWAYS: Final = {
    "Status_Byte": ("*STB?", "NR1", "", ""),
    "Voltage_Setpoint": ("VOLT?", "NR3", "V", f"VOLT {VALUE}"),
    "Current_Setpoint": ("CURR?", "NR3", "A", f"CURR {VALUE}"),
    "Output": ("OUTP?", "Bool", "", f"OUTP {VALUE}"),
}
OF_SUPPLIES: Final = {
    "Voltage": ("MEAS:VOLT?", "NR3", "V", ""),
    "Current": ("MEAS:CURR?", "NR3", "A", ""),
    "Power": ("MEAS:POW?", "NR3", "W", ""),
}


class _Interview:
    """Questions on a connection that is opened anew after each one without an answer."""

    def __init__(self, place: tuple[str, int], timeout_s: float) -> None:
        self._place = place
        self._timeout_s = timeout_s
        self._session: LineSession | None = None

    async def ask(self, text: str) -> str:
        """The answer. Raises NotConnected, NoAnswer, Garbled."""
        if self._session is None or self._session.lost is not None:
            self._session = await open_line_session(self._place, ENDS, self._timeout_s, None)
        return await self._session.ask(text)

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._session.end(DriverError("done"))
            await self._session.close()


async def discover_scpi(
    place: tuple[str, int], tell: Tell, *, answer_s: float = 1.0, writable: bool = False
) -> Discovered:
    """Interview the instrument at (host, port).

    writable  the setpoints stand as RW, with the usual commands; nobody has tried these

    Raises NotConnected, and NoAnswer or Garbled where the answer to ``*IDN?`` is none.
    """
    where = f"{place[0]}:{place[1]}"
    interview = _Interview(place, answer_s)
    try:
        try:
            who = await interview.ask("*IDN?")
        except Garbled as error:
            text = f"{where} answers *IDN? with no line of text: {error}"
            raise Garbled(text) from None
        except NoAnswer as error:
            raise NoAnswer(f"{where}: {error}") from None
        except NotConnected as error:
            text = str(error)
            raise NotConnected(text if text.startswith(where) else f"{where}: {text}") from None
        found = _identified(place, who)
        tell(f"*IDN? {clean(who)}")
        try:
            for name, query in ALWAYS.items():
                await _try(interview, found, name, query, writable)
            if "Voltage_Setpoint" in found.channels:
                for name, query in OF_SUPPLIES.items():
                    await _try(interview, found, name, query, writable)
        except NotConnected as error:
            found.broken = f"{where}: {error}"
    finally:
        await interview.close()
    return found


def _identified(place: tuple[str, int], who: str) -> Discovered:
    """The answer to ``*IDN?`` has four fields: maker, model, serial number, firmware."""
    fields = [clean(part) for part in who.split(",")] + [""] * 4
    maker, model, serial, firmware = fields[:4]
    host = f"[{place[0]}]" if ":" in place[0] else place[0]
    tags: dict[str, Any] = {
        "EquipmentName": name_of(model or maker),
        "EquipmentType": f"{maker} {model}".strip(),
        "Communication": "SCPI",
        "VISA_address": f"TCPIP::{host}::{place[1]}::SOCKET",
    }
    reference = listed(serial_number=serial, firmware=firmware)
    if reference:
        tags["Reference"] = reference
    told = listed(maker=maker, model=model, serial_number=serial)
    return Discovered(tags, notes=[told] if told else [])


async def _try(
    interview: _Interview,
    found: Discovered,
    name: str,
    query: tuple[str, str, str, str],
    writable: bool,
) -> None:
    text, data_type, units, command = query
    try:
        number_of(await interview.ask(text), data_type)
    except (NoAnswer, Garbled):
        return
    keys: dict[str, Any] = {"RequestText": text, "DataType": data_type}
    if writable and command:
        keys |= {"ReadWrite": "RW", "WriteText": command}
    found.channels[name] = keys | ({"Units": units} if units else {})
