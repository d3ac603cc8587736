"""Stands for a training script of the user's, and for a function; and how a test writes their options."""

import contextlib
import math
import os
import sys
import time


def written(*overrides: str) -> list[str]:
    """Overrides as the command line hands them to Hydra."""
    from carbs_scaling import cli

    return [part for text in overrides for part in cli._dimension(cli._quoted(text))]


def gone(pid: int) -> bool:
    """Whether a process ends within some time."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            time.sleep(0.05)
            continue
        return True
    return False


def loss_of(learning_rate: float, tokens: float) -> float:
    """Of more tokens, and of a rate near 0.03."""
    return 1 + 3 * tokens**-0.3 + 0.1 * math.log(learning_rate / 0.03) ** 2


def train(point, context):
    """A function as `task.function` calls it."""
    loss = loss_of(point["learning_rate"], point["tokens"])
    for step in range(3):
        context.report(step, loss + 2 - step, tokens=step * 100)
    return {"loss": loss, "accuracy": 0.5}


BEHAVIOURS = {
    "hangs": "import time; print('begun', flush=True); time.sleep(1000)",
    "crashes": "raise ValueError('no such width')",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "prints no metric": "print('all went well')",
    "prints NaN": "import time; print('step 7 loss nan', flush=True); time.sleep(1000)",
    "has no memory": "raise MemoryError",
    "floods": "import sys\nfor i in range(40000): print('x' * 99)\nprint('step 9 loss 2.5')",
    "prints one long line": "print('y' * 3000000); print('step 9 loss 2.5')",
}
# A child that leaves the process group and its parent, as a daemon does, and writes its number first.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(sys.argv[-1], "w") as file:
            file.write(str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[-1]) or not open(sys.argv[-1]).read():
    time.sleep(0.01)
"""

if __name__ == "__main__":
    rate, tokens = map(float, sys.argv[1:3])
    for step in (0, 10, 20):
        print(f"step {step} loss {loss_of(rate, tokens) + (20 - step) / 10}", flush=True)
        time.sleep(float(sys.argv[3]) if len(sys.argv) > 3 else 0)
