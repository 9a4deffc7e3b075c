"""A site with everything in it, and texts that try to break out of a document."""

from __future__ import annotations

from typing import Any

from config.site import Site
from tests.safety.sites import make_site

HOSTILE = (
    "a|b \\| `c` ``d`` <script>alert(1)</script> <b>&amp; $x$ *y* _z_ [l](http://e) ![i](j)\n"
    "# h\n| - | \"q\" 'p' ~~s~~ --> %%{init: {}}%% ;:# {{t}} ]]> \u202e\u0007 end\\"
)
CHANNELS: dict[str, dict[str, Any]] = {
    "Stack.Temperature": {"Units": "degC", "Description": HOSTILE},
    "Stack.T2": {"Units": HOSTILE},
    "Stack.T3": {},
    "Stack.Valve": {
        "Type": "Digital",
        "DataType": "bool",
        "ReadWrite": "RW",
        "SafeValue": 0.0,
        "States": ["Closed|shut", "`Open`"],
    },
    "PSU.Current": {
        "ReadWrite": "RW",
        "Units": "A",
        "SafeValue": 0.0,
        "Minimum": 0.0,
        "Maximum": 80.0,
    },
    "PSU.Limit": {"ReadWrite": "RW", "Units": "A", "SafeValue": 1.5},
    "Meter.Power": {"Units": "A"},
}
MACHINE: dict[str, Any] = {
    "Description": HOSTILE,
    "Initial": "Off",
    "States": {
        "Off": {"Hold": {"PSU.Current": 0.0}, "Description": HOSTILE},
        "_Heat_Up": {
            "MinTime": 5.0,
            "MaxTime": 600.0,
            "OnTimeout": "Off",
            "Ramps": {
                "PSU.Current": {
                    "Segments": [{"To": 40.0, "Rate": 0.5, "Hold": 60.0}, {"To": 20.0}],
                    "PauseWhen": "Stack.Temperature > 700",
                    "Held": False,
                }
            },
        },
        "Läuft-": {"Set": {"PSU.Current": 20.0}},
    },
    "Transitions": [
        {"From": "Off", "To": "_Heat_Up", "By": ["operator", "remote"], "Description": HOSTILE},
        {"From": "_Heat_Up", "To": "Läuft-", "When": "Stack.Temperature >= 680 for 60s"},
        {
            "To": "Off",
            "By": ["automatic", "operator"],
            "When": "Gateway.E_Stop",
            "Urgent": True,
        },
    ],
}
CONTROLS: dict[str, Any] = {
    "Control/E_Stop": {"When": "Gateway.E_Stop", "Method": "Stop", "Description": HOSTILE},
    "Control/Vote": {
        "When": "vote(2, Stack.Temperature > 950, Stack.T2 > 950, Stack.T3 > 950)",
        "Method": "Stop",
        "OnDelay": 0.5,
        "BypassMax": 3600.0,
    },
    "Control/Lock": {
        "When": "Stack.T2 > 5",
        "Kind": "Interlock",
        "Effects": {"Stack.Valve": 1, "PSU.Limit": 2.5},
        "OnBad": "hold",
    },
    "Control/Ready": {
        "When": "Stack.Temperature > 600",
        "Kind": "Permissive",
        "Permits": ["PSU.Current", "PSU.Limit"],
        "Description": HOSTILE,
    },
}


def hostile_site() -> Site:
    """A site with everything in it."""
    return make_site(
        CHANNELS,
        alarms={
            "Alarms/Hot": {
                "When": "Stack.Temperature >= 900 hysteresis 5",
                "Level": HOSTILE,
                "Priority": "high",
                "Cause": HOSTILE,
                "Consequence": HOSTILE,
                "Action": HOSTILE,
                "OnDelay": 2.0,
                "SuppressWhen": "Stack.T3 < 10",
            }
        },
        states={"Stack/Heat": {"State": "if(Stack.Temperature >= 500, 'Hot|er', '`Cold`')"}},
        controls=CONTROLS,
        methods={
            "Stop": [
                {"Topic": "Relay/Request/PSU", "Payload": {"Channels": {"Current": 0}}},
                {"Topic": "Relay/Request/Stack", "Payload": {"Channels": {"Valve": 0}}},
            ]
        },
        machines={"Stack/Operation": MACHINE},
        functions={
            "PSU/Export": {
                "Role": "Maximum",
                "Value": "30 - Meter.Power",
                "Output": "PSU.Limit",
                "BadValue": 1.0,
                "When": "Stack.T2 > 1",
                "Description": HOSTILE,
            }
        },
    )
