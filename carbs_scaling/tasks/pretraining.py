"""Pretraining of language models: the loss on held-out text against training FLOPs."""

from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.data.token_files import prepare_text
from carbs_scaling.tasks.pretraining_config import PretrainingConfig
from carbs_scaling.tasks.trained_model import TrainedModel


class Pretraining(TrainedModel):
    """Trains language models on a text. See `TrainedModel`."""

    config_type = PretrainingConfig
    name = "pretraining"

    @staticmethod
    def prepare(config: PretrainingConfig) -> PreparedText:
        """The token files of the text."""
        return prepare_text(config.data)


TASK = Pretraining
