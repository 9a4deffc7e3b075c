"""Methods that clients can call: one table, filled by those who carry them out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from asyncua import ua

from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role

# Session, object on which it was called, input arguments (as many and of the types declared).
# Returns the output arguments. Raises MethodFault.
Run = Callable[[Session, ua.NodeId, Sequence[ua.Variant]], Awaitable[Sequence[ua.Variant]]]


class MethodFault(Exception):
    """The method did not do it: a status code, and the reason for audit and diagnostics."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Method:
    """What can be called.

    role   the least role that may; rights of the point that the object belongs to go further
    tag    of an object: the point whose rights count, "" where none does; raises MethodFault
           with BadNodeIdUnknown or BadMethodInvalid where the method is not one of the object's
    hidden  its arguments and results may be secrets: no audit event shows them
    """

    name: str
    inputs: tuple[ua.Argument, ...]
    outputs: tuple[ua.Argument, ...]
    role: Role
    tag: Callable[[ua.NodeId], str]
    run: Run
    about: Callable[[Sequence[ua.Variant]], str] = lambda _: ""
    hidden: bool = False


class Methods:
    """Methods by the NodeIds that a Call may name: the type's, and each object's own."""

    def __init__(self) -> None:
        self._methods: dict[ua.NodeId, Method] = {}

    def add(self, node: ua.NodeId, method: Method) -> None:
        """Let calls of `node` run `method`."""
        self._methods[node] = method

    def remove(self, node: ua.NodeId) -> None:
        """Forget a node."""
        self._methods.pop(node, None)

    def get(self, node: ua.NodeId) -> Method | None:
        """The method of a node; None where it is no method of ours."""
        return self._methods.get(node)
