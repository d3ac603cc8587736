"""The command line: `carbs-scaling VERB overrides...`, each verb a Hydra application over `conf/`.

What can go wrong for a person ends as one line and a non-zero exit. Heavy imports wait until a verb runs.
"""

import difflib
import importlib
import io
import json
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from carbs_scaling import __version__
from carbs_scaling.command_line import PRINTING, SWEEPING, checked
from carbs_scaling.config_keys import configuration_folder, verb_keys
from carbs_scaling.errors import CarbsScalingError, ConfigError, end_at_once
from carbs_scaling.names import OVERRIDES
from carbs_scaling.passwords import cleaned, remember
from carbs_scaling.report.terminal import ready_streams
from carbs_scaling.usage import SHELLS, VERBS, completions, usage, verb_usage

MODULES = {"import": "import_runs"}  # of `commands`, where a verb is a word of Python
# What the same command does once more, by verb.
GOES_ON = {
    "search": "The same command goes on from here.",
    "train": "The same command goes on from the last checkpoint, or begins again where there is none yet.",
}
# Values that are no Hydra syntax: people write them as they are.
FREE_TEXT = (
    r"task\.(?:command|flops|allowed|steps|roles\.\w+|shape\.(?!architecture|flops_convention)\w+"
    r"|(?:metric|curve)\.pattern)|columns\.\w+|search"  # the last of plan: overrides of a search
)
# Keys below which any name may stand.
OPEN_MAPPINGS = r"task\.environment|columns|executor\.(?:resources|parameters)"
UNREAD = re.compile(r"[^\x00-\x7f]|[()#!&;~<>^`]")  # no part of a word in Hydra's syntax
IN_QUOTES = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
FAILED, WRONG_COMMAND = CarbsScalingError.exit_code, ConfigError.exit_code
# The shell's exit codes for a program that Ctrl-C, or a closed pipe such as that of `| head`, has ended.
INTERRUPTED, PIPE_CLOSED = 130, 141
NEAR = 0.7  # similarity from which one word is offered for another
STORAGE = "CARBS_SCALING_STORAGE"  # environment variable for the URL of `study.storage`


def fail(message: str, code: int = FAILED) -> None:
    """Prints one line on standard error, without passwords, and ends the program.

    Of `torchrun`'s processes one a machine prints it.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"carbs-scaling: error: {cleaned(' '.join(message.split()))}", file=sys.stderr)
    _end(code)


def _end(code: int) -> NoReturn:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_at_once(code)
    raise SystemExit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints a traceback without passwords; for `sys.excepthook`."""
    print(cleaned("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def main() -> None:
    """Entry point of the console script."""
    sys.excepthook = _print_uncaught
    # linear_operator, of GPyTorch, compiles on import by what PyTorch is about to drop: no news for the user.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    ready_streams()
    try:
        try:
            _run(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(PIPE_CLOSED) from None


def _run(arguments: list[str]) -> None:
    if not arguments:
        print(usage())
        raise SystemExit(WRONG_COMMAND)
    name, *overrides = arguments
    if name == "help" and overrides[:1] and overrides[0] in VERBS:
        name, overrides = overrides[0], ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version" or "--version" in overrides:
        print(f"carbs-scaling {__version__}")
    elif name == "--complete":
        print("\n".join(completions(" ".join(overrides))))
    elif name == "completion":
        if overrides[:1] not in ([shell] for shell in SHELLS):
            fail(f"say for which shell: carbs-scaling completion {' or '.join(SHELLS)}", WRONG_COMMAND)
        print(SHELLS[overrides[0]])
    elif name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, n=1, cutoff=NEAR)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        fail(f"unknown verb {name!r}: {hint}", WRONG_COMMAND)
    elif "--help" in overrides or "-h" in overrides:
        print(verb_usage(name, overrides))
    elif name != "train" and "TORCHELASTIC_RUN_ID" in os.environ:
        fail(f"torchrun is for train; start carbs-scaling {name} without it", WRONG_COMMAND)
    else:
        _start_verb(name, overrides)


def _start_verb(name: str, overrides: list[str]) -> None:
    # One thread for the coordinator: its thread pool and the workers' would fight over the same cores.
    if name != "train":  # it trains in this very process, alone
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _interrupt)
    logging.raiseExceptions = False  # a log line that a full disk refuses is not worth a traceback
    for text in overrides:
        remember(text)
    try:
        _run_verb(name, checked(overrides))
    except ConfigError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print(f"carbs-scaling: stopped. {GOES_ON.get(name, '')}".rstrip(), file=sys.stderr)
        _end(INTERRUPTED)


def _run_verb(name: str, overrides: list[str]) -> None:
    """Composes the verb's configuration with Hydra and runs it; what can go wrong ends as one line."""
    import hydra
    from omegaconf import DictConfig, OmegaConf

    # `experiment=x` and `+experiment=x` both mean the preset; Hydra itself knows only the second.
    overrides = [f"+{text}" if text.startswith("experiment=") else text for text in overrides]
    if name in ("fit", "recommend"):
        # To Hydra `optimizer` is a folder of `conf/`, which these verbs do not read.
        overrides = [re.sub(r"^optimizer=", "only_optimizer=", text) for text in overrides]
    overrides = [
        part for text in overrides for part in _dimension(_spelt_out(_quoted(_storage_elsewhere(text))))
    ]
    sweeps = bool(SWEEPING & set(overrides))
    failures = Path()  # of a multirun: the exit code of each job that failed
    begun = False

    def job(composed: DictConfig) -> None:
        nonlocal begun
        begun = True
        try:
            # In here, for Hydra announces what it sees raised with lines of its own.
            with _said_in_one_line(name):
                remember(str(OmegaConf.select(composed, "study.storage")))
                importlib.import_module(f"carbs_scaling.commands.{MODULES.get(name, name)}").run(composed)
        except SystemExit as ended:
            if not sweeps:
                raise
            # Returned from, so that Hydra goes on with the next job, in whichever process that is.
            with failures.open("a") as file:
                file.write(f"{ended.code if isinstance(ended.code, int) else FAILED}\n")

    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us instead of Hydra's own printing
    try:
        with ExitStack() as until_done:
            if sweeps:  # Hydra insists on a multirun.yaml with all values
                os.environ[OVERRIDES] = json.dumps(overrides)
                folder = until_done.enter_context(tempfile.TemporaryDirectory(prefix="carbs-scaling-"))
                failures = Path(folder) / "failures"
                overrides.append(f'hydra.sweep.dir="{folder}"')
            if PRINTING & {text.partition("=")[0] for text in overrides}:
                until_done.enter_context(_printed_without_passwords())
            until_done.enter_context(_said_in_one_line(name))
            sys.argv = [f"carbs-scaling {name}", *overrides]
            hydra.main(version_base="1.3", config_path=str(configuration_folder()), config_name=name)(job)()
            if sweeps and failures.exists():
                _end(int(failures.read_text().split()[0]))
    except ValueError as error:
        if begun:
            raise
        # Hydra's word on space=null and the like
        fail(f"cannot compose the configuration: {error}", WRONG_COMMAND)


def _storage_elsewhere(override: str) -> str:
    """`study.storage=URL` with the URL in the environment, where no message or file of Hydra's can show it.

    A URL needs no quotes then, and is never taken for several values of a multirun.
    """
    match = re.fullmatch(r"(\+{0,2}study\.storage=)(.*://.*)", override, flags=re.DOTALL)
    if match is None or "${" in match[2]:
        return override
    url = match[2].strip()
    if url[0] == url[-1] and url[0] in "'\"":
        url = re.sub(r"\\(['\"\\])", r"\1", url[1:-1])
    os.environ[STORAGE] = url
    return f"{match[1]}${{oc.env:{STORAGE}}}"


def _dimension(override: str) -> list[str]:
    """`space.NAME=...` as Hydra can do it: a new name is added, and a list takes the place of a range.

    Whether there is such a dimension is for the task to say. Further options of a cluster are added likewise.
    """
    open_keys = rf"space\.\w+|(?:{OPEN_MAPPINGS})\.\w+|executor\.(?:resources|parameters)"
    match = re.match(rf"({open_keys})=(.*)", override, flags=re.DOTALL)
    if match is None:
        # Several names at once, in braces, are as new to Hydra as each of them.
        return [f"++{override}" if re.match(rf"({OPEN_MAPPINGS})={{", override) else override]
    added = f"++{match[1]}={match[2]}"
    return [f"++{match[1]}=null", added] if match[2].startswith("[") else [added]


def _quoted(override: str) -> str:
    """A command, a formula or a pattern in quotes, so that Hydra reads none of its braces and equal signs."""
    match = re.match(rf"({FREE_TEXT})=(?!null$)(.+)", override, flags=re.DOTALL)
    if match is None or re.fullmatch(IN_QUOTES, match[2], flags=re.DOTALL):
        return override
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), match[2])
    return f"{match[1]}='{text}'"


def _spelt_out(override: str) -> str:
    """A value, or those of a list, in quotes where Hydra cannot read its characters, as in `runs (1).csv`."""
    key, _, value = override.partition("=")
    # Quotes and mappings are Hydra syntax already, and so is a call such as `range(1, 4)`.
    if not UNREAD.search(value) or re.search(r"['\"{}\\]", value) or re.fullmatch(r"\w+\(.*\)", value):
        return override
    words = (f"'{word.strip()}'" if UNREAD.search(word) else word for word in re.split(r"([,\[\]])", value))
    return f"{key}={''.join(words)}"


@contextmanager
def _printed_without_passwords() -> Iterator[None]:
    """Standard output of the body, cleaned."""
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        print(cleaned(text.getvalue()), end="")


@contextmanager
def _said_in_one_line(verb: str) -> Iterator[None]:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        fail(_hydra_message(verb, error), WRONG_COMMAND)
    except CarbsScalingError as error:
        fail(str(error), error.exit_code)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        fail(f"{error.strerror or error}{place}")


def _hydra_message(verb: str, error: Exception) -> str:
    """Hydra's and OmegaConf's many lines as one, with the nearest key or the options that exist."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}: {str(error).splitlines()[0]}"
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        # `base` is what the options of a group share.
        known = ", ".join(name for name in error.options if name != "base")
        return f"{group}={option} is not there: choose from {known}"
    cause = error.__cause__ if error.__cause__ is not None else error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = getattr(cause, "full_key", None)
    if key and any("not in struct" in line or "not in '" in line for line in [*lines, str(cause)]):
        near = difflib.get_close_matches(str(key), [known.name for known in verb_keys(verb).keys], 1, NEAR)
        hint = f"did you mean {near[0]}?" if near else f"see carbs-scaling {verb} --help"
        return f"unknown override {key}: {hint}"
    noise = ("full_key:", "object_type=", "reference_type=", "See https", "Set the environment")
    said = [line for line in lines if not line.startswith(noise)]
    return f"{key}: {' '.join(said)}" if key else " ".join(said)


if __name__ == "__main__":
    main()
