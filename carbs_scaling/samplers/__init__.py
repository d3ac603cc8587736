"""What is run next: samplers by name, ours (`carbs`) and the baselines that it is compared with."""

from carbs_scaling.registry import Registry

SAMPLERS = Registry(
    "carbs_scaling.samplers",
    "SAMPLER",
    "sampler.name",
    shared=frozenset(
        {
            "candidates",
            "checks",
            "front_search",
            "look_ahead",
            "options",
            "projected",
            "sampler",
            "stopping",
            "target_search",
        }
    ),
    groups=("baselines",),
)
