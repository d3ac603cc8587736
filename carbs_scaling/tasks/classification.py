"""Classification of texts or images, from scratch or from a trained model."""

from carbs_scaling.data.examples import LabelledExamples, prepare_examples
from carbs_scaling.tasks.pretraining_config import ClassificationConfig
from carbs_scaling.tasks.trained_model import TrainedModel


class Classification(TrainedModel):
    """Trains models with a head for classes on labelled examples. See `TrainedModel`.

    N is that of the blocks, D the tokens of all examples that were seen, repeats included: patches of images
    with the class token, and of texts the whole sequence length, which shorter ones are filled up to.
    """

    config_type = ClassificationConfig
    name = "classification"
    material = "examples"

    @staticmethod
    def prepare(config: ClassificationConfig) -> LabelledExamples:
        """The examples as arrays."""
        return prepare_examples(config.data, config.form)


TASK = Classification
