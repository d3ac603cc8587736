"""Checkpoints in the middle of a run: safetensors for tensors, JSON for the rest, nothing pickled.

A checkpoint is two files, STEP.safetensors and STEP.json. The second is written last, into place in one
step, and holds the length and the hash of the first: a checkpoint is whole or it is not there. The last two
are kept, so that a damaged one falls back to the one before.

There is no random state to keep: initial weights and the order of the windows follow from the seed and the
step, and no step draws a random number (no family has dropout).
"""

import json
import logging
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.files import write_atomically

logger = logging.getLogger(__name__)

FORMAT = 2
KEPT = 2


@dataclass(frozen=True)
class CheckpointPlan:
    """Where a run's checkpoints go and how often; picklable.

    Args:
        folder: of this run alone.
        minutes: between two; 0 for one at every reading of the loss.
        run: what the run is (`run_identity`); a checkpoint of another is not used.
    """

    folder: str
    minutes: float
    run: str


@dataclass(frozen=True)
class Checkpoint:
    """A run after some of its steps.

    Args:
        step: optimizer steps done.
        state: what else the loop needs to go on, plain JSON.
        tensors: weights and optimizer state, by name.
    """

    step: int
    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]


class TrunkLost(Exception):
    """The state that a run begins with cannot be read."""


def run_identity(*parts: Any) -> str:
    """A hash of what a run is, from plain JSON values."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def save_checkpoint(plan: CheckpointPlan, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and drop all but the last two.

    Raises:
        CarbsScalingError: no space, or any other refusal of the system. Earlier checkpoints stay.
    """
    folder = Path(plan.folder)
    name = f"{checkpoint.step:010d}"
    file, temporary = folder / f"{name}.safetensors", folder / f".{name}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            safetensors.torch.save_file(checkpoint.tensors, temporary)
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            meta = {
                "format": FORMAT,
                "run": plan.run,
                "step": checkpoint.step,
                "bytes": temporary.stat().st_size,
                "sha256": _file_hash(temporary),
                "state": checkpoint.state,
            }
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CarbsScalingError(
            f"cannot write a checkpoint in {folder} ({reason}): free some space and run the same command "
            "again, or set training.checkpoint_minutes=null"
        ) from error
    write_atomically(folder / f"{name}.json", json.dumps(meta).encode())
    for old in _steps(folder)[KEPT:]:
        (folder / f"{old}.json").unlink(missing_ok=True)
    kept = set(_steps(folder))
    for tensors in folder.glob("*.safetensors"):
        if tensors.stem not in kept:
            tensors.unlink(missing_ok=True)


def load_checkpoint(plan: CheckpointPlan) -> Checkpoint | None:
    """The last whole checkpoint of the run; None where there is none.

    One that is cut short, garbled or of another run is passed over with a line in the log.
    """
    folder = Path(plan.folder)
    for name in _steps(folder):
        checkpoint, trouble = _read(folder, name, plan.run)
        if checkpoint is not None:
            return checkpoint
        logger.warning("checkpoint %s in %s is not used: %s", name, folder, trouble)
    return None


def begun_by_parent(plan: CheckpointPlan, trunk: Checkpoint | None) -> Checkpoint:
    """A state that a shorter run left as the first of another run, whose seconds are its own.

    Raises:
        TrunkLost: there is none.
    """
    if trunk is None:
        raise TrunkLost(f"there is no whole state in {plan.folder}")
    return Checkpoint(trunk.step, {**trunk.state, "seconds": 0.0, "has_saved": False}, trunk.tensors)


def _read(folder: Path, name: str, run: str) -> tuple[Checkpoint | None, str]:
    """A checkpoint, or None and why it cannot be used."""
    file = folder / f"{name}.safetensors"
    try:
        meta = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            return None, "its JSON is of another format"
        if meta["run"] != run:
            return None, "it is of another run"
        size = file.stat().st_size
        if size != meta["bytes"]:
            return None, f"it has {size:,} bytes of {meta['bytes']:,}"
        if _file_hash(file) != meta["sha256"]:
            return None, "its content is garbled (sha256)"
        return Checkpoint(meta["step"], meta["state"], safetensors.torch.load_file(file)), ""
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        return None, str(error) or type(error).__name__


def _steps(folder: Path) -> list[str]:
    """Names of the checkpoints in a folder, newest first."""
    return sorted((file.stem for file in folder.glob("[0-9]*.json")), reverse=True)


def _file_hash(file: Path) -> str:
    digest = sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def run_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and optimizer state by name; a tied weight once."""
    tensors = {
        f"model.{name}": p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad
    }
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{name}"] = value.detach().contiguous()
    return tensors


def restore_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """The inverse of `run_tensors`, for a model and an optimizer made anew."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"model.{name}"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        if part == "optimizer":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
