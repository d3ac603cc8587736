"""A callback of the transformers `Trainer` by which a law sets the learning rate of a run.

Trainer(model, arguments, callbacks=[LawSchedule("law.json", sequence_length=1024)])
"""

from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from carbs_scaling.errors import ConfigError
from carbs_scaling.laws.prior.published import PublishedLaw
from carbs_scaling.laws.scaling_law import LawsByOptimizer, ScalingLaw
from carbs_scaling.models.measured import block_matrices
from carbs_scaling.training.law_scheduler import law_scheduler


class LawSchedule(TrainerCallback):
    """Puts the law's peak, warmup and decay in the place of `learning_rate` and `lr_scheduler_type`.

    N is counted from the model, D and the batch follow from the arguments of the training.

    Args:
        law: what `fit_law` returns, its JSON file, or a published law's name.
        sequence_length: tokens of one example.
        params: N, where it is not that of `non_embedding_params`.
        choices: further arguments of `law_scheduler`, such as `shape`.
    """

    def __init__(
        self,
        law: ScalingLaw | LawsByOptimizer | PublishedLaw | str | Path,
        sequence_length: int,
        params: float | None = None,
        **choices: Any,
    ) -> None:
        self._law, self._sequence_length, self._params, self._choices = law, sequence_length, params, choices

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Sets the schedule of a run that begins or goes on.

        Raises:
            LawError: the law does not answer.
            ConfigError: a scheduler that is no function of the step.
        """
        # Without what accelerate has wrapped them in.
        optimizer = getattr(given["optimizer"], "optimizer", given["optimizer"])
        scheduler = getattr(given["lr_scheduler"], "scheduler", given["lr_scheduler"])
        if not isinstance(scheduler, LambdaLR):
            raise ConfigError("LawSchedule needs a scheduler by steps: set lr_scheduler_type='linear'")
        examples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        batch_tokens = examples * self._sequence_length
        params = non_embedding_params(given["model"]) if self._params is None else self._params
        step = scheduler.last_epoch
        ours = law_scheduler(
            optimizer,
            self._law,
            params=params,
            tokens=state.max_steps * batch_tokens,
            batch_tokens=batch_tokens,
            **self._choices,
        )
        # The trainer goes on with its own object, which a checkpoint may have brought to some step.
        scheduler.base_lrs, scheduler.lr_lambdas = ours.base_lrs, ours.lr_lambdas
        for group, base, factor in zip(optimizer.param_groups, ours.base_lrs, ours.lr_lambdas, strict=True):
            group["lr"] = base * factor(step)
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def non_embedding_params(model: torch.nn.Module) -> int:
    """N of a model: its weight matrices, without embeddings and the head that turns states into logits."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    excluded = set() if head is None else {id(head.weight)}
    return sum(weights.numel() for weights in block_matrices(model, excluded))
