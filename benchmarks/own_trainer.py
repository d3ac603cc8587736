"""A training script that knows nothing of this package, searched by `task=command`: front, law and recipe.

    python benchmarks/own_trainer.py --script nanoGPT/train.py

The script is one of nanoGPT's manner (github.com/karpathy/nanoGPT): `--n_layer=...` overrides, the text in
`data/NAME/train.bin`, a line `step 100: train loss 2.1, val loss 2.3`. It is run as it is, from a folder of
links to what lies beside it, on bytes of the documentation that comes with Python. The baseline is the recipe
for a CPU in nanoGPT's README, cut to the FLOPs of the dearest run that the search may make. Writes
`own_trainer.json`.
"""

import argparse
import json
import pickle
import pydoc_data.topics
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from carbs_scaling.compute.flops import flops_per_token
from carbs_scaling.config import StudyConfig
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.models.family import ModelShape

SEQUENCE, HEAD, VOCABULARY = 64, 32, 256
CONVENTION = "6N+head+attention"
PATTERN = r"step (?P<step>\d+): train loss (?P<train_loss>\S+), val loss (?P<loss>\S+)"
# README of nanoGPT, "I only have a macbook": 4 layers of width 128, batch 12, and the rate of its config.
README = {"depth": 4, "width": 128, "batch": 12, "learning_rate": 1e-3}
FIXED = (
    "--dataset=bytes --device={device} --compile=False --dropout=0.0 --eval_iters=20 --log_interval=1000000 "
    "--gradient_accumulation_steps=1 --always_save_checkpoint=False --beta2=0.99"
)


def command(script: str) -> str:
    """The command of a trial."""
    iterations = f"int(tokens / (batch * {SEQUENCE}))"
    return (
        f"{sys.executable} {script} {FIXED} --out_dir={{folder}} --block_size={SEQUENCE} "
        f"--batch_size={{batch}} --n_layer={{depth}} --n_head={{width // {HEAD}}} --n_embd={{width}} "
        "--learning_rate={learning_rate} "
        f"--min_lr={{learning_rate / 10}} --max_iters={{{iterations}}} --lr_decay_iters={{{iterations}}} "
        f"--eval_interval={{{iterations}}} --warmup_iters={{{iterations} // 10}}"
    )


def prepare(script: Path, folder: Path) -> None:
    """A folder of links to the script's own, with the text beside them."""
    data = folder / "data" / "bytes"
    data.mkdir(parents=True, exist_ok=True)
    for path in script.resolve().parent.iterdir():
        link = folder / path.name
        if path.name != "data" and not link.exists():
            link.symlink_to(path)
    text = np.frombuffer("\n".join(pydoc_data.topics.topics.values()).encode(), np.uint8).astype(np.uint16)
    held_out = len(text) // 10
    text[:-held_out].tofile(data / "train.bin")
    text[-held_out:].tofile(data / "val.bin")
    # The script's own format for the size of a vocabulary.
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": VOCABULARY}))


def search(script: str, folder: Path, budget_flops: float, share: float, workers: int) -> Study:
    """The study, begun or gone on with."""
    overrides = [
        *("task=command", "study.name=own", f"study.directory={folder / 'studies'}"),
        *(
            f"task.command={command(script)}",
            f"task.metric.pattern={PATTERN}",
            f"task.working_directory={folder}",
        ),
        "space.width={low: 32, high: 192, log: true, multiple_of: 32}",
        "space.depth={low: 1, high: 4, log: true, integer: true}",
        "space.batch=[4,8,12,16,32]",
        "space.learning_rate={low: 3e-4, high: 3e-2, log: true}",
        "space.tokens={low: 2e4, high: 1e6, log: true}",
        *("task.shape.architecture=gpt2", f"task.shape.head_size={HEAD}"),
        *(f"task.shape.vocabulary_size={VOCABULARY}", f"task.shape.sequence_length={SEQUENCE}"),
        *(f"task.shape.flops_convention={CONVENTION}", f"task.roles.batch_tokens=batch * {SEQUENCE}"),
        f"task.allowed=tokens >= 10 * batch * {SEQUENCE}",
        *(
            f"budget.flops={budget_flops}",
            f"budget.max_trial_fraction={share}",
            "budget.trial_overhead_flops=2e10",
        ),
        *("executor.device=cpu", f"executor.workers={workers}", "task.metric.unit=nats/byte"),
    ]
    subprocess.run([sys.executable, "-m", "carbs_scaling.cli", "search", *overrides], check=True)
    return Study.load(StudyConfig("own", str(folder / "studies"), None, 0))


def readme_loss(script: str, folder: Path, flops: float) -> float:
    """The loss of the README's recipe, with as many iterations as the FLOPs pay for."""
    shape = ModelShape("gpt2", README["width"], README["depth"], HEAD, VOCABULARY, SEQUENCE)
    tokens = flops / flops_per_token(shape, CONVENTION)
    values = {**README, "tokens": tokens, "folder": str(folder / "readme"), "device": "cpu"}
    from carbs_scaling.tasks.programs.words import Words

    words = Words(command(script), "the command", frozenset(values)).filled(values)
    said = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    return float(re.findall(PATTERN, said)[-1][2])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--script", required=True, help="train.py of nanoGPT, or one of its manner")
    parser.add_argument("--folder", default="own_trainer", help="for the data and the study")
    parser.add_argument("--budget-flops", type=float, default=1e12)
    parser.add_argument("--max-trial-fraction", type=float, default=0.2)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    script, folder = Path(given.script), Path(given.folder).resolve()
    prepare(script, folder)
    study = search(script.name, folder, given.budget_flops, given.max_trial_fraction, given.workers)
    records = study.records()
    at = given.budget_flops * given.max_trial_fraction
    best = min((record for record in records if record.completed), key=lambda record: record.loss)
    baseline = readme_loss(script.name, folder, at)
    result = {
        "script": str(script),
        "trials": len(records),
        "completed": sum(record.completed for record in records),
        "spent_flops": spent_flops(records),
        "best": {"loss": best.loss, "flops": best.flops, **best.point},
        "readme": {"loss": baseline, "flops": at},
    }
    (folder / "own_trainer.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
