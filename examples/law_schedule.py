"""A learning-rate scheduler that follows a scaling law: `python examples/law_schedule.py`.

Small networks that continue the bytes of a Python module are swept over learning rate and batch, a law is
fitted to those runs, and a network four times wider is trained at the peak that the law gives it.
"""

import inspect
import itertools

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from carbs_scaling import fit_law, law_scheduler

WINDOW = 8
TEXT = torch.tensor(list(inspect.getsource(inspect).encode())).unfold(0, WINDOW + 1, 1)


def train(width: int, tokens: int, batch: int, schedule) -> float:
    """Mean loss of the last tenth of a run; `schedule` makes a scheduler for an optimizer."""
    torch.manual_seed(0)
    first, second = nn.Linear(16 * WINDOW, width), nn.Linear(width, 256)
    model = nn.Sequential(nn.Embedding(256, 16), nn.Flatten(), first, nn.GELU(), second)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), fused=True)
    scheduler, losses = schedule(optimizer), []
    for _ in range(tokens // batch):
        sample = TEXT[torch.randint(len(TEXT), (batch,))]
        losses.append(nn.functional.cross_entropy(model(sample[:, :-1]), sample[:, -1]))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
        scheduler.step()
    return torch.stack(losses[-len(losses) // 10 :]).mean().item()


def straight_down(peak: float, steps: int):
    """A linear decay from a peak (AdamW's own learning rate is 1e-3)."""
    return lambda optimizer: LambdaLR(optimizer, lambda step: peak / 1e-3 * max(0.0, 1 - step / steps))


if __name__ == "__main__":
    runs = []
    for width, tokens, batch in itertools.product((8, 16, 32), (5_120, 20_480), (64, 256)):
        for peak in (5e-3, 1e-2, 2e-2, 4e-2):
            loss = train(width, tokens, batch, straight_down(peak, tokens // batch))
            runs.append((384 * width, tokens, peak, batch, loss))  # 16 x 8 + 256 weights a unit
    names = ("params", "tokens", "learning_rate", "batch_tokens", "loss")
    law = fit_law(dict(zip(names, zip(*runs, strict=True), strict=True)), check=False)
    print(law.formula())
    # A law's peak is for schedules of the shape that its runs had.
    target = {"params": 384 * 128, "tokens": 40_960, "batch_tokens": 128, "shape": "linear"}
    loss = train(128, 40_960, 128, lambda optimizer: law_scheduler(optimizer, law, **target))
    print(f"four times wider, by the law: loss {loss:.3f}")
    for peak in (5e-3, 1e-2, 2e-2, 4e-2):
        print(f"  peak {peak:g}: loss {train(128, 40_960, 128, straight_down(peak, 320)):.3f}")
