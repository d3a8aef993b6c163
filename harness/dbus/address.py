"""D-Bus addresses: the one place that reads them."""

from __future__ import annotations

from urllib.parse import unquote

from cgrace.harness.errors import TargetError


def unix_path(address: str) -> str:
    """The path to connect to, "\\0name" for an abstract one; from a D-Bus address or a plain path. TargetError else."""
    if address.startswith("/"):
        return address
    for part in address.split(";"):
        transport, _, rest = part.partition(":")
        options = dict(item.partition("=")[::2] for item in rest.split(","))
        if transport == "unix" and "path" in options:
            return unquote(options["path"])
        if transport == "unix" and "abstract" in options:
            return "\0" + unquote(options["abstract"])
    raise TargetError(
        f"bus address '{address:.120}' is neither unix:path=... nor unix:abstract=...; "
        "only unix:path and unix:abstract are reached",
        hint="give unix:path=/run/dbus/system_bus_socket, or a path",
    )
