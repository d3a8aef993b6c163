"""Draws sequences: mostly what drivers do, in odd orders, and now and then what no driver should do. Seeded."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from cgrace.harness.validate.sequences.program import Act, Moment, Program, Property

SCOPES: Final = ("t-a.scope", "t-b.scope")
SLICES: Final = ("t-x.slice", "t-x-y.slice", "t-z.slice")
UNITS: Final = SCOPES + SLICES
_ODD_NAMES: Final = ("t-none.scope", "t-none.service", "nonsense", "", "a /b.scope", "t-a@.scope", "t-a--b.slice")
_MODES: Final = ("replace",) * 12 + (
    "fail",
    "fail",
    "replace-irreversibly",
    "ignore-dependencies",
    "isolate",
    "nonsense",
)
_MOMENTS_MAX: Final = 9
_GONE: Final = 4_000_000
_MIB: Final = 1 << 20

_CGROUP: Final[tuple[Property, ...]] = (
    ("MemoryAccounting", "b", True),
    ("CPUAccounting", "b", True),
    ("BlockIOAccounting", "b", True),
    ("TasksAccounting", "b", True),
    ("TasksAccounting", "b", False),
    ("MemoryLimit", "t", 64 * _MIB),
    ("MemoryMax", "t", 96 * _MIB),
    ("CPUShares", "t", 512),
    ("CPUQuotaPerSecUSec", "t", 200_000),
    ("BlockIOWeight", "t", 300),
    ("TasksMax", "t", 50),
    ("DevicePolicy", "s", "strict"),
    ("DevicePolicy", "s", "closed"),
    ("DeviceAllow", "a(ss)", (("/dev/null", "rwm"),)),
    ("DeviceAllow", "a(ss)", (("/dev/char/1:3", "rw"), ("char-*", "m"))),
)
_UNIT: Final[tuple[Property, ...]] = (
    ("Description", "s", "something"),
    ("DefaultDependencies", "b", False),
    ("CollectMode", "s", "inactive-or-failed"),
    ("AddRef", "b", True),
    ("Wants", "as", ("t-x.slice",)),
    ("Wants", "as", ("t-b.scope",)),
    ("Requires", "as", ("t-z.slice",)),
    ("Requires", "as", ("t-none.scope",)),
    ("After", "as", ("t-a.scope", "t-x.slice")),
    ("Before", "as", ("t-b.scope",)),
)
_SCOPE: Final[tuple[Property, ...]] = (
    ("Delegate", "b", True),
    ("Delegate", "b", True),
    ("DelegateControllers", "as", ("cpu",)),
    ("KillMode", "s", "none"),
    ("SendSIGKILL", "b", False),
    ("TimeoutStopUSec", "t", 600_000_000),
)
_WRONG: Final[tuple[Property, ...]] = (
    ("Nonsense", "b", True),
    ("ActiveState", "s", "active"),
    ("CPUShares", "u", 512),
    ("CPUShares", "t", 1),
    ("MemoryLimit", "t", 0),
    ("TasksMax", "s", "50"),
    ("Delegate", "b", True),
    ("DevicePolicy", "s", "nonsense"),
    ("DeviceAllow", "a(ss)", (("nonsense", "rw"),)),
    ("DeviceAllow", "a(ss)", (("/dev/null", "x"),)),
    ("Slice", "s", "t-a.scope"),
    ("Slice", "s", "b c"),
    ("PIDs", "au", ()),
    ("PIDs", "au", (1,)),
    ("PIDs", "au", (_GONE,)),
    ("PIDs", "ai", (5,)),
    ("Wants", "as", ("nonsense",)),
    ("KillMode", "s", "nonsense"),
)
_READ: Final[tuple[tuple[str, str], ...]] = (
    *(("Unit", name) for name in ("ActiveState", "SubState", "LoadState", "Description", "Transient", "Job", "Id")),
    *(("Unit", name) for name in ("InvocationID", "CollectMode", "Nonsense")),
    *(("Scope", name) for name in ("ControlGroup", "Slice", "Delegate", "Result", "MemoryLimit", "CPUShares")),
    *(("Scope", name) for name in ("TasksMax", "DevicePolicy", "DeviceAllow", "KillMode", "Controller")),
    *(("Slice", name) for name in ("ControlGroup", "Slice", "MemoryMax", "CPUShares", "TasksMax", "MemoryAccounting")),
)


class _Drawing:
    """One sequence in the making: what was probably made is likelier to be spoken of."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.made: list[str] = []
        self.used: list[str] = []
        self.ended: set[str] = set()

    def rarely(self, one_in: int) -> bool:
        return self.chance.randrange(one_in) == 0

    def unit(self) -> str:
        if self.rarely(25):
            return self.chance.choice(_ODD_NAMES)
        if self.made and not self.rarely(4):
            return self.chance.choice(self.made)
        return self.chance.choice(UNITS)

    def mode(self) -> str:
        return self.chance.choice(_MODES)

    def worker(self) -> str:
        """A process: mostly a new one."""
        if self.used and self.rarely(6):
            return self.chance.choice(self.used)
        kind = "s" if self.rarely(5) else "w"
        name = f"{kind}{sum(one[0] == kind for one in self.used) + 1}"
        self.used.append(name)
        return name

    def some(self, pool: Sequence[Property], most: int) -> list[Property]:
        return self.chance.sample(pool, self.chance.randint(0, most))

    # ---- acts

    def start(self) -> Act:
        name = self.chance.choice(_ODD_NAMES) if self.rarely(25) else self.chance.choice(UNITS)
        is_scope = name.endswith(".scope")
        given = self.some(_CGROUP, 3)
        if is_scope:
            pids = tuple(self.worker() for _ in range(2 if self.rarely(6) else 1))
            if not self.rarely(25):
                given.append(("PIDs", "au", pids))
            if not self.rarely(6):
                given.append(("Slice", "s", self.chance.choice(SLICES)))
            if self.rarely(2):
                given += self.some(_SCOPE, 2)
        if self.rarely(2):
            given += self.some(_UNIT, 2)
        if self.rarely(12):
            given.append(self.chance.choice(_WRONG))
        self.chance.shuffle(given)
        self.made.append(name)
        return Act(do="start", unit=name, args=(self.mode(),), properties=tuple(given), by=self.by())

    def by(self) -> int:
        return 1 if self.rarely(5) else 0

    def set(self) -> Act:
        given = [self.chance.choice(_CGROUP) for _ in range(self.chance.randint(1, 2))]
        if self.rarely(6):
            given.append(self.chance.choice(_WRONG + _UNIT + _SCOPE))
        return Act(do="set", unit=self.unit(), args=(True,), properties=tuple(given), by=self.by())

    def kill_unit(self) -> Act:
        who = "all" if not self.rarely(6) else self.chance.choice(("main", "nonsense", "all-fail", ""))
        number = self.chance.choice((9, 9, 15, 15, 0, 99) if self.rarely(3) else (9, 15))
        return Act(do="kill-unit", unit=self.unit(), args=(who, number), by=self.by())

    def get(self) -> Act:
        return Act(do="get", unit=self.unit(), args=self.chance.choice(_READ), by=self.by())

    def plain(self, do: str, *args: Any) -> Act:
        return Act(do=do, unit=self.unit(), args=args, by=self.by())

    def call(self) -> Act:
        kinds: dict[Callable[[], Act], int] = {
            self.start: 30,
            self.set: 8,
            self.get: 8,
            self.kill_unit: 6,
            lambda: self.plain("stop", self.mode()): 14,
            lambda: self.plain("start-unit", self.mode()): 5,
            lambda: self.plain("reset"): 4,
            lambda: self.plain("get-unit"): 4,
            lambda: self.plain("load-unit"): 2,
            lambda: self.plain("ref"): 3,
            lambda: self.plain("unref"): 3,
            lambda: self.plain("freeze"): 1,
            lambda: self.plain("thaw"): 1,
            lambda: self.plain("attach", self.chance.choice(("", "/sub", "sub", "/a/../b")), (self.worker(),)): 2,
            lambda: Act(do="unit-of", unit=self.worker(), by=self.by()): 2,
        }
        return self.chance.choices(list(kinds), list(kinds.values()))[0]()

    def deed(self) -> Act | None:
        """What somebody does without the bus."""
        unit = self.chance.choice(UNITS)
        match self.chance.randrange(6):
            case 0 | 1 | 2 if self.used:
                return Act(do="end", unit=self.chance.choice(self.used))
            case 3:
                return Act(do="mkdir", unit=unit, args=(self.chance.choice(("", "/sub", "/sub")),))
            case 4 if self.used:
                return Act(do="move", unit=unit, args=(self.chance.choice(("", "/sub")), self.chance.choice(self.used)))
            case 5:
                return Act(do="rmdir", unit=unit, args=(self.chance.choice(("", "/sub")),))
        return None

    def moment(self) -> Moment:
        if self.made and self.rarely(4) and (deed := self.deed()) is not None:
            return (deed,)
        first = self.call()
        if not self.rarely(5):
            return (first,)
        more = (self.call() for _ in range(self.chance.randint(1, 2)))
        return tuple(Act(do=a.do, unit=a.unit, args=a.args, properties=a.properties) for a in (first, *more))


def draw(seed: int) -> Program:
    """The sequence of that number: the same one each time."""
    drawing = _Drawing(random.Random(seed))
    count = drawing.chance.randint(2, _MOMENTS_MAX)
    moments = [drawing.moment() for _ in range(count)]
    if not any(act.do == "start" for moment in moments for act in moment):
        moments.insert(0, (drawing.start(),))
    return Program(moments=tuple(moments), subscribed=drawing.rarely(3), number=seed)
