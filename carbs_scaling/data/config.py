"""Where the text comes from: the schema of `conf/data`."""

from dataclasses import dataclass

from omegaconf import MISSING

from carbs_scaling.config import require, require_choice

DATA_SOURCES = ("stdlib", "files", "hub")
BYTES, OWN_BPE, NO_TOKENIZER = "bytes", "bpe", "none"
# A byte-level BPE begins with 256 bytes and the token that ends a text.
LEAST_BPE_VOCABULARY = 257


@dataclass(frozen=True)
class DataConfig:
    """The text. `source` says which of the other fields are read."""

    source: str = MISSING
    paths: list[str] = MISSING
    validation_paths: list[str] = MISSING
    name: str | None = MISSING
    subset: str | None = MISSING
    split: str = MISSING
    validation_split: str | None = MISSING
    hub_files: dict[str, str] = MISSING
    revision: str | None = MISSING
    text_column: str = MISSING
    streaming: bool = MISSING
    block_tokens: int = MISSING
    cached_blocks: int | None = MISSING
    max_bytes: int | None = MISSING
    max_validation_bytes: int | None = MISSING
    tokenizer: str = MISSING
    vocabulary_size: int | None = MISSING
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
        else:
            require(
                self.validation_split is None,
                "data.validation_split is of a hub data set: use data.validation_paths",
            )
        require(
            not (self.validation_paths and self.validation_split),
            "data.validation_paths and data.validation_split are both given: leave one out",
        )
        for name, least in (("max_bytes", 1), ("max_validation_bytes", 1), ("cached_blocks", 2)):
            value = getattr(self, name)
            require(value is None or value >= least, f"data.{name}={value} must be at least {least}, or null")
        require(self.block_tokens >= 2, f"data.block_tokens={self.block_tokens} must be at least 2")
        size = self.vocabulary_size
        if self.tokenizer == OWN_BPE:
            require(size is not None, "data.tokenizer=bpe needs data.vocabulary_size, such as 4096")
            require(
                (size or 0) >= LEAST_BPE_VOCABULARY,
                f"data.vocabulary_size={size} must be at least {LEAST_BPE_VOCABULARY}: 256 bytes and the end "
                "of a text",
            )
        elif self.tokenizer != NO_TOKENIZER:
            require(
                size is None, f"data.vocabulary_size={size}: data.tokenizer={self.tokenizer} has its own size"
            )

    @property
    def has_validation_set(self) -> bool:
        """Whether the held-out text is given, not split off."""
        return bool(self.validation_paths or self.validation_split)
