"""Plays sequences on a machine, many at once and in step, and notes what a driver could see after each moment.

All sequences of a batch share two connections: everything that is told of one is known by its unit's name or its call's serial.
They do not meet: each has a slice of its own, and a unit beside them needs every controller, so that which cgroups exist does not
hang on the neighbours (cgroup.c, unit_get_sibling_mask).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Any, Final, TypeVar

from cgrace.harness.dbus import systemd1
from cgrace.harness.dbus.message import Message, MessageType, Variant
from cgrace.harness.errors import TargetError
from cgrace.harness.validate.client import Client
from cgrace.harness.validate.fake import FakeMachine
from cgrace.harness.validate.machine import HOME, START, Machine, Worker
from cgrace.harness.validate.sequences.program import CALLS, DEEDS, Act, Program, is_worker
from cgrace.harness.validate.stage import in_order, short
from cgrace.harness.validate.words import TOP, Words

Told = list[dict[str, Any]]
"""What was seen of one sequence: JSON data for each moment."""

CONNECTIONS: Final = 2  # the first hears every signal, the second none
# A bus refuses more calls of one connection than 128 at once (dbus-daemon's max_replies_per_connection).
PENDING_MAX: Final = 100
OWED_MAX: Final = 10
ANSWER_S_MAX: Final = 20.0
SILENCE_S: Final = 1.5
REST_S_MAX: Final = 60.0
GONE_S_MAX: Final = 20.0
_LOOKS: Final = 3
_Item = TypeVar("_Item")
# Which of several jobs in the way is named hangs on a hash map of pointers (transaction.c, transaction_is_destructive).
_IN_THE_WAY: Final = re.compile(r"(is destructive \()\S+(?= has)")
_JOB_NUMBER: Final = re.compile(r"\bjob \d+\b")
_ACCOUNTING: Final = ("MemoryAccounting", "CPUAccounting", "BlockIOAccounting", "TasksAccounting", "IOAccounting")
_SIGNATURES: Final = {
    "start": START,
    "set": "sba(sv)",
    "start-unit": "ss",
    "stop": "ss",
    "kill-unit": "ssi",
    "unit-of": "u",
    "attach": "ssau",
}


class Part(Words):
    """One sequence on one machine: its names, processes and jobs, and what was told of it."""

    def __init__(self, word: str, number: int, program: Program) -> None:
        super().__init__(f"{word}-{number}")
        self.program = program
        self._above = f"{word}.slice"
        self.heard: list[list[Message]] = [[] for _ in range(CONNECTIONS)]
        self.told: Told = []

    def path(self, unit: str) -> str:
        """Where the cgroup of a unit is to be expected: a slice at its own place, a scope in system.slice or where it was put."""
        if unit.endswith(".slice"):
            return f"/{self._above}{self.slice_path(unit)}"
        put = [v for act in self.program.acts if act.unit == unit for name, _, v in act.properties if name == "Slice"]
        own = [one for one in put if one.startswith("t-") and one.endswith(".slice")]
        return f"{self.path(own[0]) if own else '/system.slice'}/{self.name(unit)}"

    def value(self, given: Any) -> Any:
        """A value of the program as it goes on the wire."""
        if is_worker(given):
            return self.workers[given].pid
        if isinstance(given, (tuple, list)):
            return [self.value(one) for one in given]
        return self.name(given) if isinstance(given, str) else given

    def plain(self, value: Any) -> Any:
        """See Words; of a job's number and path the path."""
        match value:
            case [_, str(path)] if path.startswith(systemd1.JOB_PREFIX):
                value = [path]
        return super().plain(value)

    def plain_names(self, text: str) -> str:
        """See Words."""
        text = re.sub(rf"{re.escape(self.word)}(?=[-.])", TOP, text).replace(self.word.replace("-", "/") + "/", "t/")
        return text.replace(self._above, "top.slice").replace(self.word.replace("-", "_2d") + "_", "t_")

    def answer(self, message: Message | None) -> Any:
        """An answer in words."""
        if message is None:
            return "no answer"
        if message.type is MessageType.ERROR:
            text = self.plain(str(message.body[0])) if message.body else ""
            text = _IN_THE_WAY.sub(r"\1<one>", text)
            return f"{short(message.error_name)}: {_JOB_NUMBER.sub('job <number>', text)}"
        body = self.plain(list(message.body))
        return "replied" if not body else body[0] if len(body) == 1 else body

    def words(self, connection: int) -> Iterator[str]:
        """What was told on that connection since the last moment, in order."""
        for message in self.heard[connection]:
            if message.type is not MessageType.SIGNAL:
                yield message.type.name.lower()
                continue
            seen = systemd1.view(message)
            what = short(message.body[0]) if message.member == "PropertiesChanged" else seen.result
            yield " ".join(part for part in (message.member, self.plain(seen.unit), what) if part)


class Theatre:
    """A machine with the connections that sequences are played over. Made by `opened`.

    quiet_s: when nothing was heard for so long, everything is at rest.
    """

    def __init__(self, machine: Machine, watcher: Client, stack: contextlib.AsyncExitStack, quiet_s: float) -> None:
        self.machine = machine
        self.word = f"cgd{os.getpid()}"
        self.quiet_s = quiet_s
        self._clients: list[Client] = []
        self._watcher = watcher
        self._stack = stack
        self._owed = 0
        self._next = 0
        self._subscribed = False
        self._own = re.compile(rf"{self.word}-(\d+)(?=[-.])")
        v1 = [one.name for one in machine.tree.hierarchies if "freezer" in one.controllers and not one.is_v2]
        self._chill = v1[0] if v1 else ""

    async def pin(self) -> None:
        """What needs every controller, beside all sequences and in system.slice."""
        values = [[name, Variant(signature="b", value=True)] for name in _ACCOUNTING]
        values.append(["DevicePolicy", Variant(signature="s", value="closed")])
        worker = await self.machine.spawn()
        pids = [["PIDs", Variant(signature="au", value=[worker.pid])]]
        pins = [
            (f"{self.word}-pin.slice", values),
            (f"{self.word}pin.slice", values),
            (f"{self.word}pin.scope", values + pids),
        ]
        for unit, array in pins:
            answer = await self._watcher.call("StartTransientUnit", START, unit, "replace", array, [])
            if answer.type is MessageType.ERROR:
                raise TargetError(f"{self.machine.name}: {unit} cannot be made: {answer.body}")
        await self._rest()
        if self._chill:
            self.machine.tree.mkdir(self._chill, f"/{self.word}-frozen")
            if isinstance(self.machine, FakeMachine):
                self.machine.late_deaths = True

    async def connect(self) -> None:
        """New connections: a bus takes no more calls of one to which it owes too many answers, and 247 owes some for ever."""
        await self._stack.aclose()
        self._clients = [await self._stack.enter_async_context(self.machine.connect()) for _ in range(CONNECTIONS)]
        await self._clients[0].match()
        self._owed = 0

    async def play(self, programs: Sequence[Program]) -> list[Told]:
        """Play them side by side; all are subscribed or none is. What they leave is gone afterwards."""
        parts = {self._next + n: Part(self.word, self._next + n, one) for n, one in enumerate(programs)}
        self._next += len(programs)
        if self._owed > OWED_MAX:
            await self.connect()
        await self._subscribe(programs[0].subscribed)
        await self._spawn(parts)
        await self._rest()
        self._forget()
        try:
            for number in range(max(len(one.moments) for one in programs)):
                playing = {key: part for key, part in parts.items() if number < len(part.program.moments)}
                await self._moment(playing, number)
        finally:
            self._freeze(frozen=False)
            await self._clean(parts)
        return [part.told for part in parts.values()]

    # ---- one moment

    async def _moment(self, parts: dict[int, Part], number: int) -> None:
        asked: dict[int, list[asyncio.Future[Message]]] = {}
        serials: list[dict[int, int]] = [{} for _ in range(CONNECTIONS)]
        done: dict[int, list[Any]] = {}
        self._freeze(frozen=True)
        for some in _chunks(parts, number):
            with self.machine.standing():
                for key, part in some.items():
                    done[key], asked[key] = [], []
                    for act in part.program.moments[number]:
                        if act.do in DEEDS:
                            done[key].append(self._deed(part, act))
                        else:
                            client = self._clients[act.by]
                            asked[key].append(_post(client, part, act))
                            serials[act.by][client.serial] = key
                if self.machine.quiet_s:
                    for client in self._clients:  # when the bus itself answers, it has passed on what came before
                        await client.call_bus("GetId")
            await self._answers([one for key in some for one in asked[key]])
        await self._rest()
        if self._chill:
            self._freeze(frozen=False)
            await self._rest()
        self._deal(parts, serials)
        trees = self._trees(parts)
        for key, part in parts.items():
            answers = [part.answer(one.result() if one.done() and not one.cancelled() else None) for one in asked[key]]
            part.told.append(
                {
                    "said": done[key] + answers,
                    "heard": [in_order(list(part.words(n))) for n in range(CONNECTIONS)],
                    "cgroups": trees[key],
                    "places": {name: self._where(part, worker) for name, worker in part.workers.items()},
                }
            )
            for heard in part.heard:
                heard.clear()

    async def _answers(self, asked: Sequence[asyncio.Future[Message]]) -> None:
        """Until all are answered, or systemd answers something else and is silent for so long that nothing more is to come."""
        waiting: Collection[asyncio.Future[Message]] = asked
        heard = -1
        for _ in range(int(ANSWER_S_MAX / SILENCE_S)):
            if not waiting:
                return
            _, waiting = await asyncio.wait(waiting, timeout=SILENCE_S)
            before, heard = heard, sum(len(one.inbox) for one in self._clients)
            if waiting and heard == before:
                break
            await self._jobs()
        self._owed += len(waiting)

    def _freeze(self, *, frozen: bool) -> None:
        """Let no process die before systemd has done all that it does by itself: else it would be a race. v1 alone can do so."""
        if self._chill:
            self.machine.tree.write(
                self._chill, f"/{self.word}-frozen", "freezer.state", "FROZEN" if frozen else "THAWED"
            )

    def _deal(self, parts: dict[int, Part], serials: list[dict[int, int]]) -> None:
        """Give each message to the sequence that it is about."""
        for number, client in enumerate(self._clients):
            for message in client.inbox:
                if message.type is MessageType.SIGNAL:
                    found = self._own.match(systemd1.view(message).unit)
                    key = int(found[1]) if found else -1
                else:
                    key = serials[number].get(message.reply_serial, -1)
                if key in parts:
                    parts[key].heard[number].append(message)
        self._forget()

    def _forget(self) -> None:
        for client in (*self._clients, self._watcher):
            client.inbox.clear()

    def _deed(self, part: Part, act: Act) -> str:
        tree = self.machine.tree
        try:
            match act.do:
                case "end":
                    part.workers[act.unit].kill(signal.SIGKILL)
                case "mkdir":
                    for one in tree.hierarchies:
                        tree.mkdir(one.name, part.path(act.unit) + act.args[0])
                case "rmdir":
                    for one in tree.hierarchies:
                        tree.rmdir(one.name, part.path(act.unit) + act.args[0])
                case _:
                    self._move(part, part.path(act.unit) + act.args[0], part.workers[act.args[1]])
        except OSError as error:
            return str(error.strerror)
        return "done"

    def _move(self, part: Part, path: str, worker: Worker) -> None:
        """As an old driver does it: into every hierarchy in which the cgroup is there."""
        tree = self.machine.tree
        for one in tree.hierarchies:
            if tree.exists(one.name, path) and "cpuset" not in one.controllers and one.name != self._chill:
                tree.attach(one.name, path, worker.pid_outer)

    # ---- looks

    def _trees(self, parts: dict[int, Part]) -> dict[int, dict[str, list[str]]]:
        """By sequence and path: the hierarchies in which the cgroup is there."""
        tree = self.machine.tree
        found: dict[int, dict[str, list[str]]] = {key: {} for key in parts}

        def note(hierarchy: str, key: int, path: str) -> None:
            found[key].setdefault(parts[key].plain(path), []).append(hierarchy)
            for name in tree.children(hierarchy, path):
                note(hierarchy, key, f"{path}/{name}")

        for hierarchy, path, key in self._own_cgroups():
            if key not in parts:
                continue
            if path.endswith(f"/{parts[key].word}.slice"):
                for below in tree.children(hierarchy, path):
                    note(hierarchy, key, f"{path}/{below}")
            else:
                note(hierarchy, key, path)
        return found

    def _own_cgroups(self) -> Iterator[tuple[str, str, int]]:
        """What sequences have made where units are: hierarchy, path, and the sequence's number."""
        tree = self.machine.tree
        for hierarchy in sorted(one.name for one in tree.hierarchies):
            for above in ("", "/system.slice", f"/{self.word}.slice"):
                for name in tree.children(hierarchy, above):
                    if own := self._own.match(name):
                        yield hierarchy, f"{above}/{name}", int(own[1])

    def _where(self, part: Part, worker: Worker) -> str:
        if worker.gone.is_set():
            return "gone"
        by_place: dict[str, list[str]] = {}
        places = self.machine.tree.places(worker.pid_outer)
        for one in self.machine.tree.hierarchies:
            if one.name == self._chill:
                continue
            if (place := places.get(one.name)) is None:
                return "gone"
            word = "home" if place == HOME else part.plain(place) or "/"
            by_place.setdefault(word, []).append(one.name)
        return "; ".join(f"{place}: {' '.join(sorted(names))}" for place, names in sorted(by_place.items()))

    # ---- rest

    async def _rest(self) -> None:
        """Until nothing was heard for a while and the number of jobs stands still. TargetError when that never comes: what is told
        of such a moment would be told of half of it."""
        if not self.machine.quiet_s:
            await self.machine.settle()
        calm, before = 0, (-1, -1)
        try:
            async with asyncio.timeout(REST_S_MAX):
                while calm < _LOOKS:
                    await asyncio.sleep(self.quiet_s / _LOOKS)
                    now = (sum(len(one.inbox) for one in self._clients), await self._jobs())
                    calm, before = (calm + 1 if now == before else 0), now
        except TimeoutError:
            raise TargetError(f"{self.machine.name} does not come to rest within {REST_S_MAX:.0f} s") from None

    async def _jobs(self) -> int:
        if not self.machine.quiet_s:
            return 0
        answer = await self._watcher.get(systemd1.PATH, systemd1.MANAGER, "NJobs")
        if answer.type is MessageType.ERROR:
            raise TargetError(f"{self.machine.name} does not answer any more: {answer.error_name}: {answer.body}")
        return int(answer.body[0].value)

    async def _subscribe(self, wanted: bool) -> None:
        if wanted != self._subscribed:
            await self._watcher.call("Subscribe" if wanted else "Unsubscribe")
            self._subscribed = wanted

    # ---- before and after

    async def _spawn(self, parts: dict[int, Part]) -> None:
        wanted = [(part, name) for part in parts.values() for name in part.program.workers]
        made = await self.machine.spawn_many([name[0] == "s" for _, name in wanted])
        for (part, name), worker in zip(wanted, made, strict=True):
            part.workers[name] = worker
            if self._chill:
                self.machine.tree.attach(self._chill, f"/{self.word}-frozen", worker.pid_outer)

    async def _clean(self, parts: dict[int, Part]) -> None:
        workers = [worker for part in parts.values() for worker in part.workers.values()]
        for worker in workers:
            worker.kill(signal.SIGKILL)
        if workers:
            async with asyncio.timeout(GONE_S_MAX):
                await asyncio.gather(*(worker.gone.wait() for worker in workers))
        await self._rest()
        held = [(client, part.name(unit)) for part in parts.values() for client, unit in self._holders(part.program)]
        for some in _lots(held, PENDING_MAX):
            await asyncio.wait([client.post("UnrefUnit", "s", unit) for client, unit in some], timeout=ANSWER_S_MAX)
        units = [part.name(unit) for part in parts.values() for unit in (*part.program.units, "t.slice")]
        for names in _lots(units, PENDING_MAX):
            await asyncio.wait(
                [self._watcher.post("StopUnit", "ss", unit, "replace") for unit in names], timeout=ANSWER_S_MAX
            )
        await self._rest()
        await self._watcher.call("ResetFailed")
        await self._rest()
        for hierarchy, path, _ in self._own_cgroups():
            self.machine.tree.rmdir(hierarchy, path)
        self._forget()

    def _holders(self, program: Program) -> Iterator[tuple[Client, str]]:
        """Who may hold which unit, as often as that: references are counted for each connection."""
        for act in program.acts:
            if act.do == "ref" or any(name == "AddRef" for name, _, _ in act.properties):
                yield self._clients[act.by], act.unit


def _lots(items: Sequence[_Item], most: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]


def _chunks(parts: dict[int, Part], number: int) -> Iterator[dict[int, Part]]:
    """As many sequences at a time as the bus lets one connection ask for."""
    some: dict[int, Part] = {}
    pending = 0
    for key, part in parts.items():
        count = len(part.program.moments[number])
        if pending + count > PENDING_MAX:
            yield some
            some, pending = {}, 0
        some[key] = part
        pending += count
    yield some


def _post(client: Client, part: Part, act: Act) -> asyncio.Future[Message]:
    unit = part.name(act.unit)
    if act.do == "get":
        interface, name = act.args
        path = systemd1.unit_path(unit)
        full = f"{systemd1.NAME}.{interface}"
        return client.post("Get", "ss", full, name, path=path, interface=systemd1.PROPERTIES)
    first = part.value(act.unit) if act.do == "unit-of" else unit
    body: tuple[Any, ...] = (first, *(part.value(one) for one in act.args))
    if act.do in ("start", "set"):
        array = [[name, Variant(signature=kind, value=part.value(value))] for name, kind, value in act.properties]
        body += (array, []) if act.do == "start" else (array,)
    return client.post(CALLS[act.do], _SIGNATURES.get(act.do, "s"), *body)


@contextlib.asynccontextmanager
async def opened(machine: Machine, quiet_s: float) -> AsyncIterator[Theatre]:
    """Ready to play."""
    async with contextlib.AsyncExitStack() as stack:
        connected = await stack.enter_async_context(contextlib.AsyncExitStack())
        theatre = Theatre(machine, await stack.enter_async_context(machine.connect()), connected, quiet_s)
        await theatre.connect()
        await theatre.pin()
        yield theatre
