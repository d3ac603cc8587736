"""Tasks: what a trial is. One module a task."""

from carbs_scaling.registry import Registry

TASKS = Registry(
    "carbs_scaling.tasks",
    "TASK",
    "task.name",
    shared=frozenset(
        {
            "task",
            "trained_model",
            "pretraining_config",
            "pretraining_memory",
            "pretraining_overrides",
            "pretraining_recipe",
            "pretraining_space",
            "pretraining_time",
            "programs",
            "trunks",
        }
    ),
)
