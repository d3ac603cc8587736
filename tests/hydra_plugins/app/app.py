"""Somebody's Hydra app, whose training is a formula."""

import math
import os
import sys

import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    kill_at = os.environ.get("KILL_AT_JOB")
    if kill_at is not None and hydra.core.hydra_config.HydraConfig.get().job.num == int(kill_at):
        os._exit(9)
    if cfg.width == cfg.fails_at:
        raise ValueError("no such width")
    rate = math.log(cfg.opt.learning_rate / cfg.opt.best) ** 2
    return 1.7 + 3 * (12 * cfg.width**2) ** -0.3 + 40 * cfg.tokens**-0.4 + 0.05 * rate


if __name__ == "__main__":
    sys.exit(main())
