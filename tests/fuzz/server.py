"""Runs the command line again and again in processes of its own, which share the loaded libraries and are limited.

Reads one JSON object a line from stdin (`folder`, `words`) and answers with one: exit `status` (negative: the signal
that ended it), `seconds`, `peak_bytes` of memory, `err` from stderr, whether it was `stopped` after `LONGEST_SECONDS`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from typing import Any, Dict, List

import psutil
import torch

from cryoden.__main__ import main

LONGEST_SECONDS = 30.0
MORE_BYTES = 2 << 30
"""Of address space, beyond what the loaded libraries take."""


def run(folder: str, words: List[str]) -> Dict[str, Any]:
    """Run a command in a child; return what became of it."""
    begun = time.monotonic()
    child = os.fork()
    if not child:
        _become(folder, words)
    stopped = False
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - begun > LONGEST_SECONDS:
            os.kill(child, signal.SIGKILL)
            stopped = True
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.005)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    with open(os.path.join(folder, "stderr.txt"), errors="replace") as file:
        err = file.read()
    seconds = time.monotonic() - begun
    return {"status": code, "seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024, "err": err, "stopped": stopped}


def _become(folder: str, words: List[str]) -> None:
    """Be the command, and end with its status."""
    status = 99
    try:
        os.chdir(folder)
        for name, number in (("stdout.txt", 1), ("stderr.txt", 2)):
            file = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(file, number)
        limit = psutil.Process().memory_info().vms + MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        torch.set_num_threads(1)
        try:
            status = main(words)
        except SystemExit as stop:
            status = int(stop.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(run(task["folder"], task["words"])), flush=True)
