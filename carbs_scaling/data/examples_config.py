"""Where labelled examples come from: the schema of `data` for `task=classification`."""

from dataclasses import dataclass

from omegaconf import MISSING

from carbs_scaling.config import require, require_choice

EXAMPLE_SOURCES = ("digits", "stdlib", "files", "dataset")


@dataclass(frozen=True)
class ExamplesConfig:
    """Labelled texts or images. `source` says which of the other fields are read.

    `digits`: scikit-learn's. `stdlib`: lines of Python's standard library. `files`: tables with columns, or
    a folder as GLUE's. `dataset`: a name on the hub, a folder of `save_to_disk`, or a folder of images with
    a folder for each class.
    """

    source: str = MISSING
    paths: list[str] = MISSING
    validation_paths: list[str] = MISSING
    name: str | None = MISSING
    subset: str | None = MISSING
    split: str = MISSING
    validation_split: str | None = MISSING
    revision: str | None = MISSING
    text_column: str | None = MISSING
    pair_column: str | None = MISSING
    image_column: str = MISSING
    label_column: str | None = MISSING
    max_examples: int | None = MISSING
    tokenizer: str = MISSING
    validation_fraction: float = MISSING
    cache_directory: str | None = MISSING

    def __post_init__(self) -> None:
        require_choice("data.source", self.source, EXAMPLE_SOURCES)
        require(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction={self.validation_fraction} must lie in (0, 1)",
        )
        require(
            self.source != "files" or bool(self.paths),
            "examples=labelled needs data.paths, for example data.paths=[glue/SST-2]",
        )
        require(
            self.source == "files" or not (self.paths or self.validation_paths),
            "data.paths and data.validation_paths are read by examples=labelled: add that",
        )
        require(
            self.source != "dataset" or bool(self.name),
            "examples=images and examples=labelled_hub need data.name: a name on the hub, or a folder",
        )
        require(
            self.source == "dataset" or self.name is None,
            f"data.name={self.name} is read by examples=images and examples=labelled_hub: add one of them",
        )
        require(
            self.max_examples is None or self.max_examples >= 2,
            f"data.max_examples={self.max_examples} must be at least 2, or null",
        )
