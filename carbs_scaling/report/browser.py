"""A page as PDF or PNG, by a Chromium that is installed."""

import shutil
import subprocess
import tempfile
from html import escape
from pathlib import Path

from carbs_scaling.errors import CarbsScalingError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT_SECONDS = 180
# What a page is given to draw itself, in its own time.
DRAWING_MILLISECONDS = 20_000
PNG_HEIGHT = 9000
LEAST_WINDOW = 500  # pixels: a browser has no narrower window, so that a phone is a frame in it


def find_browser() -> str:
    """The path of a Chromium or Chrome.

    Raises:
        CarbsScalingError: there is none.
    """
    for name in BROWSERS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise CarbsScalingError("format=pdf and png need Chromium or Chrome: install one, or write format=html")


def print_page(browser: str, page: Path, output: Path, width: int) -> None:
    """Write `page` as PDF or PNG, by the ending of `output`.

    Args:
        browser: see `find_browser`.
        page: an HTML file.
        output: the file; an existing one is replaced.
        width: of a PNG in pixels.

    Raises:
        CarbsScalingError: the browser did not write it.
    """
    kind = output.suffix.lower()
    window = max(width, LEAST_WINDOW)
    wanted = (
        ["--print-to-pdf={}", "--no-pdf-header-footer", "--window-size=794,1123"]
        if kind == ".pdf"
        else [
            "--screenshot={}",
            f"--window-size={window},{PNG_HEIGHT}",
            "--hide-scrollbars",
        ]
    )
    with tempfile.TemporaryDirectory(prefix="carbs-scaling-") as folder:
        written = Path(folder) / f"page{kind}"
        address = _whole(page)
        if kind == ".png":
            address = _framed(page, width, Path(folder) / "frame.html").as_uri()
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={folder}/profile", f"--virtual-time-budget={DRAWING_MILLISECONDS}",
            *(option.format(written) for option in wanted), address,
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise CarbsScalingError(f"{browser} did not write the page within {WAIT_SECONDS} s") from None
        if not written.is_file():
            said = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
            raise CarbsScalingError(f"{browser} wrote no page: {said}")
        if kind == ".png":
            _trim(written, width)
        shutil.copyfile(written, output)


def _whole(page: Path) -> str:
    """Address of a page of `report` with `#whole`, at which it draws all of its figures and rows at once."""
    return f"{page.resolve().as_uri()}#whole"


def _framed(page: Path, width: int, frame: Path) -> Path:
    """A page that shows another at a width in pixels."""
    address = escape(_whole(page), quote=True)
    style = f"border:0;display:block;width:{width}px;height:{PNG_HEIGHT}px"
    frame.write_text(f'<body style="margin:0"><iframe src="{address}" style="{style}"></iframe>')
    return frame


def _trim(path: Path, width: int) -> None:
    """Cut the empty right and end of a screenshot off."""
    import matplotlib.image
    import numpy as np

    picture = matplotlib.image.imread(path)[:, :width]
    rows = np.flatnonzero((picture != picture[-1, 0]).any(axis=(1, 2)))
    matplotlib.image.imsave(path, picture[: rows[-1] + 24])
