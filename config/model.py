"""The site files as pydantic models: every key that Gatepost knows, with its default.

The form is that of the seed system (idaholab/node-red, Apache-2.0): its files load unchanged.
Keys that the seed does not have are marked "Gatepost". Unknown keys are refused, because a
mistyped ``ReadWrit`` that is silently dropped is worse than one that stops the start.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from config.functions import GridFunction
from config.keys import DelaySeconds, Keys, Seconds
from config.states import OutputValue, StateMachine

REQUEST_TOPIC: Final = "Relay/Request/"  # the seed's, in front of the equipment's name

JsonLogic = Any  # checked by safety/jsonlogic.py, which knows the operators


# Several keys have the name of the class that they hold. Inside a class body the key hides the
# class, so the annotations use second names, which follow each class.


# ---------------------------------------------------------------- *-Config.json


class SystemTags(Keys):
    """Who the system is; `Personality` and `Database` name files beside it."""

    SystemName: str
    SystemType: str = ""
    SystemLocation: str = ""
    Emails: str = ""
    IP: str = ""
    Personality: str | None = None
    RootPath: str = ""  # the seed's; not used, the site folder is the root
    Reference: str = ""
    Database: str | None = None


_SystemTags = SystemTags


class EquipmentEntry(Keys):
    """One line of the equipment list: `Config` names the instrument file."""

    Type: str = ""
    Active: bool = True
    Config: str


class SamplingEntry(Keys):
    """A scan class: channels whose `FilterTopic` list holds `FilterKey` are polled every `Rate`."""

    FilterTopic: Literal["Tags"] = "Tags"
    FilterKey: str
    Rate: Annotated[float, Field(gt=0, le=86_400_000)]
    Unit: Literal["S", "s", "MS", "ms"] = "S"


class ScanEntry(Keys):
    """Gatepost: the period of the scan (interlocks, trips, outputs)."""

    Period: Annotated[float, Field(gt=0, le=86_400_000)] = 100
    Unit: Literal["S", "s", "MS", "ms"] = "ms"


class WatchdogEntry(Keys):
    """Gatepost: what must hear that scans are healthy, and acts by itself where it doesn't."""

    Outputs: list[str] = []  # Equipment.Channel of discrete outputs that toggle
    Period: Annotated[float, Field(ge=0.01, le=3600)] = 1.0  # s between two changes
    Device: str | None = None  # e.g. /dev/watchdog


class SystemConfig(Keys):
    """``<name>-Config.json``: the root of a site folder."""

    SystemTags: _SystemTags
    Equipment: dict[str, EquipmentEntry]
    DataSampling: dict[str, SamplingEntry]
    Scan: ScanEntry = ScanEntry()  # Gatepost
    Watchdog: WatchdogEntry | None = None  # Gatepost


# ---------------------------------------------------------------- instrument files


class Connection(Keys):
    """How to reach a device: IP and unit, or a serial line."""

    IP: str | None = None
    Unit: int | str | None = None
    Port: str | None = None
    Stopbits: float | None = None
    Bytesize: int | None = None
    Parity: str | None = None
    Baudrate: int | None = None


_Connection = Connection


Order = Literal["Big", "Little"]
SecurityName = Literal["None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"]


def _communication_or_template(schema: dict[str, Any]) -> None:
    # An instrument file that names a template has its Communication from there.
    schema["required"] = ["EquipmentName"]
    schema["anyOf"] = [{"required": ["Communication"]}, {"required": ["Template"]}]


class EquipmentTags(Keys):
    """Identity and connection of one instrument."""

    model_config = ConfigDict(json_schema_extra=_communication_or_template)

    EquipmentName: str
    EquipmentType: str = ""
    Communication: str
    PortNum: Annotated[int, Field(ge=1, le=65535)] | None = None
    Connection: _Connection | None = None
    ByteOrder: Order = "Big"
    WordOrder: Order = "Big"
    EquipmentLocation: str = ""
    Emails: str = ""
    Reference: str = ""
    VISA_address: str | None = None
    ReadTerminalChar: str | None = None
    WriteTerminalChar: str | None = None
    DataReadTopic: str | None = None
    DataWriteTopic: str | None = None
    TargetIP: str | None = None
    Server: str | None = None
    # Gatepost
    Timeout: Annotated[float, Field(gt=0, le=60)] = 1.0  # s, for one answer
    Retries: Annotated[int, Field(ge=0, le=10)] = 1  # further tries of a request with no answer
    Depth: Annotated[int, Field(ge=1, le=16)] = 1  # requests in flight
    BlockMax: Annotated[int, Field(ge=1, le=2000)] | None = None  # registers or bits a request
    GapMax: Annotated[int, Field(ge=0, le=124)] = 8  # unused registers read along in a block
    SingleRequests: bool = False  # one value a request, for devices that can't read blocks
    ReplyDelay: DelaySeconds = 0.0  # s from request to answer that the device needs, for the plan
    Template: str | None = None  # device model whose file gives what this file leaves out
    PasswordFile: str | None = None  # outside the site folder
    Security: SecurityName = "None"  # OPC UA client
    CertificateFile: str | None = None  # our own, for a secured connection
    KeyFile: str | None = None
    ServerCertificateFile: str | None = None  # the one certificate that the device may show
    Payload: Literal["JSON", "Plain", "SparkplugB"] = "JSON"  # MQTT
    Transport: Literal["TCP", "UDP"] = "TCP"  # C37.118
    Configuration: Literal["CFG-2", "CFG-3"] = "CFG-2"  # C37.118: the frame that is asked for


_EquipmentTags = EquipmentTags


class Channel(Keys):
    """One channel of an instrument: its address, its decoding, its limits."""

    Active: bool = True
    DataType: str = "float32"
    Type: str = ""
    ReadWrite: Literal["R", "W", "RW"] = "R"
    Module: int | None = None
    Channel: int | None = None
    Registers: Annotated[int, Field(ge=1, le=4)] | None = None
    IOPoint: int | str | None = None
    BitStart: Annotated[int, Field(ge=0, le=63)] | None = None
    BitEnd: Annotated[int, Field(ge=0, le=63)] | None = None
    Unit: int | str | None = None
    Scalar: float = 1.0
    Offset: float = 0.0
    Decimal: Annotated[int, Field(ge=0, le=15)] | None = None
    Units: str = ""
    Tags: list[str] = []
    RequestText: str | None = None
    Init_Func: bool | str | None = None
    Init_Text: str | None = None
    ArrayPos: Annotated[int, Field(ge=0)] | None = None
    QueryText: str | None = None
    # Gatepost
    Description: str = ""
    WriteText: str | None = None  # SCPI: text to send, {value} stands for the number
    ByteOrder: Order | None = None  # overrides the instrument's
    WordOrder: Order | None = None
    Sentinels: list[float] = []  # raw numbers that mean "no value"
    Minimum: float | None = None  # engineering range; a command outside is refused
    Maximum: float | None = None
    SafeValue: float | None = None  # what an output takes at start and on a trip
    Fallback: float | None = None  # what follows a setpoint that ended; default SafeValue
    RampRate: Annotated[float, Field(gt=0)] | None = None  # units/s, how setpoints are approached
    RateMax: Annotated[float, Field(gt=0)] | None = None  # units a second, for commands
    Lease: Seconds | None = None  # s, longest lease of a remote setpoint
    AgeLimit: Seconds | None = None  # s; default 3 periods + Timeout
    Deadband: Annotated[float, Field(ge=0)] = 0.0  # units of the point
    Heartbeat: Seconds = 60.0  # s, longest silence
    Counter: bool | None = None  # counts up (energy, volume): never thinned; default by its unit
    ReadBack: str | None = None  # channel of this instrument that shows a W channel's output
    Tolerance: Annotated[float, Field(ge=0)] | None = None  # read-back; default one resolution
    States: list[str] = []  # names of discrete values 0, 1, 2, ...
    Expression: str | None = None  # Virtual: infix, e.g. "Stack.Voltage * Stack.Current"


class InstrumentFile(Keys):
    """One instrument file."""

    EquipmentTags: _EquipmentTags
    Channels: dict[str, Channel]


# ---------------------------------------------------------------- templates (Gatepost)


class TemplateTags(Keys):
    """Which device model a template is for, and where its facts come from."""

    Manufacturer: Annotated[str, Field(min_length=1)]
    Model: Annotated[str, Field(min_length=1)]
    Kind: Annotated[str, Field(min_length=1)]  # e.g. "power meter"
    Manual: str  # title of the maker's document
    Revision: str = ""  # of the manual, as its source names it
    Published: str = ""
    Source: list[str]  # what was read to write the file
    Notes: str = ""


class TemplateEquipmentTags(EquipmentTags):
    """What all devices of the model have in common; the site's own keys stay out."""

    model_config = ConfigDict(json_schema_extra={"required": ["Communication"]})

    EquipmentName: str = ""
    Communication: str


_TemplateTags = TemplateTags


class TemplateFile(Keys):
    """``<maker>-<model>.json`` in ``config/templates/`` or in a site's ``templates/``."""

    TemplateTags: _TemplateTags
    EquipmentTags: TemplateEquipmentTags
    Channels: dict[str, Channel]


# ---------------------------------------------------------------- personality files


class PersonalityTags(Keys):
    """Who wrote the personality, and where it belongs."""

    PersonalityName: str = ""
    PersonalityLocation: str = ""
    Emails: str = ""
    IPAddress: Annotated[str, Field(alias="IP Address")] = ""
    Reference: str = ""
    Author: str = ""


class PersonalityComponents(Keys):
    """The files a personality consists of."""

    SystemStates: str | None = None
    AlarmStates: str | None = None
    ControlStates: str | None = None
    Database: str | None = None


class PersonalityFile(Keys):
    """The root of a personality."""

    PersonalityConfig: PersonalityTags = PersonalityTags()
    Components: PersonalityComponents


BadPolicy = Literal["trip", "hold", "ignore"]


class Rule(Keys):
    """What alarms, controls and states share: a condition in one of two forms.

    Either `Rule` (JsonLogic) with `Data` (name -> ``$LiveData/Equipment/Channel``,
    ``$AlarmState/<alarm name>`` or ``$SystemState/<state name>``), or the infix form.
    """

    Active: bool = True
    Rule: JsonLogic = None
    Data: dict[str, str] = {}
    # Gatepost
    When: str | None = None  # infix, e.g. "Opto.Cell_Temperature >= 900 for 5s"
    OnDelay: DelaySeconds = 0.0  # s
    OffDelay: DelaySeconds = 0.0  # s
    OnBad: BadPolicy | None = None  # default: trip for controls, hold for alarms and states
    Description: str = ""


class AlarmRule(Rule):
    """An alarm. `Rule` returns the level or null; `When` is true or false and gives `Level`."""

    Level: str = "Alarm"
    Latch: bool = False
    Priority: Literal["urgent", "high", "medium", "low"] = "medium"
    Cause: str = ""
    Consequence: str = ""
    Action: str = ""
    SuppressWhen: str | None = None  # infix: suppressed by design while true (ISA-18.2)
    ShelveMax: DelaySeconds = 28_800.0  # s, longest shelving; 0 = can't be shelved


class StateRule(Rule):
    """A system state. `Rule`, or the infix `State`, returns the name of the state."""

    State: str | None = None  # infix, e.g. "if(Stack.T >= 500, 'Hot', 'Cold')"


class ControlRule(Rule):
    """An automatic control: a cause that calls a method while it holds (and until its reset).

    `Rule` returns the method's name or null; `When` is true or false and calls `Method`.
    """

    Method: str | None = None
    Kind: Literal["Trip", "Interlock", "Permissive"] = "Trip"
    Latch: bool | None = None  # default: true for a trip, false for an interlock
    # Gatepost
    Effects: dict[str, OutputValue] | None = None  # in place of a method: output -> value
    Permits: list[str] = []  # of a permissive: outputs that take no setpoint without it
    BypassMax: DelaySeconds = 0.0  # s, longest bypass of this cause; 0 = can't be bypassed


class MethodPayload(Keys):
    """The seed's request: channels of one equipment and the values they take."""

    ReadWrite: Annotated[Literal["R", "W"], Field(alias="Read/Write")] = "W"
    Channels: dict[str, float | int | bool | str]


class MethodStep(Keys):
    """One request of a method; the topic ``Relay/Request/<Equipment>`` names the equipment."""

    Topic: str
    Payload: MethodPayload


class AlarmStatesFile(Keys):
    """``*_AlarmStates.json``."""

    PersonalityConfig: PersonalityTags = PersonalityTags()
    AlarmStates: dict[str, AlarmRule]


class SystemStatesFile(Keys):
    """``*_SystemStates.json``."""

    PersonalityConfig: PersonalityTags = PersonalityTags()
    SystemStates: dict[str, StateRule]


class ControlStatesFile(Keys):
    """``*_ControlStates.json``."""

    PersonalityConfig: PersonalityTags = PersonalityTags()
    Automatic_Controls: dict[str, ControlRule] = {}
    Control_Methods: dict[str, list[MethodStep]] = {}
    Control_States: dict[str, StateMachine] = {}  # Gatepost
    Grid_Functions: dict[str, GridFunction] = {}  # Gatepost


# ---------------------------------------------------------------- database file


class DatabaseTags(Keys):
    """Identity of the seed's logger database."""

    DatabaseName: str = ""
    DatabaseType: str = ""
    DatabaseLocation: str = ""
    Emails: str = ""
    Reference: str = ""


_DatabaseTags = DatabaseTags


class DatabaseDetails(Keys):
    """How the seed's logger reaches its database; kept for the cloud side."""

    Server: str
    DefaultTable: str = ""
    NewTableVerbiage: str = ""
    HyperTableConversionVerbiage: str = ""
    IndexVerbiage: str = ""


_DatabaseDetails = DatabaseDetails


class DatabaseFile(Keys):
    """``*_Database.json``."""

    DatabaseTags: _DatabaseTags = _DatabaseTags()
    DatabaseDetails: _DatabaseDetails
