"""The command line as a person uses it: exit codes, and exactly one line for each thing that can be wrong."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from carbs_scaling import cli
from carbs_scaling.command_line import checked
from carbs_scaling.commands.search import load_search
from carbs_scaling.errors import ConfigError
from carbs_scaling.tasks.pretraining_space import PretrainingSpace
from tests.command_line import carbs_scaling
from tests.own_program import written


def test_help_is_quick_to_import_and_names_the_verbs(tmp_path):
    result = carbs_scaling("--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "search" in result.stdout
    assert "front" in result.stdout
    heavy = "import sys, carbs_scaling.cli; print([m for m in ('torch', 'optuna') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_what_is_not_needed_for_a_first_answer_is_not_loaded():
    """Each of these takes seconds: a ledger is read and a table printed without them."""
    heavy = "torch", "scipy.stats", "scipy.signal", "pandas", "matplotlib", "plotly", "transformers"
    modules = (
        "carbs_scaling.commands.front",
        "carbs_scaling.commands.recommend",
        "carbs_scaling.ledger.curves",
    )
    code = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("flags", [("--help",), ("search", "--help"), ()])
def test_a_reader_that_has_seen_enough_causes_no_traceback(tmp_path, flags):
    command = [sys.executable, "-m", "carbs_scaling.cli", *flags]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == cli.PIPE_CLOSED


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget.flops", "1e12"], "write budget.flops=1e12"),
        (["--budget.flops=1e12"], "write budget.flops=1e12"),
        (["--budget.flops", "1e12"], "write budget.flops=1e12"),
        (["data.paths=[a,", "b]"], "needs quotes: 'data.paths=[a, b]'"),
        (["budget.flops"], "write budget.flops=VALUE"),
        (["--verbose"], "unknown flag --verbose"),
        (["-sc", "query=bash"], "completion bash"),
    ],
)
def test_a_word_that_is_no_override_gets_a_hint(words, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        checked(words)


def test_overrides_and_flags_of_hydra_pass():
    words = ["a=1", "+b=2", "~c", "-m", "--cfg", "job", "--config-dir", "x", "-i", "all", "d=[1, 2]"]
    assert checked(words) == words


def exit_code_of(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["carbs-scaling", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code
    return 0


STUDY_VERBS = (
    "front",
    "fit",
    "curves",
    "report",
    "status",
    "check",
    "backup output=x.zip",
    "recommend target.flops=1e18",
    "train trial=1",
    "compare studies=[none,x]",
)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("", 2),
        ("--help", 0),
        ("serch", 2),
        ("front format=xml", 2),
        ("plan hours=1 gpu=none", 2),
        ("plan hours=1 output=x.txt", 2),
        *((f"{verb} study.name=none", 2) for verb in STUDY_VERBS),
        *((f"{verb} study.name=damaged", 1) for verb in STUDY_VERBS if not verb.startswith("compare")),
        ("compare studies=[damaged,x]", 1),
        ("train recipe=none.json", 2),
        ("recommend law=none.json target.flops=1e18", 2),
        ("recommend law=few.csv target.flops=1e18", 2),
        ("fit runs=none.csv", 2),
        ("fit runs=wrong.csv", 2),
        ("fit runs=few.csv", 1),
        ("search data=files data.paths=[none.txt]", 2),
        ("search data=files data.paths=[empty.txt]", 1),
    ],
)
def test_exit_codes_say_whether_the_command_is_wrong_or_has_failed(
    tmp_path, monkeypatch, capsys, command, code
):
    monkeypatch.chdir(tmp_path)
    few = "params,tokens,learning_rate,batch_tokens,loss\n1e7,1e9,1e-3,65536,3.0\n"
    for name, text in (("few.csv", few), ("wrong.csv", "a,b\n1,2\n"), ("empty.txt", "")):
        (tmp_path / name).write_text(text)
    (tmp_path / "studies" / "damaged").mkdir(parents=True)
    (tmp_path / "studies" / "damaged" / "study.db").write_bytes(b"garbage" * 1000)
    assert exit_code_of(command.split(), monkeypatch) == code
    assert capsys.readouterr().err.count("\n") == (1 if code and command else 0)


def test_values_that_hydra_cannot_read_need_no_quotes(tmp_path, monkeypatch, capsys):
    few = tmp_path / "l\u00e4ufe (1).csv"
    few.write_text("params,tokens,learning_rate,batch_tokens,loss\n1e7,1e9,1e-3,65536,3.0\n")
    assert exit_code_of(("fit", f"runs={few}"), monkeypatch) == cli.FAILED
    assert "(1).csv has 1 completed runs" in capsys.readouterr().err
    assert exit_code_of(("fit", "study.name=\u7814\u7a76"), monkeypatch) == cli.WRONG_COMMAND
    assert "is no name: use letters" in capsys.readouterr().err
    assert cli._spelt_out("data.paths=[a.txt, b (2).txt]") == "data.paths=[a.txt,'b (2).txt']"
    for whole in ("study.seed=range(1,4)", "space.width={low: 1}", "runs='l\u00e4ufe.csv'"):
        assert cli._spelt_out(whole) == whole


def test_columns_in_braces_are_told_apart_by_name(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs.csv").write_text("params,tokens,learning_rate,batch_tokens,val\n1e6,1e8,1e-3,1e4,3\n")
    runs = f"runs={tmp_path}/runs.csv"
    assert exit_code_of(("fit", runs, "columns={los: val}"), monkeypatch) == cli.WRONG_COMMAND
    assert "columns.los is not one of params, tokens, " in capsys.readouterr().err
    assert exit_code_of(("fit", runs, "columns={loss: val}"), monkeypatch) == cli.FAILED
    assert "has 1 completed runs: a law needs" in capsys.readouterr().err


def test_a_multirun_goes_on_after_a_bad_job(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code_of(["status", "-m", "study.name=none,other"], monkeypatch) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split("(")[0] for line in said] == [
        f"carbs-scaling: error: no study {name!r} in studies/ " for name in ("none", "other")
    ]


def test_a_multirun_goes_on_in_worker_processes_of_joblib(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs hydra-joblib-launcher")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    result = carbs_scaling("status", "-m", "study.name=none,other", *launcher, cwd=tmp_path)
    assert result.returncode == 2
    assert "no study 'none'" in result.stderr
    assert "no study 'other'" in result.stderr
    assert result.stderr.count("\n") == 2


def test_cfg_job_prints_the_configuration(tmp_path):
    result = carbs_scaling("search", "+experiment=smoke", "budget.flops=1e9", "--cfg", "job", cwd=tmp_path)
    assert result.returncode == 0
    assert "flops: 1000000000.0" in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serch"], "did you mean search?"),
        (["search", "budget.flopz=1"], "did you mean budget.flops?"),
        (["search", "model=gpt3"], "gpt2, llama"),
        (["search", "budget.flops=much"], "budget.flops"),
        (["search", "budget.flops=1e6"], "costs"),
        (["search", "space.width=50"], "multiple of model.head_size=8"),
        (["search", "data=files", "data.paths=[nowhere.txt]"], "nowhere.txt"),
        (["search", "data=files", "data.paths=[empty.txt]"], "empty"),
        (["search", "study.name=a/b"], "study.name"),
        (["search", "study.directory=file/below"], "file/below"),
        (["search", "executor.device=cuda"], "executor.device=cpu"),
        (["front", "study.name=none"], "no study"),
        (["front", "format=xml"], "table, csv, json, parquet"),
        (["search", "sampler=magic"], "sobol"),
        (["compare", "studies=[a,b]"], "no study 'a'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_each_mistake_is_one_line_and_a_non_zero_exit(tmp_path, arguments, said):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "file").write_text("not a folder")
    result = carbs_scaling(*arguments, cwd=tmp_path)
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("carbs-scaling: error: ")
    assert said in lines[0]
    assert "Traceback" not in result.stdout + result.stderr


def test_a_corrupt_ledger_is_one_line_and_stays_as_it_is(tmp_path):
    ledger = tmp_path / "studies" / "default" / "study.db"
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(b"garbage" * 1000)
    for verb in ("search", "front"):
        result = carbs_scaling(verb, cwd=tmp_path)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert "study.db" in result.stderr
    assert ledger.read_bytes() == b"garbage" * 1000


def documented_commands():
    """Every `carbs-scaling VERB ...` of the README and the guide, as a list of words."""
    root = Path(__file__).parent.parent
    text = "".join((root / page).read_text() for page in ("README.md", "docs/guide.md"))
    lines = [
        line
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
        for line in block.splitlines()
    ]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("carbs-scaling ")]
    # Files of the user's own; tests/commands/test_plan.py and tests/models have them.
    own = ("--config-dir", "model.config=", "model.path=")
    return [words for words in commands if not any(word.startswith(own) for word in words)]


@pytest.mark.parametrize("words", documented_commands(), ids=" ".join)
def test_every_documented_command_composes_and_passes_the_schema(composed, words):
    _, verb, *overrides = words
    if "-m" in overrides:
        overrides = [re.sub(r"=([^,\[{]*),.*", r"=\1", text) for text in overrides if text != "-m"]
    config = composed(*written(*overrides), verb=verb)
    if verb == "search" and config.task.name == "pretraining":
        task = load_search(config)[1]
        PretrainingSpace(task.space, task.model, 256, optimizer=task.optimizer.name)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["space=null"], "cannot compose"),
        (["budget.flops=inf"], "budget.flops"),
        (["study.seed=-1"], "study.seed"),
        (["+sampler.magic=1"], "magic"),
        (["space.batch_size.high=3e8"], "space.batch_size"),
        (["data=files", "data.paths=[nothing.jsonl]"], "nothing.jsonl"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_odd_values_are_one_line_and_leave_no_study_behind(tmp_path, overrides, said):
    (tmp_path / "nothing.jsonl").write_text("")
    result = carbs_scaling("search", *overrides, cwd=tmp_path)
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1, result.stderr
    assert said in result.stderr
    assert not (tmp_path / "studies").exists()


def test_an_unknown_ledger_does_not_print_its_password(tmp_path):
    result = carbs_scaling("search", "study.storage=postgresql+nodriver://me:secret@host/db", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert "secret" not in result.stderr


def test_an_optimizer_of_a_table_is_chosen_by_name_though_conf_has_a_folder_of_them(tmp_path):
    rows = ["params,tokens,learning_rate,batch_tokens,loss,optimizer"]
    rows += [f"{n},{20 * n},{rate},65536,3.0,{name}" for n in (10**7, 10**8) for rate in (1e-3, 2e-3, 4e-3)
             for name in ("adamw", "sgd")]  # fmt: skip
    (tmp_path / "two.csv").write_text("\n".join(rows) + "\n")
    for verb, target in (("recommend", ("target.flops=1e20",)), ("fit", ())):
        result = carbs_scaling(verb, "runs=two.csv", "optimizer=muon", *target, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr == ("carbs-scaling: error: there are no runs of 'muon': there are adamw, sgd\n")


def test_a_value_that_must_be_given_is_asked_for_in_one_line(tmp_path):
    result = carbs_scaling("search", "task=command", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "carbs-scaling: error: task.command is missing: add task.command=...\n"
    assert not list(tmp_path.iterdir())
