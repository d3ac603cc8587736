"""How a budget would be spent, before anything is run: the search's ladder of sizes, and the run after it.

Sizes, rates, batches and losses are those of published laws; where they disagree, the median stands, and the
least and the greatest are its interval. A law fitted to the search's own runs is to replace them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.compute.memory import training_memory_bytes
from carbs_scaling.compute.throughput import Throughput
from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.prior.published import LAWS, PublishedFloor, PublishedLaw
from carbs_scaling.models.family import ModelShape, checked_options, load_family

# Costs that halve from one to the next, as many runs at each, 1.5 decades of N: the default search buys so
# (its runs by octave of FLOPs from the top: 3, 6, 6, 7, 8, 9, 17).
RUNGS, RUNG_FACTOR = 11, 2.0
# Dearest trial: a tenth of the search, and done in most of its time by one device of many.
MAX_TRIAL_FRACTION, LONGEST_TRIAL_SHARE = 0.1, 0.8
LARGE_WIDTH = 4096  # at which a block's N is about its square, whatever is rounded
ASPECT = 100.0  # width / depth, about that of GPT-3's sizes (arXiv 2005.14165, table 2.1): 64 to 128
SIZES = np.geomspace(1e3, 1e14, 2201)  # N among which an optimum is sought: steps of 1.2%
BF16_BYTES = 2

Interval = tuple[float, float, float]  # median, least, greatest


@dataclass(frozen=True)
class ModelPlan:
    """What all models of a plan share; see `models.family.ModelShape`.

    Raises:
        ConfigError: the family has models of one size only.
    """

    architecture: str
    head_size: int
    vocabulary_size: int
    sequence_length: int
    flops_convention: str
    options: Any = None

    def __post_init__(self) -> None:
        family = load_family(self.architecture)
        if {"width", "depth"} & set(family.fixed_sizes(checked_options(family, self.options))):
            raise ConfigError(f"model={self.architecture} has one size, and a plan is about sizes")

    def shape(self, params: float) -> ModelShape:
        """The legal shape nearest to N with a width of about `ASPECT` depths."""
        wide = self._widths(LARGE_WIDTH)[0]
        block = self._shape(wide, 1).params / wide**2  # 12 for GPT-2
        depth = max(1, round((params / (block * ASPECT**2)) ** (1 / 3)))
        widths = self._widths((params / (block * depth)) ** 0.5)
        return min(
            (self._shape(width, depth) for width in widths),
            key=lambda shape: abs(math.log(shape.params / params)),
        )

    def _widths(self, width: float) -> tuple[int, int]:
        """Legal widths on both sides of one."""
        family = load_family(self.architecture)
        step = family.width_step(checked_options(family, self.options), self.head_size)
        below = max(1, int(width / step))
        return below * step, (below + 1) * step

    def _shape(self, width: int, depth: int) -> ModelShape:
        return ModelShape(
            self.architecture, width, depth, self.head_size, self.vocabulary_size, self.sequence_length,
            self.options,
        )  # fmt: skip


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Args:
        shape: the model.
        tokens: D.
        flops: in the study's convention.
        seconds: on one device.
        runs: how many like it.
    """

    shape: ModelShape
    tokens: float
    flops: float
    seconds: float
    runs: int = 1


@dataclass(frozen=True)
class Plan:
    """A budget, split.

    Args:
        flops: total.
        search_flops: of them for the search.
        devices: how many.
        ladder: of the search, the largest first.
        final: the run after it; its seconds are those of all devices together.
        params: N of the final run by published laws. So too the next four.
        max_trial_fraction: of the search, for its dearest run.
        memory_bytes: of the final run a device, one sequence at once, by how its weights are held.
        throughput: FLOPs a second.
    """

    flops: float
    search_flops: float
    devices: int
    ladder: tuple[PlannedRun, ...]
    final: PlannedRun
    params: Interval
    tokens: Interval
    learning_rate: Interval
    batch_tokens: Interval
    loss: Interval
    max_trial_fraction: float
    memory_bytes: dict[str, float]
    throughput: Throughput

    @property
    def search_seconds(self) -> float:
        """Wall time of the search on all devices, with what its trials take beside training."""
        beside = self.throughput.trial_seconds
        return sum(run.runs * (run.seconds + beside) for run in self.ladder) / self.devices

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second of the final run on all devices."""
        return self.final.tokens / self.final.seconds


def optimal_params(floor: PublishedFloor, flops: float) -> float:
    """N of least loss for C = 6 N D, among `SIZES`: with gamma there is no closed form."""
    tokens = flops / (6 * SIZES)
    return float(SIZES[np.argmin([floor.loss(n, d) for n, d in zip(SIZES, tokens, strict=True)])])


def median_and_range(values: Sequence[float]) -> Interval:
    """The median and the ends of what several laws say."""
    return median(values), min(values), max(values)


def by_laws(quantity: Callable[[PublishedLaw], float | None]) -> Interval:
    """Median and range over the published laws that have a quantity."""
    return median_and_range([value for law in LAWS if (value := quantity(law)) is not None])


def optimal_sizes(flops: float) -> list[float]:
    """Compute-optimal N of each published law of the loss."""
    return [optimal_params(law.floor, flops) for law in LAWS if law.floor is not None]


def planned_run(
    model: ModelPlan, flops: float, throughput: Throughput, devices: int = 1, runs: int = 1
) -> PlannedRun:
    """The compute-optimal run for FLOPs counted in the study's convention.

    Raises:
        ConfigError: so few FLOPs train no model of this family.
    """
    inside = flops  # the 6 N D part: head and attention take the rest
    for _ in range(4):
        shape = model.shape(median(optimal_sizes(inside)))
        cost = flops_per_token(shape, model.flops_convention)
        inside = flops * 6 * shape.params / cost
    tokens = flops / cost
    if tokens < model.sequence_length:
        raise ConfigError(
            f"{flops:.2g} FLOPs do not pay for one sequence of {shape.width} x {shape.depth}: plan more"
        )
    return PlannedRun(shape, tokens, flops, flops / (throughput.at(shape.params) * devices), runs)


def make_plan(
    flops: float,
    share_for_search: float,
    model: ModelPlan,
    throughput: Throughput,
    devices: int,
    optimizer: str,
) -> Plan:
    """Split a budget and size its runs.

    Args:
        flops: of search and final run together, in the study's convention.
        share_for_search: of them.
        model: what all runs share.
        throughput: of one device.
        devices: that work at once: on trials of their own in the search, together in the final run.
        optimizer: its name, for the memory.
    """
    search_flops = share_for_search * flops
    fraction = min(MAX_TRIAL_FRACTION, LONGEST_TRIAL_SHARE / devices)
    costs = fraction * search_flops * RUNG_FACTOR ** -np.arange(RUNGS)
    runs = max(1, int(search_flops / costs.sum()))
    ladder = tuple(planned_run(model, float(cost), throughput, runs=runs) for cost in costs)
    final = planned_run(model, flops - search_flops, throughput, devices)
    n, d = float(final.shape.params), final.tokens
    sizes = median_and_range(optimal_sizes(6 * n * d))
    # Models on several devices keep all scores of a large vocabulary.
    whole, two = (training_memory_bytes(final.shape, n, optimizer, BF16_BYTES, devices > 1) for n in (1, 2))
    kept = two - whole  # of one more sequence
    return Plan(
        flops=flops,
        search_flops=search_flops,
        devices=devices,
        ladder=ladder,
        final=final,
        params=(n, sizes[1], sizes[2]),
        tokens=(d, n * d / sizes[2], n * d / sizes[1]),
        learning_rate=by_laws(lambda law: law.recipe(n, d).learning_rate),
        batch_tokens=by_laws(lambda law: law.recipe(n, d).batch_tokens),
        loss=by_laws(lambda law: law.recipe(n, d).loss),
        max_trial_fraction=fraction,
        memory_bytes={"whole": whole, "sharded": (whole - kept) / devices + kept},
        throughput=throughput,
    )
