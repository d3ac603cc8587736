"""Runs one program so that nothing of it outlives this process. A script of the standard library alone.

    python supervisor.py GRACE_SECONDS PROGRAM ARGUMENT...

Standard input is a pipe that the worker holds: a byte asks to end the program (SIGTERM, then SIGKILL after
the grace); its end means that the worker is gone, and everything is killed at once. On Linux this process
adopts every descendant that loses its parent, also those that left the process group, and kills what is left
when the program ends. The exit code is the program's, or 128 + the signal that ended it.
"""

import contextlib
import os
import select
import signal
import sys
import time

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
NOT_STARTED = 126
SWEEPS = 200  # over the processes, for children that are born while others are killed


def prctl(option: int, value: int) -> None:
    """The system call, where there is one."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Processes below `root` by /proc; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    try:
        numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208
    except OSError:
        return []
    for number in numbers:
        try:
            with open(f"/proc/{number}/stat", "rb") as file:  # noqa: PTH123
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(number)
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def kill(pids: list[int], number: int) -> None:
    """Sends a signal to those that still live."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_everything(group: int) -> None:
    """Kills the program's group and all descendants, until none is left."""
    for _ in range(SWEEPS):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        kill(descendants(os.getpid()), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def start(arguments: list[str]) -> int:
    """Forks the program into a group of its own; gives its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGPIPE):  # Python ignores one, and the worker the other
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    try:
        os.execvp(arguments[0], arguments)
    except OSError as error:
        os.write(2, f"cannot start {arguments[0]}: {error.strerror}\n".encode())
    os._exit(NOT_STARTED)


def ended(pid: int) -> int | None:
    """The exit code of the program; None while it runs. Other children that ended are reaped."""
    while True:
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return NOT_STARTED
        if found == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if not found:
            return None


def main(grace_seconds: float, arguments: list[str]) -> int:
    """Runs the program to its end, or ends it."""
    woken, wakes = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    prctl(SET_CHILD_SUBREAPER, 1)
    pid = start(arguments)
    watched, kill_at = [0, woken], None
    while True:
        code = ended(pid)
        if code is not None:
            break
        left = None if kill_at is None else kill_at - time.monotonic()
        if left is not None and left <= 0:
            code = 128 + signal.SIGKILL
            break
        ready = select.select(watched, [], [], left)[0]
        if woken in ready:
            os.read(woken, 4096)
        if 0 in ready:
            if not os.read(0, 1):  # the worker is gone, or waits no longer
                code = 128 + signal.SIGKILL
                break
            kill_at = time.monotonic() + grace_seconds
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGTERM)
    kill_everything(pid)
    return code


if __name__ == "__main__":
    # Flushed by nobody: nothing was written through Python's own streams.
    os._exit(main(float(sys.argv[1]), sys.argv[2:]))
