"""Where the text comes from: the schema of `conf/data`."""

from dataclasses import dataclass

from omegaconf import MISSING

from carbs_scaling.config import require, require_choice

DATA_SOURCES = ("stdlib", "files", "hub")


@dataclass(frozen=True)
class DataConfig:
    """The text. `source` says which of the other fields are read."""

    source: str = MISSING
    paths: list[str] = MISSING
    name: str | None = MISSING
    subset: str | None = MISSING
    split: str = MISSING
    text_column: str = MISSING
    streaming: bool = MISSING
    max_bytes: int | None = MISSING
    tokenizer: str = MISSING
    validation_fraction: float = MISSING
    cache_directory: str | None = MISSING

    def __post_init__(self) -> None:
        require_choice("data.source", self.source, DATA_SOURCES)
        require(
            0 < self.validation_fraction < 1,
            f"data.validation_fraction={self.validation_fraction} must lie in (0, 1)",
        )
        if self.source == "files":
            require(bool(self.paths), "data=files needs data.paths, for example data.paths=[corpus/*.txt]")
        if self.source == "hub":
            require(bool(self.name), "data=hub needs data.name, for example data.name=allenai/c4")
        if self.max_bytes is not None:
            require(self.max_bytes > 0, f"data.max_bytes={self.max_bytes} must be positive")
