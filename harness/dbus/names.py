"""Who owns which name on the embedded bus, with the queues of those who wait for one. After the specification's RequestName.

Owners are peers, named by their unique names. Pure bookkeeping: what has to be told about a change is returned as data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag


class RequestFlag(IntFlag):
    """RequestName's flags."""

    ALLOW_REPLACEMENT = 1
    REPLACE_EXISTING = 2
    DO_NOT_QUEUE = 4


class Requested(IntEnum):
    """RequestName's answers."""

    PRIMARY_OWNER = 1
    IN_QUEUE = 2
    EXISTS = 3
    ALREADY_OWNER = 4


class Released(IntEnum):
    """ReleaseName's answers."""

    RELEASED = 1
    NON_EXISTENT = 2
    NOT_OWNER = 3


@dataclass(frozen=True, slots=True)
class OwnerChange:
    """A name went from one peer to another; "" stands for nobody."""

    name: str
    old: str
    new: str


@dataclass(slots=True)
class _Claim:
    peer: str
    flags: RequestFlag


@dataclass(slots=True)
class Names:
    """Names and their queues; the first of a queue owns the name."""

    _queues: dict[str, list[_Claim]] = field(default_factory=dict)
    _owned: dict[str, tuple[str, ...]] = field(default_factory=dict)  # answers of `owned_by`, until something changes

    def owner(self, name: str) -> str:
        """The unique name of the owner, "" when there is none."""
        queue = self._queues.get(name)
        return queue[0].peer if queue else ""

    def queued(self, name: str) -> list[str]:
        """All who have the name or wait for it, the owner first."""
        return [claim.peer for claim in self._queues.get(name, [])]

    def owned_by(self, peer: str) -> tuple[str, ...]:
        """The names that a peer owns now, unique one included."""
        if peer not in self._owned:
            self._owned[peer] = tuple(name for name, queue in self._queues.items() if queue[0].peer == peer)
        return self._owned[peer]

    def all(self) -> list[str]:
        """Every name that has an owner, in the order in which they appeared."""
        return list(self._queues)

    def request(self, name: str, peer: str, bits: int) -> tuple[Requested, list[OwnerChange]]:
        """Ask for a name."""
        flags = RequestFlag(bits & 7)
        self._owned.clear()
        queue = self._queues.setdefault(name, [])
        mine = _Claim(peer, flags)
        if not queue:
            queue.append(mine)
            return Requested.PRIMARY_OWNER, [OwnerChange(name, "", peer)]
        owner = queue[0]
        if owner.peer == peer:
            owner.flags = flags
            return Requested.ALREADY_OWNER, []
        queue[:] = [claim for claim in queue if claim.peer != peer]
        if flags & RequestFlag.REPLACE_EXISTING and owner.flags & RequestFlag.ALLOW_REPLACEMENT:
            if owner.flags & RequestFlag.DO_NOT_QUEUE:
                queue.pop(0)
            queue.insert(0, mine)
            return Requested.PRIMARY_OWNER, [OwnerChange(name, owner.peer, peer)]
        if flags & RequestFlag.DO_NOT_QUEUE:
            return Requested.EXISTS, []
        queue.append(mine)
        return Requested.IN_QUEUE, []

    def release(self, name: str, peer: str) -> tuple[Released, list[OwnerChange]]:
        """Give a name, or the place in its queue, back."""
        queue = self._queues.get(name)
        if not queue:
            return Released.NON_EXISTENT, []
        if all(claim.peer != peer for claim in queue):
            return Released.NOT_OWNER, []
        return Released.RELEASED, self._remove(name, peer)

    def gone(self, peer: str) -> list[OwnerChange]:
        """A peer left: every name of its is passed on or free; its unique name comes last."""
        names = [name for name, queue in self._queues.items() if any(claim.peer == peer for claim in queue)]
        names.sort(key=lambda name: name == peer)
        return [change for name in names for change in self._remove(name, peer)]

    def _remove(self, name: str, peer: str) -> list[OwnerChange]:
        self._owned.clear()
        queue = self._queues[name]
        owned = queue[0].peer == peer
        queue[:] = [claim for claim in queue if claim.peer != peer]
        new = queue[0].peer if queue else ""
        if not queue:
            del self._queues[name]
        return [OwnerChange(name, peer, new)] if owned else []
