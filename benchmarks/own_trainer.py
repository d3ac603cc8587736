"""A training script that knows nothing of this package, searched by `task=command`: front, law and recipe.

    pip install trl && python benchmarks/own_trainer.py
    python benchmarks/own_trainer.py --script nanoGPT/train.py

By default it is `trl/scripts/sft.py` as the package `trl` ships it (github.com/huggingface/trl), from random
weights; the baseline is the script with its own defaults of rate and batch. A script that is given is one of
nanoGPT's manner (github.com/karpathy/nanoGPT): `--n_layer=...` overrides, the text in `data/NAME/train.bin`,
a line `step 100: train loss 2.1, val loss 2.3`; the baseline is the recipe for a CPU in nanoGPT's README.
Either is run as it is, on bytes of the documentation that comes with Python, and the baseline is cut to the
FLOPs of the dearest run that the search may make. Writes `own_trainer.json`.
"""

import argparse
import json
import os
import pickle
import pydoc_data.topics
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.config import StudyConfig
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.models.build import build_model
from carbs_scaling.models.family import ModelShape
from carbs_scaling.tasks.programs.words import Words
from carbs_scaling.training.saved_model import byte_tokenizer, save_model

OFFLINE = {"HF_HUB_OFFLINE": "1"}  # all that a script of transformers needs lies in the folder
SEQUENCE, HEAD, VOCABULARY = 64, 32, 256
WIDTHS, DEPTHS = range(32, 193, 32), range(1, 5)
CONVENTION = "6N+head+attention"
STEPS = f"int(tokens / (batch * {SEQUENCE}))"


@dataclass(frozen=True)
class Script:
    """A training script, and how it is used.

    Args:
        command: of a trial.
        pattern: of its held-out loss in a line of output.
        curve: of its training loss, or None where the first pattern has it.
        baseline: what somebody who tunes nothing takes.
        prepare: puts what it needs into a folder.
    """

    command: str
    pattern: str
    curve: str | None
    baseline: dict
    prepare: Callable[[Path], None]


def trl(folder: Path) -> Script:
    """The script for supervised fine-tuning that `trl` ships, which here trains models of random weights.

    Raises:
        SystemExit: `trl` is not installed.
    """
    found = find_spec("trl")
    if found is None or found.origin is None:
        raise SystemExit("pip install trl, or give --script, such as nanoGPT's train.py")
    script = Path(found.origin).parent / "scripts" / "sft.py"

    def prepare(folder: Path) -> None:
        texts = list(pydoc_data.topics.topics.values())
        held_out = len(texts) // 10
        (folder / "text").mkdir(exist_ok=True)
        for split, part in (("train", texts[held_out:]), ("test", texts[:held_out])):
            lines = "".join(json.dumps({"text": text}) + "\n" for text in part)
            (folder / "text" / f"{split}.jsonl").write_text(lines)
        for width in WIDTHS:
            for depth in DEPTHS:
                model = build_model(shape_of(width, depth), seed=0)
                save_model(model, byte_tokenizer(), folder / "models" / f"{width}x{depth}")

    command = (
        f"{sys.executable} {script} --model_name_or_path={folder}/models/{{width}}x{{depth}} "
        f"--dataset_name={folder}/text --max_length={SEQUENCE} --packing=true --packing_strategy=wrapped "
        "--learning_rate={learning_rate} --per_device_train_batch_size={batch} "
        f"--max_steps={{{STEPS}}} --eval_strategy=steps --eval_steps={{{STEPS}}} "
        "--per_device_eval_batch_size=64 --output_dir={folder} --save_strategy=no --report_to=none "
        "--use_cpu=true --bf16=false --gradient_checkpointing=false --disable_tqdm=true --seed={seed}"
    )
    # The defaults of its `SFTConfig`.
    baseline = {"depth": 4, "width": 128, "batch": 8, "learning_rate": 2e-5}
    loss, rate, tokens = (f"'?(?P<{name}>[\\w.+-]+)" for name in ("loss", "learning_rate", "tokens"))
    held_out = f"'eval_loss': {loss}.*'eval_num_tokens': {tokens}"
    training = f"'loss': {loss}.*'learning_rate': {rate}.*'num_tokens': {tokens}"
    return Script(command, held_out, training, baseline, prepare)


def nanogpt(script: Path) -> Script:
    """A script of nanoGPT's manner."""

    def prepare(folder: Path) -> None:
        data = folder / "data" / "bytes"
        data.mkdir(parents=True, exist_ok=True)
        for path in script.resolve().parent.iterdir():
            link = folder / path.name
            if path.name != "data" and not link.exists():
                link.symlink_to(path)
        text = np.frombuffer("\n".join(pydoc_data.topics.topics.values()).encode(), np.uint8).astype(
            np.uint16
        )
        held_out = len(text) // 10
        text[:-held_out].tofile(data / "train.bin")
        text[-held_out:].tofile(data / "val.bin")
        # The script's own format for the size of a vocabulary.
        (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": VOCABULARY}))

    command = (
        f"{sys.executable} {script.name} --dataset=bytes --device={{device}} --compile=False --dropout=0.0 "
        "--eval_iters=20 --log_interval=1000000 --gradient_accumulation_steps=1 "
        f"--always_save_checkpoint=False --beta2=0.99 --out_dir={{folder}} --block_size={SEQUENCE} "
        f"--batch_size={{batch}} --n_layer={{depth}} --n_head={{width // {HEAD}}} --n_embd={{width}} "
        "--learning_rate={learning_rate} "
        f"--min_lr={{learning_rate / 10}} --max_iters={{{STEPS}}} --lr_decay_iters={{{STEPS}}} "
        f"--eval_interval={{{STEPS}}} --warmup_iters={{{STEPS} // 10}}"
    )
    pattern = r"step (?P<step>\d+): train loss (?P<train_loss>\S+), val loss (?P<loss>\S+)"
    # README of nanoGPT, "I only have a macbook": 4 layers of width 128, batch 12, and the rate of its config.
    return Script(
        command, pattern, None, {"depth": 4, "width": 128, "batch": 12, "learning_rate": 1e-3}, prepare
    )


def shape_of(width: int, depth: int) -> ModelShape:
    """A GPT-2 of that size."""
    return ModelShape("gpt2", width, depth, HEAD, VOCABULARY, SEQUENCE)


def search(script: Script, folder: Path, budget_flops: float, share: float, workers: int) -> Study:
    """The study, begun or gone on with."""
    overrides = [
        *("task=command", "study.name=own", f"study.directory={folder / 'studies'}"),
        *(f"task.command={script.command}", f"task.metric.pattern={script.pattern}"),
        *([] if script.curve is None else [f"task.curve.pattern={script.curve}"]),
        *(f"task.working_directory={folder}", "task.keep=front"),
        *(f"task.environment.{name}='{value}'" for name, value in OFFLINE.items()),
        f"space.width={{low: {WIDTHS[0]}, high: {WIDTHS[-1]}, log: true, multiple_of: {HEAD}}}",
        f"space.depth={{low: {DEPTHS[0]}, high: {DEPTHS[-1]}, log: true, integer: true}}",
        "space.batch=[4,8,12,16,32]",
        "space.learning_rate={low: 3e-4, high: 3e-2, log: true}",
        "space.tokens={low: 2e4, high: 1e6, log: true}",
        *("task.shape.architecture=gpt2", f"task.shape.head_size={HEAD}"),
        *(f"task.shape.vocabulary_size={VOCABULARY}", f"task.shape.sequence_length={SEQUENCE}"),
        *(f"task.shape.flops_convention={CONVENTION}", f"task.roles.batch_tokens=batch * {SEQUENCE}"),
        f"task.allowed=tokens >= 10 * batch * {SEQUENCE}",
        *(f"budget.flops={budget_flops}", f"budget.max_trial_fraction={share}"),
        # The start of such a script takes as long as most of these runs.
        *("budget.min_trial_fraction=0", f"budget.trial_overhead_flops={budget_flops / 20}"),
        *(f"executor={'in_process' if workers == 1 else 'processes'}", f"executor.workers={workers}"),
        *("executor.device=cpu", "task.metric.unit=nats/byte"),
    ]
    subprocess.run([sys.executable, "-m", "carbs_scaling.cli", "search", *overrides], check=True)
    return Study.load(StudyConfig("own", str(folder / "studies"), None, 0))


def baseline_loss(script: Script, folder: Path, flops: float) -> float:
    """The loss of the baseline, with as many steps as the FLOPs pay for."""
    shape = shape_of(script.baseline["width"], script.baseline["depth"])
    tokens = flops / flops_per_token(shape, CONVENTION)
    of_trial = {"folder": str(folder / "baseline"), "device": "cpu", "seed": 0}
    values = {**script.baseline, "tokens": tokens, **of_trial}
    words = Words(script.command, "the command", frozenset(values)).filled(values)
    environment = {**os.environ, **OFFLINE}
    ran = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    said = ran.stdout
    return float(list(re.finditer(script.pattern, said))[-1]["loss"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--script", help="train.py of nanoGPT, or one of its manner; else trl's sft.py")
    parser.add_argument("--folder", default="own_trainer", help="for the data and the study")
    parser.add_argument("--budget-flops", type=float, default=1e12)
    parser.add_argument("--max-trial-fraction", type=float, default=0.2)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    folder = Path(given.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    script = trl(folder) if given.script is None else nanogpt(Path(given.script))
    script.prepare(folder)
    study = search(script, folder, given.budget_flops, given.max_trial_fraction, given.workers)
    records = study.records()
    at = given.budget_flops * given.max_trial_fraction
    best = min((record for record in records if record.completed), key=lambda record: record.loss)
    result = {
        "command": script.command,
        "trials": len(records),
        "completed": sum(record.completed for record in records),
        "spent_flops": spent_flops(records),
        "best": {"loss": best.loss, "flops": best.flops, **best.point},
        "baseline": {"loss": baseline_loss(script, folder, at), "flops": at, **script.baseline},
    }
    (folder / "own_trainer.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
