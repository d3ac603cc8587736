"""The loss over a large vocabulary, whole and in parts: time in and outside of the kernel, and page faults.

    python benchmarks/cross_entropy.py [--vocabulary-size 50257] [--tokens 1024] [--widths 32 128]

Processor seconds, not wall time: other work on the machine changes them little. One thread, forward and
backward, the mean of some steps.
"""

import argparse
import resource
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy, linear

from carbs_scaling.models.cross_entropy import linear_cross_entropy

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
STEPS = 4


def whole(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """All scores at once."""
    return cross_entropy(linear(hidden, weight), targets)


def in_parts(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of `models.cross_entropy`, which training takes: a part of the scores at a time."""
    return linear_cross_entropy(hidden, weight, targets, "mean")


def measure(loss: Loss, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> list[float]:
    """Milliseconds outside of and in the kernel, and page faults, a step."""
    for step in range(STEPS + 1):
        if step == 1:  # the first allocates
            before = resource.getrusage(resource.RUSAGE_SELF)
        hidden.grad = weight.grad = None
        loss(hidden, weight, targets).backward()
    after = resource.getrusage(resource.RUSAGE_SELF)
    totals = (
        1e3 * (after.ru_utime - before.ru_utime),
        1e3 * (after.ru_stime - before.ru_stime),
        float(after.ru_minflt - before.ru_minflt),
    )
    return [total / STEPS for total in totals]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary-size", type=int, default=50_257)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print("width loss      user_ms  kernel_ms  page_faults")
    for width in arguments.widths:
        hidden = torch.randn(arguments.tokens, width, generator=generator).requires_grad_()
        weight = (0.02 * torch.randn(arguments.vocabulary_size, width, generator=generator)).requires_grad_()
        targets = torch.randint(arguments.vocabulary_size, (arguments.tokens,), generator=generator)
        for name, loss in (("whole", whole), ("in parts", in_parts)):
            user, kernel, faults = measure(loss, hidden, weight, targets)
            print(f"{width:5} {name:9} {user:7.0f} {kernel:10.0f} {faults:12,.0f}", flush=True)


if __name__ == "__main__":
    main()
