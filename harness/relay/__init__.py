"""The tap between drivers and the bus, and what stands behind it: I/O only, decisions are the handler's."""

from cgrace.harness.relay.base import Backend, Handler, Limits, Link
from cgrace.harness.relay.connection import Connection
from cgrace.harness.relay.embedded import Embedded
from cgrace.harness.relay.relay import Relay
from cgrace.harness.relay.upstream import Upstream

__all__ = ["Backend", "Connection", "Embedded", "Handler", "Limits", "Link", "Relay", "Upstream"]
