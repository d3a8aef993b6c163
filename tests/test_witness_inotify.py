"""The fallback witness: directories made and removed are told, each once, and said to be seen by inotify."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cgrace.harness.events import Actor, CgroupMade, CgroupRemoved, Event
from cgrace.harness.targets.base import Hierarchy
from cgrace.harness.witnesses.inotify import InotifyWitness


class Box:
    """As much of a sandbox as the witness asks for. Any directory will do: inotify knows no cgroups."""

    cgroup_prefix = "/r"
    layout = "v1"

    def __init__(self, root: Path) -> None:
        self.hierarchies = (Hierarchy(name="devices", controllers=("devices",), root=root, inner="/"),)


def test_made_and_removed_are_told_once(tmp_path: Path) -> None:
    """Also for a directory that is made inside a new one before that is watched, and with the actor that is named."""
    seen: list[Event] = []

    async def scenario() -> None:
        (tmp_path / "old").mkdir()
        with InotifyWitness() as witness:
            run = witness.attach(Box(tmp_path), lambda event, _: seen.append(event))  # type: ignore[arg-type]
            (tmp_path / "a" / "b").mkdir(parents=True)
            (tmp_path / "file").touch()
            await witness.settle()
            with run.acting(Actor.CGRACE):
                (tmp_path / "a" / "b").rmdir()
            (tmp_path / "old").rmdir()
            run.close()
            (tmp_path / "late").mkdir()

    asyncio.run(scenario())
    tree = [(e.KIND, e.path, e.by) for e in seen if isinstance(e, CgroupMade | CgroupRemoved) and e.via == "inotify"]
    assert tree == [
        ("cgroup-made", "/a", Actor.OTHER),
        ("cgroup-made", "/a/b", Actor.OTHER),
        ("cgroup-removed", "/a/b", Actor.CGRACE),
        ("cgroup-removed", "/old", Actor.OTHER),
    ]


def test_an_event_wakes_the_loop(tmp_path: Path) -> None:
    """Events come without anybody asking."""

    async def scenario() -> Event:
        got: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        with InotifyWitness() as witness:
            witness.attach(Box(tmp_path), lambda event, _: got.set_result(event))  # type: ignore[arg-type]
            (tmp_path / "a").mkdir()
            async with asyncio.timeout(5):
                return await got

    assert asyncio.run(scenario()) == CgroupMade(hierarchy="devices", path="/a", by=Actor.OTHER, via="inotify")
