"""The command line: `carbs-scaling VERB overrides...`, each verb a Hydra application over `conf/`.

What can go wrong for a person ends as one line and a non-zero exit. Heavy imports wait until a verb runs.
"""

import difflib
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carbs_scaling import __version__
from carbs_scaling.errors import CarbsScalingError, ConfigError


@dataclass(frozen=True)
class Verb:
    """One verb: its line of help and the module whose `run(composed)` does it."""

    help: str
    module: str


VERBS = {
    "plan": Verb("what a budget buys, before anything is run", "carbs_scaling.commands.plan"),
    "search": Verb(
        "spend a FLOP budget on training runs, or go on with a study", "carbs_scaling.commands.search"
    ),
    "front": Verb("the front of a study as a table, a file and plots", "carbs_scaling.commands.front"),
    "compare": Verb(
        "studies side by side, such as a search and its baselines", "carbs_scaling.commands.compare"
    ),
    "fit": Verb("the scaling law of a study or of any table of runs", "carbs_scaling.commands.fit"),
    "curves": Verb(
        "convergence against model size, and the critical batch, from loss curves",
        "carbs_scaling.commands.curves",
    ),
    "recommend": Verb(
        "a recipe with intervals for a model too large to search at", "carbs_scaling.commands.recommend"
    ),
    "train": Verb("one run, from a recipe to a trained model on disk", "carbs_scaling.commands.train"),
}

USAGE = """usage: carbs-scaling VERB [overrides...]

Cost-aware search for language-model scaling: the Pareto front of loss against training FLOPs.

verbs:
{verbs}

examples:
  carbs-scaling plan gpus=8 gpu=h100 hours=72   the split, sizes, time and memory that this buys
  carbs-scaling search                          the default: minutes on a CPU, text that is on every machine
  carbs-scaling search +experiment=smoke        half a minute, to see everything work
  carbs-scaling search study.name=mine budget.flops=1e14 data=files 'data.paths=[corpus/]'
  carbs-scaling front study.name=mine format=csv
  carbs-scaling search study.name=grid sampler=grid     a baseline; also random, sobol, tpe, imbue_carbs, ...
  carbs-scaling compare 'studies=[mine,grid]'   whose front is better, and for how many FLOPs
  carbs-scaling curves study.name=mine          tokens, steps and FLOPs to a loss; the critical batch
  carbs-scaling recommend study.name=mine target.params=7e9 target.tokens=1.4e12
  carbs-scaling train recipe=recipe.json        what recommend format=recipe output=recipe.json wrote

carbs-scaling VERB --help lists the groups and values of a verb; --cfg job prints its configuration."""

# What the same command does once more, by verb.
GOES_ON = {
    "search": "The same command goes on from here.",
    "train": "The same command goes on from the last checkpoint, or begins again where there is none yet.",
}
# Values that are no Hydra syntax: people write them as they are.
FREE_TEXT = (
    r"task\.(?:command|flops|allowed|steps|roles\.\w+|shape\.(?!architecture|flops_convention)\w+"
    r"|(?:metric|curve)\.pattern)"
)
IN_QUOTES = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
INTERRUPTED = 130  # the shell's exit code for Ctrl-C


def configuration_folder() -> Path:
    """`conf/`: inside the package installed from a wheel, beside it in a checkout or editable install."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise CarbsScalingError(
        f"no configuration folder conf/ in or beside {package}: install the package again"
    )


def fail(message: str, code: int = 1) -> None:
    """Prints one line on standard error and ends the program."""
    print(f"carbs-scaling: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(verbs="\n".join(f"  {name:<10}{verb.help}" for name, verb in VERBS.items())))
        return
    if arguments[0] == "--version":
        print(f"carbs-scaling {__version__}")
        return
    name, *overrides = arguments
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        fail(f"unknown verb {name!r}: {hint}", code=2)
    # One thread for the coordinator: its thread pool and the workers' would fight over the same cores.
    if name != "train":  # it trains in this very process, alone
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _interrupt)
    logging.raiseExceptions = False  # a log line that a full disk refuses is not worth a traceback
    try:
        _run_verb(name, overrides)
    except KeyboardInterrupt:
        print(f"carbs-scaling: stopped. {GOES_ON.get(name, '')}".rstrip(), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _run_verb(name: str, overrides: list[str]) -> None:
    """Composes the verb's configuration with Hydra and runs it; what can go wrong ends as one line."""
    import hydra
    from omegaconf import DictConfig

    # `experiment=x` and `+experiment=x` both mean the preset; Hydra itself knows only the second.
    overrides = [f"+{text}" if text.startswith("experiment=") else text for text in overrides]
    if name in ("fit", "recommend"):
        # To Hydra `optimizer` is a folder of `conf/`, which these verbs do not read.
        overrides = [re.sub(r"^optimizer=", "only_optimizer=", text) for text in overrides]
    overrides = [part for text in overrides for part in _dimension(_quoted(text))]
    begun = False

    def job(composed: DictConfig) -> None:
        nonlocal begun
        begun = True
        # In here, for Hydra announces what it sees raised with lines of its own.
        with _said_in_one_line(name):
            importlib.import_module(VERBS[name].module).run(composed)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of Hydra's own printing
    sys.argv = [f"carbs-scaling {name}", *overrides]
    try:
        with _said_in_one_line(name):
            hydra.main(version_base="1.3", config_path=str(configuration_folder()), config_name=name)(job)()
    except ValueError as error:
        if begun:
            raise
        fail(f"cannot compose the configuration: {error}", code=2)  # Hydra's word on space=null and the like


def _dimension(override: str) -> list[str]:
    """`space.NAME=...` as Hydra can do it: a new name is added, and a list takes the place of a range.

    Whether there is such a dimension is for the task to say.
    """
    match = re.match(r"(space\.\w+|task\.environment\.\w+)=(.*)", override, flags=re.DOTALL)
    if match is None:
        return [override]
    added = f"++{match[1]}={match[2]}"
    return [f"++{match[1]}=null", added] if match[2].startswith("[") else [added]


def _quoted(override: str) -> str:
    """A command, a formula or a pattern in quotes, so that Hydra reads none of its braces and equal signs."""
    match = re.match(rf"({FREE_TEXT})=(?!null$)(.+)", override, flags=re.DOTALL)
    if match is None or re.fullmatch(IN_QUOTES, match[2], flags=re.DOTALL):
        return override
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), match[2])
    return f"{match[1]}='{text}'"


@contextmanager
def _said_in_one_line(verb: str) -> Iterator[None]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        fail(_hydra_message(verb, error), code=2)
    except ConfigError as error:
        fail(str(error), code=2)
    except CarbsScalingError as error:
        fail(str(error))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        place = f": {error.filename}" if error.filename else ""
        fail(f"{error.strerror or error}{place}")


def _hydra_message(verb: str, error: Exception) -> str:
    """Hydra's and OmegaConf's many lines as one, with the nearest key or the options that exist."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {str(error).splitlines()[0]}"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option} is not there: choose from {', '.join(error.options)}"
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = getattr(cause, "full_key", None)
    if key and any("not in struct" in line or "not in '" in line for line in [*lines, str(cause)]):
        near = difflib.get_close_matches(str(key), _known_keys(verb), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"see carbs-scaling {verb} --cfg job"
        return f"unknown override {key}: {hint}"
    noise = ("full_key:", "object_type=", "reference_type=", "See https", "Set the environment")
    said = [line for line in lines if not line.startswith(noise)]
    return f"{key}: {' '.join(said)}" if key else " ".join(said)


def _known_keys(verb: str) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        values: Any = OmegaConf.to_container(compose(verb))

    def walk(node: Any, prefix: str) -> list[str]:
        if not isinstance(node, dict):
            return []
        return [f"{prefix}{key}" for key in node] + [
            path for key, child in node.items() for path in walk(child, f"{prefix}{key}.")
        ]

    return walk(values, "")


if __name__ == "__main__":
    main()
