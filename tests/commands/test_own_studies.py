"""Every verb on a study that somebody's own program made with `CarbsSampler`; `import` by the command."""

import json
import math

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from carbs_scaling.commands import compare, curves, fit, front, import_runs, recommend, report, status
from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import ConfigError, StudyError, WrongStudy
from carbs_scaling.ledger.study import Study, spent_flops
from carbs_scaling.samplers.carbs import CarbsSampler
from carbs_scaling.trial import Status
from tests.own_program import written

BUDGET_FLOPS = 1e14
SPACE = {
    "params": IntDistribution(10_000, 1_000_000, log=True),
    "tokens": IntDistribution(1_000_000, 30_000_000, log=True),
    "batch_tokens": IntDistribution(256, 8192, log=True),
    "rate": FloatDistribution(1e-3, 1e-1, log=True),
}


def flops(point):
    return 6.0 * point["params"] * point["tokens"]


def roles(point):
    return {**{name: point[name] for name in list(SPACE)[:3]}, "learning_rate": point["rate"]}


def loss_of(point, tokens):
    tokens = tokens / (1 + point["batch_tokens"] / 2000)
    return 1 + 20 * point["params"] ** -0.3 + 40 * tokens**-0.3 + 0.1 * math.log(point["rate"] / 0.01) ** 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A database with two studies, and the curves of the first."""
    folder = tmp_path_factory.mktemp("own")

    def objective(trial):
        point = {
            name: trial.suggest_int(name, d.low, d.high, log=True) for name, d in list(SPACE.items())[:3]
        }
        point["rate"] = trial.suggest_float("rate", 1e-3, 1e-1, log=True)
        if point["rate"] > 0.09:
            raise ValueError("the loss exploded")
        lines = []
        for share in (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0):
            step = int(share * point["tokens"] / point["batch_tokens"])
            value = loss_of(point, max(share * point["tokens"], point["batch_tokens"]))
            lines.append(json.dumps({"step": step, "train_loss": value, "learning_rate": point["rate"]}))
        path = folder / "studies" / "own" / "curves" / f"{trial.number:05d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
        return loss_of(point, point["tokens"]), flops(point)

    for name, trials in (("other", 6), ("own", 24)):
        sampler = CarbsSampler(
            SPACE,
            flops,
            roles,
            budget_flops=BUDGET_FLOPS,
            seed=trials,
            startup_trials=100,
            startup_fraction=0.05,
        )
        study = optuna.create_study(
            sampler=sampler,
            directions=["minimize"] * 2,
            study_name=name,
            storage=f"sqlite:///{folder}/own.db",
        )
        study.optimize(objective, n_trials=trials, catch=ValueError)
    return folder


@pytest.fixture
def named(folder):
    """Overrides that name the first study."""
    return f"study.storage=sqlite:///{folder}/own.db", f"study.directory={folder}/studies", "study.name=own"


def test_its_trials_have_their_roles_and_its_budget_is_known(folder):
    own = Study.load(StudyConfig("own", str(folder), f"sqlite:///{folder}/own.db", 0))
    assert own.budget_flops == BUDGET_FLOPS
    records = own.records()
    assert 0 < spent_flops(records) <= BUDGET_FLOPS
    for record in records:
        assert record.status in (Status.COMPLETED, Status.DIVERGED)
        assert record.roles["learning_rate"] == record.point["rate"]
        assert record.flops == flops(record.point)


def test_every_verb_reads_it(named, composed, capsys):
    front.run(composed(*named, verb="front"))
    said = capsys.readouterr().out
    assert "of 1.0e14 FLOPs spent" in said
    assert "over all runs:" in said
    fit.run(composed(*named, "plots=false", verb="fit"))
    compare.run(composed(*named[:2], "studies=[own,other]", "plots=false", verb="compare"))
    curves.run(composed(*named, "draws=20", "plots=false", verb="curves"))
    assert "tokens" in capsys.readouterr().out
    target = ("target.params=2e6", "target.tokens=4e7", "format=json")
    recommend.run(composed(*named, *target, verb="recommend"))
    assert 1e-3 < json.loads(capsys.readouterr().out)["learning_rate"] < 1e-1
    with pytest.raises(ConfigError, match="task=optuna"):
        recommend.run(composed(*named, *target[:2], "format=recipe", verb="recommend"))


def test_without_a_budget_it_is_said_what_was_spent(folder, named, composed, capsys):
    storage = f"sqlite:///{folder}/own.db"
    bare = optuna.create_study(study_name="bare", storage=storage, directions=["minimize"] * 2)
    bare.add_trials(optuna.load_study(study_name="own", storage=storage).trials)
    place = (*named[:2], "study.name=bare")
    status.run(composed(*place, verb="status"))
    assert "\nspent: " in capsys.readouterr().out
    status.run(composed(*place, "format=json", verb="status"))
    assert json.loads(capsys.readouterr().out)["budget_flops"] is None
    report.run(composed(*place, verb="report"))
    page = (folder / "studies" / "bare" / "report.html").read_text()
    assert "FLOPs spent" in page
    assert "budget_flops" not in page


def test_a_study_of_other_objectives_is_refused(tmp_path, named, composed):
    storage = f"sqlite:///{tmp_path}/one.db"
    study = optuna.create_study(study_name="one", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(WrongStudy, match="other objectives"):
        front.run(composed(f"study.storage={storage}", "study.name=one", verb="front"))


def test_import_takes_the_overrides_of_the_search(tmp_path, composed, capsys):
    (tmp_path / "runs.csv").write_text("n_embd,lr,accuracy\n2,0.01,0.6\n9,0.02,0.7\n2,x,0.1\n")
    overrides = written(
        *("task=command", "task.command=echo {width} {lr}", "task.metric.pattern=(\\S+)", "budget.trials=9"),
        *("space.width={low: 16, high: 64, multiple_of: 16}", "space.lr={low: 1e-3, high: 1, log: true}"),
        *("task.metric.goal=maximize", "executor=in_process"),
        *(f"study.directory={tmp_path}", "study.name=new", f"runs={tmp_path}/runs.csv"),
        *("columns.width=n_embd * 16", "columns.loss=accuracy"),
    )
    import_runs.run(composed(*overrides, verb="import"))
    said = capsys.readouterr().out
    assert said.startswith("imported 2 runs of")
    assert "left out: row 3: lr is 'x', which is no positive number" in said
    records = Study.load(StudyConfig("new", str(tmp_path), None, 0)).records()
    assert [(record.point["width"], record.loss) for record in records] == [(32, -0.6), (144, -0.7)]
    assert all(record.imported for record in records)
    with pytest.raises(StudyError, match=r"no run of .* can be used .row 1: it has no width"):
        import_runs.run(composed(*overrides[:-2], verb="import"))
