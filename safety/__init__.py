"""Safety and state logic as numbers: rule language, compiler, kernel, reference.

This package has no clock, no I/O, no asyncio and no logging. It is no certified safety system
(IEC 61511); it stands beside hard-wired protection.
"""
