"""Executors: where trials run. One module an executor."""

from carbs_scaling.registry import Registry

EXECUTORS = Registry(
    "carbs_scaling.executors",
    "EXECUTOR",
    "executor.name",
    shared=frozenset({"executor", "memory", "attempts", "parcel", "queues"}),
)
