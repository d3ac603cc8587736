"""optuna-dashboard on one study: with its front, law and curves, and without any way to change it.

Three things refuse a write: the server answers nothing but GET and HEAD, the database is opened for reading
only, and only this machine can connect.
"""

import json
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.study._frozen import FrozenStudy

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.database import LedgerStorage, shown_place, storage_errors, storage_to_read
from carbs_scaling.ledger.study import Study
from carbs_scaling.passwords import cleaned
from carbs_scaling.report.curves_figure import curves_figure
from carbs_scaling.report.study_report import report_sections

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HOST = "127.0.0.1"
# Names by which a browser may call it: a page of elsewhere that had its own name lead here is refused.
HOST_NAMES = {HOST, "localhost"}
REFRESH_SECONDS = 15.0  # between two looks whether trials have ended; a law takes about a second
FIGURE_HEIGHT = 480
# Attributes in which optuna-dashboard looks for figures, and Optuna for names of the objectives.
PLOT_DATA, METRIC_NAMES = "dashboard:plot_data:", "study:metric_names"

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class ShownStorage(LedgerStorage):
    """A storage that holds one study alone, with figures that are in no database.

    Attributes:
        shown: the study's name.
        figures: JSON of plotly by name.
        metric: unit of the loss.
    """

    shown = ""
    figures: dict[str, str]
    metric = "loss"

    def get_all_studies(self) -> list[FrozenStudy]:
        """The one study."""
        (study,) = (study for study in super().get_all_studies() if study.study_name == self.shown)
        study.system_attrs[METRIC_NAMES] = [f"loss ({self.metric})", "training FLOPs"]
        study.system_attrs |= {f"{PLOT_DATA}{name}:0": figure for name, figure in self.figures.items()}
        return [study]


class Dashboard:
    """A study on a port of this machine, with figures that follow it.

    Args:
        config: where the study is.
        port: of 127.0.0.1; 0 takes a free one.

    Raises:
        StudyError: there is no such study.
        CarbsScalingError: optuna-dashboard is not installed, or the port is taken.
    """

    def __init__(self, config: StudyConfig, port: int) -> None:
        try:
            from optuna_dashboard import wsgi
        except ImportError:
            raise CarbsScalingError(
                "dashboard needs optuna-dashboard: pip install 'carbs-scaling[dashboard]'"
            ) from None
        Study.load(config)  # says in one line what is wrong with it
        with storage_errors(shown_place(config)):
            self._storage = storage_to_read(config, ShownStorage, read_only=True)
            study = optuna.load_study(study_name=config.name, storage=self._storage)
        self._study, self._folder = Study(study), config.folder
        self._storage.shown, self._storage.figures = config.name, {}
        self._storage.metric = self._study.metric
        self._ended = -1
        self.refresh()
        try:
            self._server = make_server(
                HOST, port, read_only(wsgi(self._storage)), _Server, handler_class=_QuietHandler
            )
        except OSError as error:
            raise CarbsScalingError(
                f"port {port} of {HOST} cannot be used ({error.strerror}): take another, such as port=0"
            ) from error
        self.url = f"http://{HOST}:{self._server.server_port}/dashboard/studies/{study._study_id}"

    def refresh(self) -> None:
        """Draws the figures anew where trials have ended since."""
        ended = len(self._study.endings())
        if ended != self._ended:
            self._storage.figures = dashboard_figures(self._study, self._folder)
            self._ended = ended

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answers in threads of its own while the body runs."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(REFRESH_SECONDS):
                try:
                    self.refresh()
                except CarbsScalingError as error:  # the ledger of this moment: the figures stay
                    print(f"carbs-scaling: {cleaned(str(error))}", file=sys.stderr)

        threads = [
            threading.Thread(target=task, daemon=True) for task in (self._server.serve_forever, follow)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            self._server.shutdown()
            self._server.server_close()
            for thread in threads:
                thread.join()
            self._storage.engine.dispose()


def dashboard_figures(study: Study, folder: Path) -> dict[str, str]:
    """The figures of the study's report and its loss curves, as JSON of plotly by name."""
    records = study.records()
    figures: dict[str, Figure] = {}
    if any(record.completed for record in records):
        found = ((section.anchor, section.figure) for section in report_sections(study))
        figures = {name: figure for name, figure in found if figure is not None}
    curves = curves_figure(records, folder / "curves")
    if curves is not None:
        figures["loss-curves"] = curves
    return {name: _as_json(name, figure) for name, figure in figures.items()}


def _as_json(name: str, figure: "Figure") -> str:
    """A figure with its title, on white in dark mode too."""
    import plotly.io

    title = name.replace("-", " ").capitalize()
    figure.update_layout(
        title={"text": title, "x": 0.01, "xanchor": "left", "y": 0.98, "yanchor": "top"},
        height=FIGURE_HEIGHT, template="none", paper_bgcolor="white", plot_bgcolor="white", margin={"t": 110},
    )  # fmt: skip
    return str(plotly.io.to_json(figure, validate=False))


def read_only(application: Application) -> Application:
    """A WSGI application that answers questions of this machine and refuses all else."""

    def answer(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"] = _CleanErrors()
        host = environ.get("HTTP_HOST", "").rpartition(":")[0] or environ.get("HTTP_HOST", "")
        if host not in HOST_NAMES:
            return _refusal("403 Forbidden", "this dashboard is for its own machine", start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refusal(
                "405 Method Not Allowed",
                "this dashboard is for reading only",
                start_response,
                ("Allow", "GET, HEAD"),
            )
        return application(environ, start_response)

    return answer


def _refusal(
    status: str, reason: str, start_response: StartResponse, *headers: tuple[str, str]
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json"), *headers])
    return [json.dumps({"reason": reason}).encode()]


class _CleanErrors:
    """Standard error without passwords, for tracebacks of the dashboard."""

    def write(self, text: str) -> None:
        sys.stderr.write(cleaned(text))

    def flush(self) -> None:
        sys.stderr.flush()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing of each request."""
