"""Starts the programs that make a place for a run's processes (go/init, go/boot)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgrace.harness.errors import TargetError
from cgrace.harness.targets.removal import INIT_NAME


def start_stage(
    program: Path,
    stage: str,
    config: Mapping[str, Any],
    control: socket.socket,
    descriptors: Sequence[int],
    *,
    what: str = "",
) -> subprocess.Popen[bytes]:
    """Start the stage with its end of the control socket, which may be closed then, and the descriptors that its configuration
    names. TargetError, with `what` the program is, where it cannot be.

    In the loop's thread: PR_SET_PDEATHSIG is about the thread that started a process.
    """
    whole = {**config, "parent": os.getpid(), "control": control.fileno()}
    try:
        return subprocess.Popen(
            [INIT_NAME, stage.encode(), json.dumps(whole).encode()],
            executable=program,
            pass_fds=(control.fileno(), *descriptors),
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is for cgrace alone
        )
    except OSError as error:
        raise TargetError(f"cannot start {what}{program}: {error.strerror}") from error
