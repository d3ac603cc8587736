"""How long a person waits for a first answer: the help of each verb, and the first output of each command.

    python benchmarks/startup.py
    python benchmarks/startup.py --no-help --study /data/studies/mine

Each command is a process of its own on a terminal of its own, timed from its start to its first output. Those
that read a study get one of 58 runs drawn from a law, or a copy of yours. The CPU seconds are those that the
process had used by then: on a busy machine they say more than the seconds that passed.
"""

import argparse
import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from carbs_scaling.usage import VERBS

TRIALS = 58  # of the default study
LIMIT_SECONDS = 300.0
SCREEN = struct.pack("HHHH", 40, 120, 0, 0)  # lines and columns of the terminal
TICK = os.sysconf("SC_CLK_TCK")
SEARCH = (
    "task=command task.command='sh -c \"echo loss={rate}\"' task.flops=1e9 space.rate={low:1,high:2} "
    "task.metric.pattern='loss=(.*)' budget.flops=1e10 study.name=new"
)
NEEDED = ("backup",)  # what they write is read by the next; all others end with their first output
# What each verb is timed with; it runs in a folder where `studies/mine` and `studies/other` are studies.
COMMANDS = {
    "plan": "gpus=8 gpu=h100 hours=72",
    "search": SEARCH,
    "status": "study.name=mine",
    "stop": "study.name=mine",
    "check": "study.name=mine",
    "backup": "study.name=mine output=mine.zip",
    "restore": "input=mine.zip rename=again",
    "front": "study.name=mine",
    "compare": "studies=[mine,other]",
    "fit": "study.name=mine",
    "recommend": "study.name=mine target.flops=1e16",
    "report": "study.name=mine",
    "dashboard": "study.name=mine port=8765",
}


def drawn_study(folder: Path) -> None:
    """A study of runs drawn from a law."""
    import optuna
    from opening import study_of

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True)
    drawn = study_of(TRIALS).optuna_study
    optuna.copy_study(
        from_study_name=drawn.study_name, from_storage=drawn._storage,
        to_storage=f"sqlite:///{folder}/study.db", to_study_name=folder.name,
    )  # fmt: skip


def copy_of(study: Path, folder: Path) -> None:
    """A copy of a study under the name of its folder."""
    shutil.copytree(study, folder)
    with sqlite3.connect(folder / "study.db") as ledger:
        ledger.execute("UPDATE studies SET study_name = ?", (folder.name,))


def first_output(words: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds until a command's first output, the CPU seconds it used until then, and its first words."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, SCREEN)
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "carbs_scaling.cli", *words], cwd=folder, stdin=theirs, stdout=theirs,
        stderr=theirs, env={**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path[1:])},
    )  # fmt: skip
    os.close(theirs)
    text, shown = b"", ""
    while not shown:  # a terminal is told to hide its cursor before anything is there to be seen
        text += os.read(ours, 4096)
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.decode(errors="replace"))
        shown = " ".join("".join(c if c.isprintable() else " " for c in plain).split())
    seconds = time.perf_counter() - begun
    used = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    if words[0] in NEEDED:
        process.wait(LIMIT_SECONDS)
    process.kill()
    process.wait()
    os.close(ours)
    return seconds, (int(used[11]) + int(used[12])) / TICK, shown[:60]


def main() -> None:
    """Prints a table and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, help="folder of a study, which is copied")
    parser.add_argument("--no-help", action="store_true")
    parser.add_argument("--verbs", default=",".join(COMMANDS))
    arguments = parser.parse_args()
    result: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.study is None:
            drawn_study(folder / "drawn")
        for copy in ("mine", "other"):
            copy_of(arguments.study or folder / "drawn", folder / "studies" / copy)
        wanted = [] if arguments.no_help else [[verb, "--help"] for verb in VERBS]
        wanted += [[verb, *shlex.split(COMMANDS[verb])] for verb in arguments.verbs.split(",")]
        print(f"{'first output of':<20} {'seconds':>8} {'CPU s':>6}  it begins")
        for words in wanted:
            seconds, used, text = first_output(words, folder)
            what = " ".join(words[:2]) if words[1:2] == ["--help"] else words[0]
            result[what] = {"seconds": seconds, "cpu_seconds": used}
            print(f"{what:<20} {seconds:8.2f} {used:6.2f}  {text}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
