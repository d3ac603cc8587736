"""One training step on a GPU: milliseconds, FLOPs a second, memory, and the kernels that take longest.

    python benchmarks/step_profile.py --shape 1024x16x32 --vocabulary-size 50257 [--compile] [--kernels]

Unlike `training_throughput.py` it leaves out what compiling takes, which is printed by itself.
"""

import argparse
import time

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.training.step import TrainingStep
from carbs_scaling.training.step_building import compiled_model

CONVENTION = "6N+head+attention"
STEPS, KERNELS = 5, 14


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="gpt2")
    parser.add_argument("--shape", default="1024x16x32", help="WIDTHxDEPTHxSEQUENCES")
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument("--sequence-length", type=int, default=1024)
    parser.add_argument("--vocabulary-size", type=int, default=50257)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--kernels", action="store_true", help="list the kernels that take longest")
    arguments = parser.parse_args()
    width, depth, sequences = map(int, arguments.shape.split("x"))
    words, length = arguments.vocabulary_size, arguments.sequence_length
    shape = ModelShape(arguments.architecture, width, depth, arguments.head_size, words, length)
    model = build_model(shape, 0).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    batch = torch.randint(words, (sequences, length + 1), device="cuda")
    begun = time.perf_counter()
    forward = compiled_model(model, sequences * length) if arguments.compile else model
    step = TrainingStep(forward, optimizer, sequences, clip_norm=1.0)

    def seconds(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step(batch)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / steps

    seconds(3)
    print(f"first steps: {time.perf_counter() - begun:.1f} s")
    took = seconds(STEPS)
    rate = flops_per_token(shape, CONVENTION) * sequences * length / took
    held = torch.cuda.max_memory_allocated() / 1e9
    print(f"{1e3 * took:.1f} ms a step, {rate / 1e12:.1f} TFLOP/s, {held:.1f} GB held at most")
    if not arguments.kernels:
        return
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        seconds(1)
    kernels = [event for event in profiled.key_averages() if event.device_type == DeviceType.CUDA]
    for event in sorted(kernels, key=lambda e: -e.self_device_time_total)[:KERNELS]:
        print(f"{event.self_device_time_total / 1e3:8.2f} ms {event.count:4d} x {event.key[:95]}")


if __name__ == "__main__":
    main()
