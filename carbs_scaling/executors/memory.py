"""How much of a device's memory one trial may have."""

import math

from carbs_scaling.config import ExecutorConfig
from carbs_scaling.errors import ConfigError

# The rest is for holes between the allocator's blocks, and at least so many bytes a worker for the CUDA
# context, its libraries, and what a CUDA graph holds on top.
USABLE_SHARE, WORKER_BYTES = 0.9, 1e9


def require_device(executor: ExecutorConfig) -> None:
    """Refuse a GPU that is not there, where that can be known.

    Raises:
        ConfigError: CUDA is asked for and PyTorch sees none.
    """
    import torch

    if executor.elsewhere:
        return
    if executor.device == "cuda" and torch.cuda.device_count() == 0:
        raise ConfigError("executor.device=cuda, but PyTorch sees no CUDA GPU: use executor.device=cpu")


def gpus_a_trial(executor: ExecutorConfig) -> int:
    """GPUs that a trial may use on a machine; one of which it has a share counts as a whole."""
    each = getattr(executor, "gpus_per_trial", 1)
    return 1 if each is None else math.ceil(each)


def gpus_in_use(executor: ExecutorConfig) -> int:
    """GPUs that trials run on; 0 on the CPU, and where other machines do not say."""
    import torch

    if executor.elsewhere:
        each = getattr(executor, "gpus_per_trial", 0) or 0
        here = 0 if executor.device == "cpu" else (executor.workers or 0)
        return round(each * here * getattr(executor, "nodes", 1))

    gpus = 0 if executor.device == "cpu" else torch.cuda.device_count()
    a_trial = getattr(executor, "gpus_per_trial", 1)
    return min(gpus // a_trial, executor.workers or gpus) * a_trial


def trials_a_gpu(executor: ExecutorConfig) -> int:
    """Trials that share a GPU at a time; 1 on the CPU."""
    if executor.elsewhere:
        each = getattr(executor, "gpus_per_trial", None) or 1
        return 1 if each >= 1 else math.ceil(1 / each)
    used = gpus_in_use(executor)
    a_trial = getattr(executor, "gpus_per_trial", 1)
    return 1 if used == 0 or executor.workers is None else math.ceil(executor.workers * a_trial / used)


def trial_memory_bytes(executor: ExecutorConfig) -> int | None:
    """`executor.memory_bytes` where it is given, else a share of the GPU; None for no limit."""
    return gpu_share_bytes(executor) if executor.memory_bytes is None else executor.memory_bytes


def gpu_share_bytes(executor: ExecutorConfig) -> int | None:
    """`USABLE_SHARE` of the smallest GPU in use, over the workers on it; None where trials run on the CPU.

    At least `WORKER_BYTES` are left to each worker.
    """
    import torch

    if executor.elsewhere or executor.device == "cpu" or not torch.cuda.is_available():
        return None
    gpus = torch.cuda.device_count()
    workers = executor.workers or gpus
    used = range(min(gpus, workers))  # workers take the GPUs in turn
    smallest = min(torch.cuda.get_device_properties(gpu).total_memory for gpu in used)
    share = smallest / math.ceil(workers / gpus)
    return max(int(min(USABLE_SHARE * share, share - WORKER_BYTES)), 0)
