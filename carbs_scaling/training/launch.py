"""Several processes of one run: how `torchrun` or this program starts them, how they join, how they end."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from carbs_scaling.errors import CarbsScalingError, ConfigError, end_at_once
from carbs_scaling.training.device import choose_device
from carbs_scaling.training.distributed import Ranks
from carbs_scaling.training.interruption import STOP_SIGNALS
from carbs_scaling.training.step import is_out_of_memory

# How gloo says that a process it talks to is gone; other backends raise a `DistError`.
LOST_PEER_TEXTS = ("gloo", "closed by peer", "reset by peer", "Broken pipe", "refused")
# Set for the processes of `launch`, which says itself which of them died.
LAUNCHED_VARIABLE = "CARBS_SCALING_LAUNCHED"
INTERRUPTED = 130  # as the command line ends at Ctrl-C
GOES_ON = "the same command goes on from the last checkpoint, if there is one"


def is_launched() -> bool:
    """Whether `torchrun`, or `launch`, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(device: str, parallel: str) -> Iterator[Ranks]:
    """The processes that `torchrun` started, joined; one alone where it did not.

    Errors of the first process leave this as they are. Another one prints its line itself and ends.

    Args:
        device: `auto`, `cpu` or `cuda`; each process takes the GPU of its local rank.
        parallel: `ddp` or `fsdp`.

    Raises:
        ConfigError: fewer GPUs than processes, or a device of a number.
        CarbsScalingError: another process is gone, or this one is out of memory.
    """
    size = int(os.environ["WORLD_SIZE"]) if is_launched() else 1
    if size == 1:
        yield Ranks(device=choose_device(device))
        return
    own = _own_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    ranks = Ranks(dist.get_rank(), size, parallel, own)
    try:
        yield ranks
    except (CarbsScalingError, OSError, MemoryError, RuntimeError, KeyboardInterrupt, SystemExit) as error:
        for number in STOP_SIGNALS:  # those of `torchrun`, on the way out
            signal.signal(number, signal.SIG_IGN)
        end = _explained(error, ranks)
        silent = isinstance(end, SystemExit)
        known = silent or isinstance(end, CarbsScalingError | OSError | KeyboardInterrupt)
        if not known or (ranks.first and not silent):
            raise end from (None if end is error else error)
        if isinstance(end, CarbsScalingError | OSError):
            print(f"carbs-scaling: error: {' '.join(str(end).split())}", file=sys.stderr)
        end_at_once(INTERRUPTED if isinstance(end, KeyboardInterrupt) else 1)
    else:
        dist.destroy_process_group()


def _explained(error: BaseException, ranks: Ranks) -> BaseException:
    """The error for people that an error of a process stands for."""
    who = f"process {ranks.rank} of {ranks.size}"
    if is_out_of_memory(error):
        return CarbsScalingError(
            f"{who} is out of memory: lower training.micro_batch_tokens (the tokens that a process takes at "
            "once), or use train.parallel=fsdp and more GPUs"
        )
    if isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_PEER_TEXTS)
    ):
        # One line, if possible: of the first process, or of the second, where the first is the one gone.
        if ranks.rank > 1 or LAUNCHED_VARIABLE in os.environ:
            return SystemExit(1)
        return CarbsScalingError(f"another of the {ranks.size} processes has ended: {GOES_ON}")
    if isinstance(error, CarbsScalingError | OSError) and not ranks.first:
        return CarbsScalingError(f"{who}: {error}")
    return error


def _own_device(name: str) -> torch.device:
    """The device of this process: the GPU of its local rank, or the CPU.

    Raises:
        ConfigError: fewer GPUs than processes on this machine, or a device of a number.
    """
    if ":" in name:
        raise ConfigError(f"train.device={name} is one GPU, for several processes: use cuda, auto or cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    processes = int(os.environ["LOCAL_WORLD_SIZE"])
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    if count < processes:
        raise ConfigError(
            f"{processes} processes need as many GPUs, and PyTorch sees {count} here: start fewer, or use "
            "train.device=cpu"
        )
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def launch(processes: int, arguments: list[str]) -> None:
    """Start `carbs-scaling train` as several processes of this machine, and end when they have.

    Args:
        processes: how many.
        arguments: of `carbs-scaling`, with the verb.

    Raises:
        CarbsScalingError: a process was killed; the others are ended then.
        SystemExit: a process ended in an error, of which it has printed the line, or the run was stopped.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # it says in many lines what one says below
            logging.getLogger(name).setLevel(logging.CRITICAL)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    os.environ[LAUNCHED_VARIABLE] = "1"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "carbs_scaling.cli", *arguments)
    except SignalException:
        raise SystemExit(INTERRUPTED) from None
    except ChildFailedError as error:
        # Those that the launcher ended got SIGTERM.
        killed = {
            rank: -failure.exitcode
            for rank, failure in error.failures.items()
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        }
        for rank, number in killed.items():
            raise CarbsScalingError(
                f"process {rank} of {processes} was killed by {signal.Signals(number).name}, and the others "
                f"were ended: {GOES_ON}"
            ) from None
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
    finally:
        del os.environ[LAUNCHED_VARIABLE]
