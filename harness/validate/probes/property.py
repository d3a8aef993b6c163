"""Every property that drivers send: may it be set on a scope, on a slice, and later? And those that they read."""

from __future__ import annotations

from typing import Any

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Variant
from cgrace.harness.validate.probe import EVERY, LADDER, LATER, Subject
from cgrace.harness.validate.stage import Answer, Stage
from cgrace.harness.validate.words import INFINITY

MAN = "systemd.resource-control(5), Options; org.freedesktop.systemd1(5), Scope Unit Objects and Slice Unit Objects"
OLD = "systemd.resource-control(5), deprecated options, since 252 under History"
_OLD_NAMES = (
    "CPUShares",
    "StartupCPUShares",
    "BlockIOAccounting",
    "BlockIOWeight",
    "BlockIODeviceWeight",
    "MemoryLimit",
)
_UNITS = ("CollectMode", "Description", "Documentation", "BindsTo", "Before", "JobTimeoutUSec")
_KILLS = ("KillMode", "KillSignal", "SendSIGKILL")
_SCOPES = ("RuntimeMaxUSec", "OOMPolicy")
# Given to scopes by drivers and tools, and documented for them nowhere.
_UNDOCUMENTED = {
    "TimeoutStopUSec": "dbus-scope.c bus_scope_set_transient_property",
    "AddRef": "dbus-unit.c bus_unit_set_transient_property",
    "User": "dbus-scope.c bus_scope_set_transient_property; dbus-unit.c bus_unit_set_properties",
}
_LOOKED_UP = "bus-objects.c bus_process_object, property_get_set_callbacks_run"

probe = Subject("property", MAN)

# (name, signature, a good value, who sends it)
_SENT: tuple[tuple[str, str, Any, tuple[str, ...]], ...] = (
    ("CPUAccounting", "b", True, EVERY),
    ("MemoryAccounting", "b", True, EVERY),
    ("BlockIOAccounting", "b", True, LADDER),
    ("IOAccounting", "b", True, LATER),
    ("TasksAccounting", "b", True, LATER),
    ("CPUShares", "t", 512, EVERY),
    ("StartupCPUShares", "t", 512, ()),
    ("CPUWeight", "t", 200, LATER),
    ("CPUQuotaPerSecUSec", "t", 500_000, EVERY),
    ("CPUQuotaPeriodUSec", "t", 50_000, LATER),
    ("BlockIOWeight", "t", 300, LADDER),
    ("BlockIODeviceWeight", "a(st)", [["/dev/null", 300]], ()),
    ("IOWeight", "t", 300, LATER),
    ("IODeviceWeight", "a(st)", [["/dev/null", 300]], ()),
    ("IOReadBandwidthMax", "a(st)", [["/dev/null", 1_000_000]], ()),
    ("MemoryLimit", "t", 64 << 20, EVERY),
    ("MemoryMin", "t", 1 << 20, LATER),
    ("MemoryLow", "t", 1 << 20, LATER),
    ("MemoryHigh", "t", 32 << 20, LATER),
    ("MemoryMax", "t", 64 << 20, LATER),
    ("MemorySwapMax", "t", 64 << 20, LATER),
    ("MemoryZSwapMax", "t", 64 << 20, ()),
    ("TasksMax", "t", 100, EVERY),
    ("DevicePolicy", "s", "strict", LATER),
    ("DeviceAllow", "a(ss)", [["/dev/null", "rw"]], LATER),
    ("AllowedCPUs", "ay", b"\x01", LATER),
    ("AllowedMemoryNodes", "ay", b"\x01", LATER),
    ("DelegateControllers", "as", ["cpu"], ()),
    ("DelegateSubgroup", "s", "sub", ()),
    ("DisableControllers", "as", ["io"], ()),
    ("OOMPolicy", "s", "continue", LATER),
    ("ManagedOOMMemoryPressure", "s", "auto", ()),
    ("CollectMode", "s", "inactive-or-failed", LATER),
    ("TimeoutStopUSec", "t", 5_000_000, LATER),
    ("RuntimeMaxUSec", "t", 60_000_000, ()),
    ("KillMode", "s", "mixed", ()),
    ("KillSignal", "i", 2, ()),
    ("SendSIGKILL", "b", False, ()),
    ("Description", "s", "ours", EVERY),
    ("Documentation", "as", ["man:x"], ()),
    ("AddRef", "b", True, ()),
    ("User", "s", "root", ()),
    ("BindsTo", "as", ["t-c.slice"], LATER),
    ("Before", "as", ["t-c.slice"], LATER),
    ("JobTimeoutUSec", "t", 60_000_000, ()),
)


def _sent_probe(name: str, signature: str, value: Any, relied_on: tuple[str, ...]) -> None:
    async def ask(s: Stage) -> Answer:
        given = [s.name(one) for one in value] if signature == "as" else value
        variant = {name: Variant(signature=signature, value=given)}
        pid = await s.worker()
        found = {
            "scope": await s.up("t-a.scope", PIDs=[pid], **variant),
            "slice": await s.up("t-b.slice", **variant),
        }
        await s.up("t-d.slice")
        found["later"] = await s.set("t-d.slice", **variant)
        return {key: one["error"] if isinstance(one, dict) else one for key, one in found.items()}

    ask_of = f"{name} ({signature}): may it be given to a scope, to a slice, and set later?"
    register = probe.habit if name in _UNDOCUMENTED else probe.contract
    register(f"sent.{name}", ask_of, source=_source_of(name), relied_on=relied_on)(ask)


def _source_of(name: str) -> str:
    """Where it is written what the property is for."""
    if name in _UNDOCUMENTED:
        return _UNDOCUMENTED[name]
    if name in _OLD_NAMES:
        return OLD
    pages = {"systemd.unit(5)": _UNITS, "systemd.kill(5)": _KILLS, "systemd.scope(5)": _SCOPES}
    return next((page for page, names in pages.items() if name in names), MAN)


for _row in _SENT:
    _sent_probe(*_row)


# What drivers and their tools read: (interface, name, who)
_READ: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Unit", "Id", ()),
    ("Unit", "LoadState", ()),
    ("Unit", "ActiveState", LATER),
    ("Unit", "SubState", LATER),
    ("Unit", "Transient", ()),
    ("Unit", "CanStart", ()),
    ("Unit", "CanStop", ()),
    ("Unit", "CollectMode", ()),
    ("Unit", "DefaultDependencies", LADDER),
    ("Unit", "Description", ()),
    ("Unit", "NeedDaemonReload", ()),
    ("Scope", "Result", ()),
    ("Scope", "ControlGroup", LATER),
    ("Scope", "Slice", ()),
    ("Scope", "Controller", ()),
    ("Scope", "Delegate", ()),
    ("Scope", "TimeoutStopUSec", ()),
    ("Scope", "RuntimeMaxUSec", ()),
    ("Scope", "KillMode", ()),
    ("Scope", "CPUShares", ()),
    ("Scope", "CPUWeight", ()),
    ("Scope", "CPUQuotaPerSecUSec", ()),
    ("Scope", "CPUQuotaPeriodUSec", ()),
    ("Scope", "MemoryMax", ()),
    ("Scope", "MemoryLimit", ()),
    ("Scope", "DevicePolicy", ()),
    ("Scope", "DeviceAllow", ()),
    ("Scope", "MemoryAccounting", ()),
    ("Scope", "CPUAccounting", ()),
    ("Scope", "TasksAccounting", ()),
    ("Scope", "OOMPolicy", ()),
    ("Scope", "ControlGroupId", ()),
    ("Slice", "ControlGroup", LATER),
    ("Unit", "ControlGroup", ()),
    ("Unit", "Nonsense", ()),
    ("Nonsense", "Id", ()),
)
_VARYING = ("ControlGroupId",)
_NOT_THERE = (("Unit", "ControlGroup"), ("Unit", "Nonsense"), ("Nonsense", "Id"))  # how is that said?


def _read_probe(interface: str, name: str, relied_on: tuple[str, ...]) -> None:
    async def ask(s: Stage) -> Answer:
        unit = "t-a.slice" if interface == "Slice" else "t-a.scope"
        if interface == "Slice":
            await s.up(unit)
        else:
            await s.scope(unit)
        answer = await s.client.get(systemd1.unit_path(s.name(unit)), f"{systemd1.NAME}.{interface}", name)
        if not answer.body or answer.error_name:
            return s.told(answer)
        value = "some" if name in _VARYING else s.told(answer)
        return [answer.body[0].signature, value]

    ask_of = f"{interface}.{name} of a unit that is active: its type and value"
    if (interface, name) in _NOT_THERE:
        probe.habit(f"read.{interface}.{name}", ask_of, source=_LOOKED_UP, relied_on=relied_on)(ask)
    else:
        source = (
            f"org.freedesktop.systemd1(5), {f'{interface} Unit' if interface != 'Unit' else 'Unit'} Objects: Properties"
        )
        probe.contract(f"read.{interface}.{name}", ask_of, source=source, relied_on=relied_on)(ask)


for _one in _READ:
    _read_probe(*_one)


@probe.habit(
    "read.unloaded",
    "ActiveState and LoadState of a unit that is not loaded",
    source="dbus.c bus_unit_find, find_unit",
    relied_on=("today",),
)
async def read_unloaded(s: Stage) -> Answer:
    return [await s.state("t-x.scope"), await s.state("t-x.slice"), await s.get("t-x.scope", "Scope", "Result")]


@probe.habit("read.set", "Properties.Set of what can only be read", source=_LOOKED_UP)
async def read_set(s: Stage) -> Answer:
    await s.up("t-a.slice")
    answer = await s.client.call(
        "Set",
        "ssv",
        systemd1.UNIT,
        "ActiveState",
        Variant(signature="s", value="dead"),
        path=systemd1.unit_path(s.name("t-a.slice")),
        interface=systemd1.PROPERTIES,
    )
    return s.told(answer)


@probe.contract(
    "read.queued",
    "ControlGroup of a scope whose job is still queued, and once it is active",
    source="org.freedesktop.systemd1(5), Scope Unit Objects: Properties",
    relied_on=LATER,
)
async def read_queued(s: Stage) -> Answer:
    gate = await s.gate()
    await s.worker()
    await s.start("t-a.scope", PIDs=[s.pid()], After=[gate.unit])
    before = await s.get("t-a.scope", "Scope", "ControlGroup")
    await gate.open()
    await s.becomes("t-a.scope", "active/running")
    return [before, await s.get("t-a.scope", "Scope", "ControlGroup")]


@probe.contract(
    "read.infinity", "A limit that was not given: how is it read, and may infinity be given?", relied_on=LATER
)
async def read_infinity(s: Stage) -> Answer:
    result = await s.up("t-a.slice", MemoryMax=INFINITY, TasksMax=INFINITY, CPUQuotaPerSecUSec=INFINITY)
    names = ("MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "MemoryHigh")
    return [result, *[await s.get("t-a.slice", "Slice", name) for name in names]]


# ---- the Manager's own


manager = Subject("manager", "org.freedesktop.systemd1(5), The Manager Object: Properties")


async def _manager(s: Stage, name: str) -> Any:
    answer = await s.client.get(systemd1.PATH, systemd1.MANAGER, name)
    return answer.body[0].value if answer.body and not answer.error_name else s.told(answer)


# Of Version the page itself says that it should not be parsed; runc and go-systemd do.
@manager.habit(
    "version",
    "Version: is a number in front, after nothing, 'v' or 'systemd '?",
    relied_on=LATER,
    source="dbus-manager.c property_get_version",
)
async def version(s: Stage) -> Answer:
    text = str(await _manager(s, "Version"))
    return bool(text) and text.removeprefix("systemd ").removeprefix("v")[:3].isdigit()


@manager.contract("features", "Features: words with a sign in front")
async def features(s: Stage) -> Answer:
    words = str(await _manager(s, "Features")).split()
    return bool(words) and all(word[0] in "+-" or word.startswith("default-hierarchy=") for word in words)


@manager.contract("control-group", "ControlGroup of the system's manager", relied_on=LATER)
async def control_group(s: Stage) -> Answer:
    return s.plain(await _manager(s, "ControlGroup"))


@manager.contract("defaults", "Default accounting and time-outs")
async def defaults(s: Stage) -> Answer:
    names = ("MemoryAccounting", "TasksAccounting", "CPUAccounting", "BlockIOAccounting", "TimeoutStopUSec")
    return {name: s.plain(await _manager(s, f"Default{name}")) for name in names}


@manager.contract(
    "start-signature",
    "Introspection: the arguments of StartTransientUnit, StopUnit, SetUnitProperties",
    relied_on=EVERY,
)
async def signatures(s: Stage) -> Answer:
    import xml.etree.ElementTree as ET

    answer = await s.client.call("Introspect", interface=systemd1.INTROSPECTABLE)
    wanted = ("StartTransientUnit", "StopUnit", "SetUnitProperties", "ResetFailedUnit", "KillUnit")
    methods = {one.get("name"): one for one in ET.fromstring(answer.body[0]).iter("method")}
    return {
        name: [
            "".join(arg.get("type", "") for arg in methods[name] if arg.get("direction") == way)
            for way in ("in", "out")
        ]
        for name in wanted
    }
