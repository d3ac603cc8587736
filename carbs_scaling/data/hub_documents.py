"""Documents of a data set of the hub, streamed or downloaded; a stream outlives a dropped connection."""

import errno
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carbs_scaling.data.config import DataConfig
from carbs_scaling.data.formats import one_line, quiet_datasets, text_cells
from carbs_scaling.data.hub import quiet_hub
from carbs_scaling.errors import DataError, NoSuchText

logger = logging.getLogger(__name__)

# The library's own attempts and seconds between them: its 20 retries take minutes to find no hub at all.
LIBRARY_RETRIES = 1
LIBRARY_RETRY_SECONDS = 1
# A stream that has begun is opened again where it broke off, after so many seconds, then twice as many, ...
REOPEN_SECONDS = 1.0
# ... until so many in all have brought no document.
PATIENCE_SECONDS = 600.0


class HubDocuments:
    """The texts of one split, as `sources.Documents`.

    Args:
        config: which data set, and which column.
        split: of it.
        scratch: a folder that the caller removes.
        place: where to begin; of streams alone.

    Raises:
        DataError: while it is read: no such data set, or no hub.
    """

    def __init__(self, config: DataConfig, split: str, scratch: Path, place: dict[str, Any] | None) -> None:
        self._config, self._split, self._scratch = config, split, scratch
        self._place = place
        self._rows: Any = None
        self._where = " ".join(part for part in (config.name, config.subset) if part)

    def place(self) -> dict[str, Any]:
        """See `sources.Documents`."""
        return self._place or {} if self._rows is None else {"rows": self._rows.state_dict()}

    def __iter__(self) -> Iterator[str]:
        settings = {
            "STREAMING_READ_MAX_RETRIES": LIBRARY_RETRIES,
            "STREAMING_READ_RETRY_INTERVAL": LIBRARY_RETRY_SECONDS,
        }
        with quiet_datasets(self._scratch, **settings), quiet_hub() as reachable:
            from datasets.exceptions import DatasetNotFoundError
            from huggingface_hub.errors import HfHubHTTPError, HTTPError

            where = self._where
            try:
                self._rows = self._open()
                yield from self._patiently() if self._config.streaming else self._texts()
            except DatasetNotFoundError as error:
                if not reachable:
                    raise _out_of_reach(where) from error
                raise NoSuchText(
                    f"the hub has no data set {self._config.name!r} that this machine may read: check "
                    "data.name and data.revision, or log in with `hf auth login`"
                ) from error
            except (HTTPError, ConnectionError, TimeoutError) as error:
                if isinstance(error, HfHubHTTPError):
                    raise DataError(f"the hub refused {where}: {one_line(error)}") from error
                raise _out_of_reach(where) from error
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                if not reachable:
                    raise _out_of_reach(where) from error
                raise DataError(f"cannot load {where} from the hub: {one_line(error)}") from error
            except (ValueError, RuntimeError) as error:
                if (full := _no_space(error)) is not None:
                    raise full from error
                if not reachable:
                    raise _out_of_reach(where) from error
                raise NoSuchText(
                    f"cannot load {where}: check data.subset and data.split ({one_line(error)})"
                ) from error

    def _open(self) -> Any:
        from datasets import DownloadConfig, load_dataset

        config = self._config
        rows = load_dataset(
            config.name,
            config.subset,
            split=self._split,
            data_files={self._split: files} if (files := config.hub_files.get(self._split)) else None,
            revision=config.revision,
            streaming=config.streaming,
            cache_dir=str(self._scratch),
            download_config=DownloadConfig(max_retries=LIBRARY_RETRIES),
        )
        if self._place:
            rows.load_state_dict(self._place["rows"])
        return rows

    def _texts(self) -> Iterator[str]:
        return text_cells(self._rows, self._config.text_column, self._where)

    def _patiently(self) -> Iterator[str]:
        """The texts, begun again after the last one whenever the connection is lost."""
        from huggingface_hub.errors import HTTPError

        wait, waited = REOPEN_SECONDS, 0.0
        while True:
            try:
                for text in self._texts():
                    wait, waited = REOPEN_SECONDS, 0.0
                    yield text
                return
            except (HTTPError, ConnectionError, TimeoutError) as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                refused = status is not None and 400 <= status < 500 and status not in (408, 429)
                if refused or waited >= PATIENCE_SECONDS:
                    raise
                logger.warning(
                    "lost the hub while reading %s (%s): going on at the same document in %.0f s",
                    self._where, one_line(error), wait,
                )  # fmt: skip
                time.sleep(wait)
                wait, waited = 2 * wait, waited + wait
                self._rows.load_state_dict(self._rows.state_dict())


def resolved_revision(config: DataConfig) -> str | None:
    """The commit of the data set that is read, so that what was begun goes on with the same text.

    None where the hub is out of reach.

    Raises:
        DataError: no such data set.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    assert config.name is not None
    with quiet_hub() as reachable:
        if not reachable:
            return None
        try:
            return str(HfApi().dataset_info(config.name, revision=config.revision, timeout=30).sha)
        except HfHubHTTPError as error:
            raise NoSuchText(
                f"the hub has no data set {config.name!r} that this machine may read: check data.name and "
                f"data.revision, or log in with `hf auth login` ({one_line(error)})"
            ) from error
        except (HTTPError, OSError) as error:
            raise _out_of_reach(config.name) from error


def _out_of_reach(where: str) -> DataError:
    return DataError(
        f"the data set hub cannot be reached for {where}, and it is not cached here: go online, or use "
        "data=files or data=stdlib"
    )


def _no_space(error: BaseException | None) -> OSError | None:
    """The 'no space left' at the root of a wrapped error, if that is what it was."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None
