"""What the command line says of itself: the verbs, their keys and examples, and what a TAB completes."""

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from carbs_scaling.config_keys import PRESETS, VerbKeys, verb_keys


@dataclass(frozen=True)
class Verb:
    """One verb: its line of help, and examples of its overrides."""

    help: str
    examples: tuple[str, str, str]

    def __post_init__(self) -> None:
        assert len(self.examples) == 3


VERBS = {
    "plan": Verb(
        "what a budget buys, before anything is run",
        (
            "gpus=8 gpu=h100 hours=72",
            "flops=1e21 share_for_search=.1 gpu=h100",
            "probe=true hours=2 gpus=2 output=plans/experiment/mine.yaml",
        ),
    ),
    "search": Verb(
        "spend a FLOP budget on training runs, or go on with a study",
        (
            "+experiment=smoke",
            "study.name=mine budget.flops=1e14 data=files 'data.paths=[corpus/]'",
            "study.name=grid sampler=grid",
        ),
    ),
    "import": Verb(
        "finished runs from elsewhere into a study, which learns from them without paying",
        (
            "runs=runs.csv study.name=mine",
            "runs=wandb.csv study.name=mine columns.learning_rate=lr columns.loss=val_loss",
            "runs=runs.csv study.name=mine columns.batch_size='batch_tokens / 64'",
        ),
    ),
    "status": Verb(
        "what a search is doing, told from another terminal",
        ("study.name=mine", "study.name=mine format=json", "study.name=mine study.directory=/data/studies"),
    ),
    "stop": Verb(
        "end a search from another terminal; the same command goes on later",
        ("study.name=mine", "study.name=mine now=true", "study.name=mine study.directory=/data/studies"),
    ),
    "check": Verb(
        "whether the ledger of a study is whole; mends what can be",
        ("study.name=mine", "study.name=mine mend=true", "study.name=mine study.directory=/data/studies"),
    ),
    "backup": Verb(
        "a whole study as one file",
        (
            "study.name=mine output=mine.zip",
            "study.name=mine output=/backups/mine.zip study.directory=/data/studies",
            "study.name=mine output=mine.zip study.storage=postgresql+psycopg://me@host/db",
        ),
    ),
    "restore": Verb(
        "a study from the file of a backup, on any database",
        (
            "input=mine.zip",
            "input=mine.zip rename=mine-again",
            "input=mine.zip study.storage=postgresql+psycopg://me@host/db",
        ),
    ),
    "front": Verb(
        "the front of a study as a table, a file and plots",
        (
            "study.name=mine",
            "study.name=mine format=csv",
            "study.name=mine format=parquet output=mine.parquet plots=false",
        ),
    ),
    "report": Verb(
        "a study as one page to send to somebody",
        (
            "study.name=mine",
            "study.name=mine target_flops=1e18",
            "study.name=mine format=pdf output=mine.pdf",
        ),
    ),
    "dashboard": Verb(
        "a study in the browser while it runs, for reading only",
        ("study.name=mine", "study.name=mine port=8081", "study.name=mine study.directory=/data/studies"),
    ),
    "compare": Verb(
        "studies side by side, such as a search and its baselines",
        (
            "'studies=[mine,grid]'",
            "'studies=[mine,grid,random]' format=csv output=compared.csv",
            "'studies=[carbs-*,grid-*]' by=sampler",
        ),
    ),
    "fit": Verb(
        "the scaling law of a study or of any table of runs",
        (
            "study.name=mine",
            "runs=runs.csv output=law.json",
            "runs=runs.csv optimizer=adamw 'prior=[Step Law]'",
        ),
    ),
    "curves": Verb(
        "convergence against model size, and the critical batch, from loss curves",
        (
            "study.name=mine",
            "study.name=mine 'levels=[2.4,2.2]'",
            "study.name=mine format=json plots=false",
        ),
    ),
    "schedules": Verb(
        "which learning-rate schedule a run should have, by laws of loss curves",
        (
            "study.name=mine",
            "'curves=[logs/*.csv]' target.steps=100000",
            "'curves=[logs/*.csv]' target.steps=100000 output=plans",
        ),
    ),
    "recommend": Verb(
        "a recipe with intervals for a model too large to search at",
        (
            "study.name=mine target.params=1e7 target.tokens=2e8",
            "runs=runs.csv target.flops=1e22 format=training_arguments",
            "study.name=mine target.params=1e7 target.tokens=2e8 format=recipe output=recipe.json",
        ),
    ),
    "train": Verb(
        "one run, from a recipe to a trained model on disk",
        (
            "recipe=recipe.json",
            "study.name=mine trial=17",
            "recipe=recipe.json space.learning_rate=0.01 train.name=faster",
        ),
    ),
}
FLAGS = """flags:
  --cfg job            print the configuration that would run
  -m, --multirun       a job for each of several values: study.seed=0,1,2
  --config-dir DIR     a folder with presets of your own: DIR/experiment/NAME.yaml"""
FOOT = """carbs-scaling VERB --help lists the keys and groups of a verb.
eval "$(carbs-scaling completion bash)" completes verbs, keys and options with TAB."""
COMPLETION = """_carbs_scaling() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    COMPREPLY=($(carbs-scaling --complete "$line" 2>/dev/null))
    # Bash takes what stands after an "=" as a word of its own.
    if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
}
complete -o nospace -o default -F _carbs_scaling carbs-scaling"""
SHELLS = {"bash": COMPLETION, "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{COMPLETION}"}
_COLUMN = 36  # where comments begin, if the key is not longer


def usage() -> str:
    """Help of the whole program."""
    verbs = "\n".join(f"  {name:<10} {verb.help}" for name, verb in VERBS.items())
    examples = "\n".join(f"  carbs-scaling {name} {verb.examples[0]}" for name, verb in VERBS.items())
    return (
        "usage: carbs-scaling VERB [group=option ...] [key=value ...]\n\n"
        "Cost-aware search for language-model scaling: the Pareto front of loss against training FLOPs.\n\n"
        f"verbs:\n{verbs}\n\nexamples:\n{examples}\n\n{FOOT}"
    )


def verb_usage(name: str, overrides: Sequence[str]) -> str:
    """Help of one verb: its groups and its keys with the options that `overrides` choose, and examples."""
    known = verb_keys(name, dict(text.split("=", 1) for text in overrides if "=" in text))
    width = max(80, shutil.get_terminal_size((110, 24)).columns)
    groups = [_group(group, known, width) for group in known.options if len(known.options[group]) > 1]
    keys = []
    for key in known.keys:
        setting = f"  {key.name}={key.default}".ljust(_COLUMN)
        room = max(width - len(setting) - 1, 12)
        comment = textwrap.shorten(key.comment, room, placeholder="...")
        keys.append(f"{setting} {comment}".rstrip())
    parts = [f"usage: carbs-scaling {name} [group=option ...] [key=value ...]", VERBS[name].help]
    if groups:
        parts.append("\n".join(("groups:", *groups)))
    parts.append("\n".join(("keys, with their defaults:", *keys)))
    parts.append("\n".join(("examples:", *(f"  carbs-scaling {name} {e}" for e in VERBS[name].examples))))
    return "\n\n".join((*parts, FLAGS))


def _group(group: str, known: VerbKeys, width: int) -> str:
    chosen = known.chosen.get(group)
    lead = f"{group}={chosen}" if chosen else f"+{group}=NAME"
    others = ", ".join(option for option in known.options[group] if option != chosen)
    start = f"  {lead:<{_COLUMN - 2}} {'or ' if chosen else ''}"
    return textwrap.fill(others, width, initial_indent=start, subsequent_indent=" " * (_COLUMN + 1))


def completions(line: str) -> list[str]:
    """What the last word of a command line can become.

    Args:
        line: up to the cursor, the program's name included.
    """
    words = line.split(" ")
    word = words[-1]
    if len(words) <= 2:
        return [name for name in VERBS if name.startswith(word)]
    if words[1] not in VERBS:
        return []
    chosen = dict(text.split("=", 1) for text in words[2:-1] if "=" in text)
    known = verb_keys(words[1], chosen)
    name, equals, _ = word.partition("=")
    if equals:
        values = list(known.options.get(name.removeprefix("+"), ()))
        if any(key.name == name and key.default in ("true", "false") for key in known.keys):
            values = ["true", "false"]
        return [f"{name}={value}" for value in values if f"{name}={value}".startswith(word)]
    groups = (f"+{group}" if group == PRESETS else group for group in known.options)
    names = dict.fromkeys((*groups, *(key.name for key in known.keys)))
    return [f"{found}=" for found in names if found.startswith(word)]
