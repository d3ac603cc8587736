"""The command line in processes of its own, forked from one that has the heavy imports behind it.

A fresh interpreter takes seconds for PyTorch, BoTorch and Optuna; the tests call a hundred of them.
"""

import atexit
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# One request a line: words, folder, environment, and a file for each stream. The answer is the exit code.
SERVER = """
import json, os, sys
# What verbs import, and nothing of ours.
import botorch, datasets, hydra, optuna, plotly.graph_objects, rich.live, scipy.stats
import torch._dynamo, torch.distributed.tensor, transformers.modeling_utils, transformers.pytorch_utils

for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(os.open(request["streams"][stream - 1], os.O_WRONLY | os.O_CREAT), stream)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["carbs-scaling", *request["words"]]
        import runpy
        runpy.run_module("carbs_scaling.cli", run_name="__main__", alter_sys=True)
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass
class Ended:
    """How a command ended, as `subprocess.CompletedProcess` says it."""

    returncode: int
    stdout: str
    stderr: str


_servers: list[subprocess.Popen[str]] = []


def _server() -> subprocess.Popen[str]:
    if not _servers or _servers[0].poll() is not None:
        command = [sys.executable, "-c", SERVER]
        root = Path(__file__).parents[1]
        _servers[:] = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        ]
        atexit.register(_end)
    return _servers[0]


def _end() -> None:
    for server in _servers:
        server.communicate()  # closes its input, and waits
    _servers.clear()


def carbs_scaling(*words: str, cwd: Path) -> Ended:
    """Runs `carbs-scaling WORDS...` in a folder, to its end."""
    streams = [cwd.parent / f"{cwd.name}.{name}" for name in ("out", "err")]
    for path in streams:
        path.write_bytes(b"")
    request = {
        "words": words,
        "folder": str(cwd),
        "environment": dict(os.environ),
        "streams": [str(path) for path in streams],
    }
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    code = server.stdout.readline()
    assert code, "the server of the command line has died"
    out, err = (path.read_text() for path in streams)
    for path in streams:
        path.unlink()
    return Ended(int(code), out, err)
