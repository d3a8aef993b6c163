"""Where a probe stands: names of its own, processes, calls and what was said, all put as data that is the same every time.

Names of units are "t-a.scope", "t-a.slice" (below "t.slice") to a probe; on the machine "t" is another word for each probe and
run, so that what one leaves does not meet the next. Pids, job numbers, ids and unique names never reach an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
from collections.abc import Iterable, Iterator
from typing import Any, Final

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message, MessageType, Variant
from cgrace.harness.targets.owner import UNIT_PREFIX
from cgrace.harness.validate.client import Client
from cgrace.harness.validate.machine import HOME, START, SYSTEM_SLICE, Gate, Machine
from cgrace.harness.validate.words import TOP, Words

Answer = Any
"""What a probe gives: JSON data."""

GONE: Final = 4_000_000  # a pid beyond pid_max of most machines: no such process
GONE_STATE: Final = "not-found inactive/dead"
SHORT_S: Final = 1.0  # within which a process is dead that got SIGKILL
SOON_S: Final = 8.0  # what is to come comes by then
STOP_S_MAX: Final = 2.0
CLEAN_S_MAX: Final = 20.0
_SIGNATURES: Final = {
    "PIDs": "au",
    "Slice": "s",
    "Description": "s",
    "DevicePolicy": "s",
    "CollectMode": "s",
    "KillMode": "s",
    "DeviceAllow": "a(ss)",
}
_LISTS: Final = ("Wants", "Requires", "After", "Before", "Conflicts", "BindsTo", "PartOf", "DelegateControllers")
_SHORT: Final = {"org.freedesktop.DBus.Error.": "D:", "org.freedesktop.systemd1.": "S:"}
_NOBODY: Final = ("D:NoReply", "D:ServiceUnknown", "D:NameHasNoOwner", "D:Disconnected")
_OWN: Final = re.compile(rf"\b{UNIT_PREFIX}v\d+n\d+(?=[-._]|$)")


class Refused(Exception):
    """A probe cannot go on: what was said is its answer."""

    def __init__(self, said: Answer) -> None:
        super().__init__(str(said))
        self.said = said


class Stage(Words):
    """One probe's world on a machine. An async context manager: what the probe made is undone when it ends."""

    def __init__(self, machine: Machine, number: int) -> None:
        super().__init__(f"{UNIT_PREFIX}v{os.getpid()}n{number}")
        self.machine = machine
        self.client: Client
        self._stack = contextlib.AsyncExitStack()
        self._units: dict[str, None] = {}
        self._gates: list[Gate] = []

    async def __aenter__(self) -> Stage:
        self.client = await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            async with asyncio.timeout(CLEAN_S_MAX * self.machine.slowness):
                await self._clean()
        finally:
            await self._stack.aclose()

    async def connect(self) -> Client:
        """Another connection, for as long as the probe lasts."""
        return await self._stack.enter_async_context(self.machine.connect())

    async def _clean(self) -> None:
        for gate in self._gates:
            await gate.open()
        for worker in self.workers.values():
            worker.kill(signal.SIGKILL)
        for worker in self.workers.values():
            await worker.gone.wait()  # then no stop has to wait, and no unit stays for its busy cgroup
        if not self.machine.quiet_s:
            await self.machine.settle()
        client = await self.connect()
        for unit in [*reversed(self._units), f"{self.word}.slice"]:
            await client.call("KillUnit", "ssi", unit, "all", signal.SIGKILL)
            await self._stop_for_good(client, unit)
            await client.call("ResetFailedUnit", "s", unit)
        for hierarchy in self.machine.tree.hierarchies:
            for name in self.machine.tree.children(hierarchy.name, ""):
                if name.startswith(self.word):
                    self.machine.tree.rmdir(hierarchy.name, f"/{name}")

    async def _stop_for_good(self, client: Client, unit: str) -> None:
        since = len(client.inbox)
        await client.match()
        answer = await client.call("StopUnit", "ss", unit, "replace")
        if answer.type is MessageType.REPLY:
            # A stop may wait for its time-out, where nothing tells systemd that the scope ran empty (v1 in a container).
            with contextlib.suppress(TimeoutError):
                await self.ended(answer.body[0], since, client, seconds_max=STOP_S_MAX)

    # ---- names

    def own(self, unit: str) -> str:
        """Its name on the machine, and the unit is stopped when the probe ends."""
        name = self.name(unit)
        if name != unit:
            self._units[name] = None
        return name

    def plain_names(self, text: str) -> str:
        """See Words. Places are said as by a machine's systemd, below whose root a user's has the same under another name."""
        if self.machine.above:
            text = text.replace(self.machine.above, "").replace(self.machine.scopes_in, SYSTEM_SLICE)
        return _OWN.sub(TOP, text).replace(f"{self.word}_2d", f"{TOP}_2d")

    # ---- processes

    async def worker(self, name: str = "worker", *, stubborn: bool = False, adopted: bool = True) -> int:
        """A process; its pid as systemd sees it. adopted: see `Machine.spawn`."""
        worker = await self.machine.spawn(stubborn=stubborn, adopted=adopted)
        self.workers[name] = worker
        return worker.pid

    def pid(self, name: str = "worker") -> int:
        """Its pid as systemd sees it."""
        return self.workers[name].pid

    async def kill(self, name: str = "worker", number: int = signal.SIGKILL) -> None:
        """End a process, and see it gone."""
        self.workers[name].kill(number)
        await asyncio.wait_for(self.workers[name].gone.wait(), SOON_S * self.machine.slowness)

    async def ends(self, name: str = "worker", seconds_max: float = SOON_S) -> bool:
        """Whether the process ends by itself or by systemd's doing."""
        try:
            await asyncio.wait_for(self.workers[name].gone.wait(), seconds_max * self.machine.slowness)
        except TimeoutError:
            return False
        return True

    async def gate(self, stem: str = "t-gate") -> Gate:
        """A closed gate: a unit to put in After=."""
        gate = await self.machine.gate(self.client, self.name(stem))
        self._units[gate.unit] = None
        self._gates.append(gate)
        return gate

    # ---- calls

    def properties(self, values: dict[str, Any]) -> list[list[Any]]:
        """a(sv) by keyword: a bool is b, a number t, the rest by table; a Variant stands for itself."""
        return [[name, self._variant(name, value)] for name, value in values.items()]

    def _variant(self, name: str, value: Any) -> Variant:
        if isinstance(value, Variant):
            return value
        if name in _LISTS:
            return Variant(signature="as", value=[self.name(one) for one in value])
        if name == "Slice":
            return Variant(signature="s", value=self.own(value))
        default = "b" if isinstance(value, bool) else "t" if isinstance(value, int) else "s"
        return Variant(signature=_SIGNATURES.get(name, default), value=value)

    async def call(self, member: str, signature: str = "", *body: Any) -> Answer:
        """Call the Manager; the answer in words. A unit's name in the body is given as `name` makes it."""
        given = [self.name(one) if isinstance(one, str) else one for one in body]
        return self.told(await self.client.call(member, signature, *given))

    def told(self, answer: Message) -> Answer:
        """An answer as data: "done" for an empty reply, its body, or the error with its text."""
        if answer.type is MessageType.ERROR:
            text = answer.body[0] if answer.body else ""
            return {"error": short(answer.error_name), "text": self.plain(text)}
        body = self.plain(list(answer.body))
        if not body:
            return "replied"
        value = body[0] if len(body) == 1 else body
        return "job" if isinstance(value, str) and value.startswith("job ") else value

    async def ask_start(
        self, unit: str, mode: str = "replace", /, *, by: Client | None = None, **values: Any
    ) -> Message:
        """StartTransientUnit: the answer as it is."""
        array = self.properties(values)
        return await (by or self.client).call("StartTransientUnit", START, self.own(unit), mode, array, [])

    async def queue(self, unit: str, mode: str = "replace", /, **values: Any) -> str:
        """StartTransientUnit: the path of its job. Refused, which ends the probe with what was said, when there is none."""
        answer = await self.ask_start(unit, mode, **values)
        if answer.type is MessageType.ERROR:
            raise Refused(self.told(answer))
        return str(answer.body[0])

    async def start(self, unit: str, mode: str = "replace", /, **values: Any) -> Answer:
        """StartTransientUnit: the answer in words."""
        return self.told(await self.ask_start(unit, mode, **values))

    async def up(self, unit: str, /, **values: Any) -> Answer:
        """StartTransientUnit, and how its job ended: "done", or what refused it."""
        return await self._through(lambda: self.ask_start(unit, **values))

    async def down(self, unit: str, mode: str = "replace") -> Answer:
        """StopUnit, and how its job ended."""
        return await self._through(lambda: self.client.call("StopUnit", "ss", self.name(unit), mode))

    async def _through(self, ask: Any) -> Answer:
        since = await self.listen()
        answer = await ask()
        if answer.type is MessageType.ERROR:
            return self.told(answer)
        return await self.ended(answer.body[0], since)

    async def scope(self, unit: str, /, *, worker: str = "worker", stubborn: bool = False, **values: Any) -> Answer:
        """A scope with a new process in it; how its job ended."""
        pid = await self.worker(worker, stubborn=stubborn)
        return await self.up(unit, PIDs=[pid], **values)

    async def patiently(self, member: str, signature: str = "", *body: Any) -> Answer:
        """A call that is made again for as long as nobody is there to answer it: after a Reexecute."""
        while True:
            said = await self.call(member, signature, *body)
            if not (isinstance(said, dict) and said.get("error") in _NOBODY):
                return said
            await self.machine.settle()

    async def failed(self, unit: str, /, **values: Any) -> Answer:
        """Make the scope fail: its process is gone when its job runs. How the job ended, and the state."""
        gate = await self.gate("t-gate-failed")
        # Of a child's end a 247 hears, and forgets it as one of PIDs=: with nobody to attach, its job is done.
        pid = await self.worker("doomed", adopted=False)
        since = await self.listen()
        job = await self.queue(unit, PIDs=[pid], After=[gate.unit], **values)
        await self.kill("doomed")
        await gate.open()
        result = await self.ended(job, since)
        return [result, await self.state(unit)]

    async def ended(self, job: str, since: int = 0, by: Client | None = None, *, seconds_max: float = SOON_S) -> str:
        """The result of a job, waited for."""

        def wanted(m: Message) -> bool:
            return m.member == "JobRemoved" and bool(m.body[1] == job)

        found = await (by or self.client).until(wanted, since, seconds_max)
        return str(found.body[3])

    async def queued(self, unit: str, /, **values: Any) -> tuple[str, Gate]:
        """A scope with a new process in it whose start job stays queued: the job's path, and the gate that it waits for."""
        gate = await self.gate()
        pid = await self.worker()
        return await self.queue(unit, PIDs=[pid], After=[gate.unit], **values), gate

    async def let_go(self, job: str, gate: Gate) -> str:
        """Open the gate that a job waits for; how the job ended. Heard only after `listen`."""
        since = len(self.client.inbox)
        await gate.open()
        return await self.ended(job, since)

    async def set(self, unit: str, /, **values: Any) -> Answer:
        """SetUnitProperties(runtime)."""
        array = self.properties(values)
        return self.told(await self.client.call("SetUnitProperties", "sba(sv)", self.name(unit), True, array))

    async def get(self, unit: str, interface: str, name: str) -> Answer:
        """A property of a unit, on "Unit", "Scope" or "Slice"."""
        full = f"{systemd1.NAME}.{interface}"
        return self.told(await self.client.get(systemd1.unit_path(self.name(unit)), full, name))

    async def state(self, unit: str) -> str:
        """ActiveState and SubState, LoadState in front where it is not "loaded"."""
        load, active, sub = [await self.get(unit, "Unit", name) for name in ("LoadState", "ActiveState", "SubState")]
        return f"{active}/{sub}" if load == "loaded" else f"{load} {active}/{sub}"

    async def becomes(self, unit: str, wanted: str, seconds_max: float = SOON_S) -> str:
        """The state once it is the wanted one; the one that it stays in when it does not get there."""
        deadline = asyncio.get_running_loop().time() + seconds_max * self.machine.slowness
        # Asked again and again: without Subscribe nobody tells of a state.
        while (state := await self.state(unit)) != wanted and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return state

    async def settled(self, unit: str) -> str:
        """The state of a unit that was stopped, once its processes are gone and it was looked at anew: whether it is needed is
        asked when a reference is let go (unit.c, unit_may_gc), and else perhaps before the last process is dead."""
        for member in ("RefUnit", "UnrefUnit"):
            await self.call(member, "s", unit)
        await self.quiet()
        return await self.state(unit)

    async def end(self, unit: str, worker: str) -> str:
        """End a scope by the end of its only process; its state when it is gone, or the one in which it stays."""
        await self.kill(worker)
        return await self.becomes(unit, GONE_STATE)

    async def quiet(self) -> None:
        """Until nothing more comes."""
        await self.machine.settle()

    # ---- what was said

    async def listen(self, *, subscribed: bool = False) -> int:
        """Hear what systemd tells of, after Subscribe of everything. Where in the inbox that begins."""
        await self.client.match()
        if subscribed:
            await self.call("Subscribe")
        return len(self.client.inbox)

    def heard(self, since: int = 0, by: Client | None = None, *, details: bool = False) -> list[str]:
        """The inbox in words, in order, from an index on: replies, and signals about the probe's own units."""
        words = [word for m in (by or self.client).inbox[since:] for word in self._words(m, details=details)]
        return in_order(words)

    def _words(self, message: Message, *, details: bool) -> Iterator[str]:
        if message.type in (MessageType.REPLY, MessageType.ERROR):
            if message.sender != systemd1.BUS_NAME:
                yield message.type.name.lower()
            return
        seen = systemd1.view(message)
        if message.member == "Reloading":
            yield f"Reloading {message.body[0]}"
        if not seen.unit.startswith((f"{self.word}-", f"{self.word}.")) or "-gate" in seen.unit:
            return
        if message.member != "PropertiesChanged":
            yield " ".join(part for part in (message.member, self.plain(seen.unit), seen.result) if part)
        elif details:
            yield self._change(message, self.plain(seen.unit))
        elif message.body[0] == systemd1.UNIT:
            yield f"PropertiesChanged {self.plain(seen.unit)}"

    def _change(self, message: Message, unit: str) -> str:
        interface, changed, _ = message.body
        values = {name: self.plain(changed[name]) for name in ("ActiveState", "SubState") if name in changed}
        job = changed.get("Job")
        with_job = "" if job is None else " job" if job.value[0] else " no job"
        return f"PropertiesChanged {unit} {short(interface)} {'/'.join(values.values())}{with_job}".rstrip()

    # ---- cgroups

    def systemd_says(self, name: str = "worker") -> str:
        """Where the process is in systemd's own hierarchy."""
        return self.where(name, ("systemd", "unified")).popitem()[1]

    def systemd_has(self, path: str) -> bool:
        """Whether the cgroup is there in systemd's own hierarchy."""
        return bool({"systemd", "unified"} & set(self.made(path)))

    def path(self, unit: str, within: str = "") -> str:
        """The unit's cgroup: "t-a.scope" within "t.slice" is /t.slice/t-a.scope; a slice by its own name."""
        if unit.endswith(".slice"):
            return self.slice_path(within or unit)
        return f"{self.slice_path(within or self.machine.scopes_in)}/{self.name(unit)}"

    def whole(self, path: str) -> str:
        """A cgroup's path from the root of its hierarchy, as systemd says it."""
        return self.machine.above + path

    def made(self, path: str) -> list[str]:
        """The hierarchies in which the cgroup is there."""
        tree = self.machine.tree
        return sorted(one.name for one in tree.hierarchies if tree.exists(one.name, path))

    def where(self, name: str = "worker", only: Iterable[str] = ()) -> dict[str, str]:
        """Where the process is, by hierarchy; "/" for the root, "home" for where it came from on v2."""
        tree, found = self.machine.tree, {}
        for one in tree.hierarchies:
            if only and one.name not in only:
                continue
            place = tree.locate(one.name, self.workers[name].pid_outer)
            found[one.name] = "gone" if place is None else "home" if place == HOME else self.plain(place) or "/"
        return found

    def mkdir(self, path: str, hierarchies: Iterable[str] = ()) -> None:
        """What somebody else does: make a cgroup, by default in every hierarchy."""
        for one in self.machine.tree.hierarchies:
            if not hierarchies or one.name in hierarchies:
                self.machine.tree.mkdir(one.name, path)
                if "cpuset" in one.controllers and not one.is_v2:
                    self._hand_down_cpuset(one.name, path)

    def _hand_down_cpuset(self, hierarchy: str, path: str) -> None:
        """On v1 no process may enter before it has cpus and memory (cpuset(7))."""
        parts = path.split("/")
        for depth in range(2, len(parts) + 1):
            above, here = "/".join(parts[: depth - 1]), "/".join(parts[:depth])
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not self.machine.tree.read(hierarchy, here, file).strip():
                    text = self.machine.tree.read(hierarchy, above, file).strip()
                    self.machine.tree.write(hierarchy, here, file, text)

    def put(self, name: str, path: str) -> None:
        """What a driver does by hand: make a cgroup where there is none, and move a process there, in every hierarchy."""
        self.mkdir(path)
        for one in self.machine.tree.hierarchies:
            self.machine.tree.attach(one.name, path, self.workers[name].pid_outer)

    def read(self, controller: str, path: str, file: str) -> str:
        """A control file's text; "no such file" where it is not there."""
        try:
            return self.machine.tree.read(self._carrier(controller), path, file).strip()
        except (OSError, LookupError):
            return "no such file"

    def write(self, controller: str, path: str, file: str, text: str) -> None:
        """Write a control file, as somebody else would."""
        self.machine.tree.write(self._carrier(controller), path, file, text)

    def _carrier(self, controller: str) -> str:
        for one in self.machine.tree.hierarchies:
            if controller in (one.name, *one.controllers):
                return one.name
        raise LookupError(controller)


def short(name: str) -> str:
    """An error's or interface's name with its prefix cut: "S:UnitExists"."""
    for prefix, letter in _SHORT.items():
        if name.startswith(prefix):
            return letter + name.removeprefix(prefix)
    return name


def in_order(words: list[str]) -> list[str]:
    """The words with neighbours of one kind sorted by unit: in which order systemd takes several units is by chance (hashmap.c)."""
    out: list[str] = []
    for _, group in itertools.groupby(words, key=lambda word: word.split()[0]):
        out += sorted(group, key=lambda word: word.split()[1:2])
    return out
