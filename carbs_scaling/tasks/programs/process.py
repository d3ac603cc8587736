"""Runs a program under `supervisor.py`, reads what it prints line by line, and ends it where it must."""

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

SUPERVISOR = Path(__file__).with_name("supervisor.py")
LONGEST_LINE = 4096  # bytes; the rest of a line is dropped, so that no pattern meets more
TURN_SECONDS = 0.5  # between two looks at files and clocks
READ_BYTES = 1 << 16
GRACE_SECONDS = 20.0  # between SIGTERM and SIGKILL: for a checkpoint, and less than a worker has
# A turn of the loop takes no longer than this with a program that floods its output.
READS_A_TURN = 64


@dataclass(frozen=True)
class Ending:
    """How a program ended.

    Args:
        code: its exit code, or 128 + the signal that ended it; None where its supervisor was killed.
        reason: why it was ended from here; empty where it ended by itself.
        seconds: that it ran.
    """

    code: int | None
    reason: str
    seconds: float


class KeptOutput:
    """Keeps the first and the last half of what a program prints in a file of bounded size.

    Args:
        path: of the file.
        limit_bytes: most that is kept.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._file = path.open("ab")  # after what an earlier attempt of the trial has printed
        self._head_left, self._tail_limit = limit_bytes - limit_bytes // 2, limit_bytes // 2
        self._tail: deque[bytes] = deque()
        self._tail_bytes = self._dropped = 0

    def write(self, data: bytes) -> None:
        """Takes what was printed."""
        head, rest = data[: self._head_left], data[self._head_left :]
        if head:
            self._file.write(head)
            self._file.flush()
            self._head_left -= len(head)
        if rest:
            self._tail.append(rest)
            self._tail_bytes += len(rest)
        while self._tail_bytes > self._tail_limit:
            first = self._tail.popleft()
            gone = min(len(first), self._tail_bytes - self._tail_limit)
            self._dropped += gone
            self._tail_bytes -= gone
            if first[gone:]:
                self._tail.appendleft(first[gone:])

    def __enter__(self) -> "KeptOutput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._dropped:
            self._file.write(f"\n[... {self._dropped} bytes left out ...]\n".encode())
        self._file.writelines(self._tail)
        self._file.close()


class Lines:
    """Cuts a stream of bytes into lines of bounded length; a carriage return ends one too."""

    def __init__(self) -> None:
        self._open = b""
        self._skipping = False

    def take(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *whole, rest = data.replace(b"\r", b"\n").split(b"\n")
        lines = []
        for part in whole:
            if not self._skipping:
                lines.append(_text(self._open + part))
            self._open, self._skipping = b"", False
        if not self._skipping:
            self._open += rest
            if len(self._open) > LONGEST_LINE:
                lines.append(_text(self._open))
                self._open, self._skipping = b"", True
        return lines

    def last(self) -> list[str]:
        """What was begun when the stream ended."""
        return [_text(self._open)] if self._open else []


def _text(line: bytes) -> str:
    return line[:LONGEST_LINE].decode("utf-8", errors="replace")


def run_program(
    arguments: Sequence[str],
    *,
    folder: str | None,
    environment: Mapping[str, str],
    output: KeptOutput,
    on_line: Callable[[str], str],
    on_turn: Callable[[], str],
    time_limit_seconds: float | None = None,
    silence_limit_seconds: float | None = None,
) -> Ending:
    """Runs a program to its end. Nothing that it started is left when this returns, or this process dies.

    Interrupted once, it ends the program as a time limit does; interrupted twice, at once.

    Args:
        arguments: the program and its arguments, as they are: no shell reads them.
        folder: that it runs in; None for the current one.
        environment: all of it.
        output: gets what it prints.
        on_line: is given each line, and returns why the program must end now, or an empty text.
        on_turn: is called about twice a second, and once more after the end; returns the same.
        time_limit_seconds: the program is ended after so long.
        silence_limit_seconds: the program is ended when it has printed nothing for so long.

    Raises:
        OSError: the system starts no process, or the folder is gone.
        KeyboardInterrupt: Ctrl-C or SIGTERM, once the program has ended.
    """
    command = [sys.executable, "-I", "-S", str(SUPERVISOR), str(GRACE_SECONDS), *arguments]
    begun = spoken = time.monotonic()
    reason = ""
    lines = Lines()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=dict(environment),
        bufsize=0,
        start_new_session=True,  # Ctrl-C in the terminal is the coordinator's
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        selector = selectors.DefaultSelector()
        selector.register(process.stdout, selectors.EVENT_READ)

        def take(data: bytes) -> str:
            output.write(data)
            found = [on_line(line) for line in lines.take(data)]
            return next((text for text in found if text), "")

        def read() -> str:
            """Takes what was printed, or waits a little for it."""
            nonlocal spoken
            wanted = ""
            if selector.select(TURN_SECONDS / 5):
                for _ in range(READS_A_TURN):
                    data = process.stdout.read(READ_BYTES)  # type: ignore[union-attr]
                    if not data:
                        break
                    spoken = time.monotonic()
                    wanted = take(data) or wanted
                if data == b"":  # the stream has ended: only the process's end is waited for
                    selector.unregister(process.stdout)  # type: ignore[arg-type]
            return wanted

        turned = begun
        try:
            while process.poll() is None:
                now = time.monotonic()
                wanted = ""
                if time_limit_seconds is not None and now - begun > time_limit_seconds:
                    wanted = f"it ran longer than task.time_limit_seconds={time_limit_seconds:g}"
                elif silence_limit_seconds is not None and now - spoken > silence_limit_seconds:
                    wanted = f"it printed nothing for task.silence_limit_seconds={silence_limit_seconds:g}"
                wanted = read() or wanted
                if now - turned > TURN_SECONDS:
                    wanted = on_turn() or wanted
                    turned = now
                if wanted and not reason:
                    reason = wanted
                    _ask_to_end(process)
            seconds = time.monotonic() - begun
            while data := process.stdout.read(READ_BYTES):
                reason = take(data) or reason
            found = [on_line(line) for line in lines.last()]
            reason = reason or next((text for text in found if text), "") or on_turn()
        except KeyboardInterrupt:
            # The search stops. The program may write a checkpoint, and what it prints meanwhile is kept.
            _ask_to_end(process)
            while process.poll() is None:
                read()
            while data := process.stdout.read(READ_BYTES):
                take(data)
            on_turn()
            raise
        finally:
            selector.close()
            process.stdin.close()  # ends everything, where something runs
    code = process.returncode
    return Ending(code if code >= 0 else None, reason, seconds)


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended meanwhile
        process.stdin.write(b"t")
