"""What a training run is told: recipe, text and settings, as one value that travels to a worker process."""

from dataclasses import dataclass

from carbs_scaling.data.examples import LabelledExamples
from carbs_scaling.data.prepared import PreparedText
from carbs_scaling.data.rows import PreparedRows
from carbs_scaling.optimizers.optimizer import Hyperparameters
from carbs_scaling.stop_rule import StopRule
from carbs_scaling.training.checkpoint import CheckpointPlan
from carbs_scaling.training.config import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from carbs_scaling.training.recipe import Recipe

# Sequences times heads that attention is given at once. A CUDA grid has at most 65,535 blocks in y and z, and
# cuDNN's attention failed with millions of sequences on an H200.
MOST_HEADS_AT_ONCE = 65_535


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a worker process needs for one trial; picklable.

    Args:
        recipe: what to train.
        text: token files, labelled examples, or rows.
        optimizer, schedule, objective: settings that are the same in all trials of the search.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        compile: run the model through `torch.compile`; None: where that pays (`training.step_building`).
        micro_batch_tokens: tokens in memory at once; None for the whole batch.
        curve_path: where the loss curve is written; None for nowhere.
        cuda_graph: replay the steps of small models as a CUDA graph. Ignored where the noise scale is
            measured: the measured steps would need a second set of activations beside the graph's.
        checkpoints: where the run keeps its state from time to time, and goes on from; None for nowhere.
        model_folder: where the trained model is saved (`training.saved_model`); None for nowhere.
        tokenizer: of the text, saved with the model; `none` for a model without one.
        trunk: where the state before the decay is left for longer runs of the recipe; None for nowhere.
        goes_on_from: where a shorter run left such a state that this one begins with; None: it begins anew.
        stop_rule: when it ends early; None: never.
    """

    recipe: Recipe
    text: PreparedText | LabelledExamples | PreparedRows
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    objective: ObjectiveConfig
    device: str
    compile: bool | None
    micro_batch_tokens: int | None
    curve_path: str | None
    cuda_graph: bool = True
    checkpoints: CheckpointPlan | None = None
    model_folder: str | None = None
    tokenizer: str = "bytes"
    trunk: CheckpointPlan | None = None
    goes_on_from: CheckpointPlan | None = None
    stop_rule: StopRule | None = None


def hyperparameters(job: TrainingJob) -> Hyperparameters:
    """What the optimizer may read, from the recipe and from the settings of the search."""
    recipe = job.recipe
    return Hyperparameters(
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        beta1=recipe.beta1,
        beta2=recipe.beta2,
        epsilon=recipe.epsilon,
        adamw_rate_ratio=recipe.adamw_rate_ratio,
        nesterov=job.optimizer.nesterov,
        decoupled_weight_decay=job.optimizer.decoupled_weight_decay,
    )


def micro_batch_size(recipe: Recipe, micro_batch_tokens: int | None) -> int:
    """Sequences in memory at once: at least one, at most the batch and what attention takes."""
    most = min(recipe.batch_size, MOST_HEADS_AT_ONCE // max(1, recipe.shape.heads))
    if micro_batch_tokens is not None:
        most = min(most, micro_batch_tokens // recipe.shape.sequence_length)
    return max(1, most)
