"""The shim protocol (harness/drivers/base.py) around a driver: JSON lines in and out, a thread for each operation."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from cgrace.fakes.driver import tree
from cgrace.fakes.driver.bus import BusError
from cgrace.fakes.driver.driver import Driver


class Shim:
    """Serves until stdin ends. Everything that a bug may want to do otherwise is a method."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._out = threading.Lock()

    def serve(self) -> None:
        """Say hello, then do what comes."""
        self.hello()
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if request["op"] == "quit":
                return
            if request["op"] == "stacks":  # here: nothing that an operation does can keep this thread
                self.say({"id": request["id"], "ok": True, "error": "", "ns": 0, "value": stacks()})
            else:
                threading.Thread(target=self.answer, args=(request,), daemon=True).start()

    def hello(self) -> None:
        """Start the driver, and say how that went."""
        error, conclusions = "", []
        try:
            conclusions = self.driver.start()
        except (BusError, OSError, ValueError) as problem:
            error = str(problem)
        self.say({"hello": {"ok": not error, "error": error, "conclusions": conclusions}})

    def answer(self, request: dict[str, Any]) -> None:
        """Do one operation and tell what came of it."""
        started = time.monotonic_ns()
        answer: dict[str, Any] = {"id": request["id"], "ok": True, "error": "", "value": ""}
        try:
            answer |= self.do(request)
        except (BusError, OSError, ValueError) as error:
            answer |= {"ok": False, "error": str(error) or type(error).__name__}
        answer["ns"] = time.monotonic_ns() - started
        self.say(answer)

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """The operation itself; gives `paths` or `value`."""
        unit, parent, driver = request["unit"], request["parent"], self.driver
        paths = tree.paths_of(parent, unit)
        match request["op"]:
            case "apply":
                return {"paths": driver.apply(unit, parent, request["pid"], request["delegate"])}
            case "set":
                driver.set(unit, parent, request["resources"])
            case "freeze" | "thaw" as op:
                driver.freeze(unit, parent, op == "freeze")
            case "destroy":
                driver.destroy(unit, parent)
            case "exists":
                return {"value": str(any(Path(path).is_dir() for path in paths.values())).lower()}
            case "paths":
                return {"paths": paths}
            case "pids":
                return {"value": " ".join(map(str, driver.pids(unit, parent)))}
            case op:
                raise ValueError(f"there is no operation {op!r}")
        return {}

    def say(self, data: dict[str, Any]) -> None:
        """One line."""
        self.write(json.dumps(data).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """To stdout, whole."""
        with self._out:
            while data:
                data = data[os.write(1, data) :]


def stacks() -> str:
    """Every thread's Python stack."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    )
