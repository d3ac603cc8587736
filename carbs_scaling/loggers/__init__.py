"""Experiment trackers by name: each is told of every trial that ended. None is needed by default."""

from carbs_scaling.registry import Registry

LOGGERS = Registry("carbs_scaling.loggers", "LOGGER", "logger", shared=frozenset({"logger"}))
