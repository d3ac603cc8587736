"""The dashboard, really started: it shows a study that goes on, and nothing that is sent to it changes it."""

import json
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import optuna
import pytest
from optuna.samplers import RandomSampler

from carbs_scaling.commands import dashboard as verb
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import CarbsScalingError, WrongStudy
from carbs_scaling.ledger.study import Study
from carbs_scaling.report.dashboard import Dashboard
from carbs_scaling.trial import Completed
from tests.toy_task import ToyTask


@pytest.fixture
def place(tmp_path):
    place = StudyConfig("shown", str(tmp_path), None, 0)
    (place.folder / "curves").mkdir(parents=True)
    (place.folder / "curves" / "00000.jsonl").write_text(
        "".join(json.dumps({"progress": k / 4, "train_loss": 4 / k}) + "\n" for k in range(1, 5))
    )
    return place


def run_some(place, count):
    task = ToyTask()
    study = Study.begin(place, task, 1e6, RandomSampler(seed=0))
    for _ in range(count):
        record = study.ask(task, {})
        study.tell(record.number, Completed(loss=2.0 + record.point["step_length"]))


def asked(url, method="GET", host=None):
    """Status and body."""
    request = Request(url, method=method, data=b"{}" if method in ("POST", "PUT") else None)
    if host:
        request.add_header("Host", host)
    try:
        with urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        return error.code, error.read()


def test_it_shows_a_study_that_goes_on_and_refuses_every_change(place):
    pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
    run_some(place, 4)
    dashboard = Dashboard(place, 0)
    with dashboard.serving():
        base = dashboard.url.removesuffix("/dashboard/studies/1")
        assert base.startswith("http://127.0.0.1:")
        api = f"{base}/api/studies/1"
        ledger = (place.folder / "study.db").read_bytes()
        assert asked(dashboard.url)[0] == 200
        detail = json.loads(asked(api)[1])
        assert len(detail["trials"]) == 4
        figures = {figure["id"] for figure in detail["plotly_graph_objects"]}
        assert {"the-front", "loss-curves", "budget-over-time"} <= figures
        assert detail["objective_names"] == ["loss (metres)", "training FLOPs"]
        for method, address in (
            ("DELETE", api),
            ("POST", f"{base}/api/studies"),
            ("POST", f"{api}/rename"),
            ("PUT", f"{api}/note"),
            ("POST", f"{base}/api/trials/1/tell"),
            ("PATCH", api),
        ):
            assert asked(address, method)[0] == 405
        assert asked(api, host="elsewhere.example:80")[0] == 403
        # Past the server too: the database itself refuses.
        with pytest.raises(optuna.exceptions.StorageInternalError) as refused:
            dashboard._storage.set_study_user_attr(1, "name", "value")
        assert "readonly" in str(refused.value.__cause__)
        assert (place.folder / "study.db").read_bytes() == ledger
        assert sorted(path.name for path in place.folder.iterdir()) == ["curves", "study.db"]
        run_some(place, 2)  # a search beside it
        before = dashboard._storage.figures["the-front"]
        dashboard.refresh()
        assert dashboard._storage.figures["the-front"] != before
        with pytest.raises(CarbsScalingError, match="take another, such as port=0"):
            Dashboard(place, int(base.rpartition(":")[2]))


def test_what_cannot_be_shown_is_one_line(composed, place, monkeypatch):
    overrides = (f"study.directory={place.directory}", "study.name=shown")
    with pytest.raises(CarbsScalingError, match="port=70000"):
        verb.run(composed(*overrides, "port=70000", verb="dashboard"))
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(CarbsScalingError, match=r"pip install 'carbs-scaling\[dashboard\]'"):
        verb.run(composed(*overrides, verb="dashboard"))
    monkeypatch.undo()
    pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
    with pytest.raises(WrongStudy, match="no study 'shown'"):
        verb.run(composed(*overrides, verb="dashboard"))
