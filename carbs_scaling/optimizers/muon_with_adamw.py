"""PyTorch's Muon and AdamW as one optimizer, for schedulers and checkpoints."""

from collections.abc import Callable
from typing import Any

import torch

from carbs_scaling.optimizers.optimizer import Hyperparameters, ParameterGroups


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon on the groups that are `hidden`, AdamW on the others.

    Groups and state are those of the two optimizers themselves, so that a scheduler, `state_dict` and
    `load_state_dict` reach both.

    Args:
        groups: each with `params`, `lr`, `weight_decay`, `eps` and `hidden`.
        hyperparameters: for both.
    """

    def __init__(self, groups: ParameterGroups, hyperparameters: Hyperparameters) -> None:
        beta1, ratio = hyperparameters.beta1, hyperparameters.adamw_rate_ratio
        # Muon's own eps is another: that of a norm.
        hidden = [{k: v for k, v in g.items() if k not in ("eps", "hidden")} for g in groups if g["hidden"]]
        others = [
            {k: v for k, v in g.items() if k != "hidden"} | {"lr": ratio * g["lr"]}
            for g in groups
            if not g["hidden"]
        ]
        self._parts: list[torch.optim.Optimizer] = []
        if hidden:
            self._parts.append(
                torch.optim.Muon(
                    hidden,
                    momentum=beta1,
                    nesterov=hyperparameters.nesterov,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self._parts.append(torch.optim.AdamW(others, betas=(beta1, hyperparameters.beta2), fused=True))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give the parts our groups and our state."""
        begin = 0
        for part in self._parts:
            end = begin + len(part.param_groups)
            part.param_groups = self.param_groups[begin:end]
            part.state = self.state
            begin = end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As PyTorch's, for both."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss
