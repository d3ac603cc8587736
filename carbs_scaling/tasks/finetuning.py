"""Fine-tuning of a trained language model on rows of prompt and response, whole or by LoRA."""

from carbs_scaling.data.rows import PreparedRows, prepare_rows
from carbs_scaling.tasks.pretraining_config import FinetuningConfig
from carbs_scaling.tasks.trained_model import TrainedModel


class Finetuning(TrainedModel):
    """Trains a model further, on its responses alone. See `TrainedModel`.

    D is the tokens of all rows that were seen, filled up to the sequence length, as FLOPs are counted.
    """

    config_type = FinetuningConfig
    name = "finetuning"
    material = "rows"

    @staticmethod
    def prepare(config: FinetuningConfig) -> PreparedRows:
        """The rows as arrays."""
        return prepare_rows(config.data, config.model.sequence_length)


TASK = Finetuning
