"""Introspection data: enough for a bus browser or a proxy that asks before it calls."""

from __future__ import annotations

from cgrace.fakes.systemd.core import Core
from cgrace.fakes.systemd.methods import METHODS
from cgrace.harness.dbus import systemd1

_RESULTS = {
    "StartTransientUnit": "o",
    "StartUnit": "o",
    "StopUnit": "o",
    "GetUnit": "o",
    "LoadUnit": "o",
    "GetUnitByPID": "o",
    "GetUnitByControlGroup": "o",
    "GetJob": "o",
    "ListUnits": "a(ssssssouso)",
    "ListJobs": "a(usssoo)",
    "GetUnitProcesses": "a(sus)",
}
_SIGNALS = {
    "JobNew": ("u", "o", "s"),
    "JobRemoved": ("u", "o", "s", "s"),
    "UnitNew": ("s", "o"),
    "UnitRemoved": ("s", "o"),
    "Reloading": ("b",),
}
_HEAD = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_PROPERTIES = (
    '<interface name="org.freedesktop.DBus.Properties">'
    '<method name="Get"><arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="v" direction="out"/></method>'
    '<method name="GetAll"><arg type="s" direction="in"/><arg type="a{sv}" direction="out"/></method>'
    '<method name="Set"><arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="v" direction="in"/></method>'
    '<signal name="PropertiesChanged"><arg type="s"/><arg type="a{sv}"/><arg type="as"/></signal></interface>'
)


def introspect(core: Core, path: str) -> str:
    """The XML of an object."""
    if path != systemd1.PATH:
        return f"{_HEAD}<node>{_PROPERTIES}</node>\n"
    parts = ['<interface name="org.freedesktop.systemd1.Manager">']
    for member, (signature, since, _) in METHODS.items():
        if since <= core.profile.version or member in core.profile.extra_methods:
            arguments = "".join(f'<arg type="{each}" direction="in"/>' for each in split_signature(signature))
            result = _RESULTS.get(member)
            arguments += f'<arg type="{result}" direction="out"/>' if result else ""
            parts.append(f'<method name="{member}">{arguments}</method>')
    parts += [
        f'<signal name="{member}">{"".join(f"""<arg type="{each}"/>""" for each in types)}</signal>'
        for member, types in _SIGNALS.items()
    ]
    return f"{_HEAD}<node>{_PROPERTIES}{''.join(parts)}</interface></node>\n"


def split_signature(signature: str) -> list[str]:
    """The complete types of a signature: "sa(sv)" is "s" and "a(sv)"."""
    types, start, depth = [], 0, 0
    for index, char in enumerate(signature):
        depth += (char in "({") - (char in ")}")
        if depth == 0 and char != "a":
            types.append(signature[start : index + 1])
            start = index + 1
    return types
