"""The password of `study.storage` is neither printed nor written: any form of URL, any verb, any error."""

import sys

import pytest

from carbs_scaling import cli
from carbs_scaling.commands import front
from carbs_scaling.errors import CarbsScalingError
from carbs_scaling.ledger.study import database_url
from carbs_scaling.passwords import cleaned, remember
from carbs_scaling.usage import VERBS

URLS = {
    "port": "postgresql://me:s3cr3tPW@127.0.0.1:54x2/db",
    "query": "postgresql://127.0.0.1:1/db?user=me&password=s3cr3tPW",
    "two ats": "postgresql://me:s3cr3t@PW@127.0.0.1:1/db",
    "an at in the query": "postgresql://127.0.0.1:1/db?password=s3cr3t@PW",
    "question mark": "postgresql://me:s3cr3t?PW@127.0.0.1:1/db",
    "slash": "postgresql://me:s3cr3t/PW@127.0.0.1:1/db",
    "escaped": "mysql+nodriver://me:s3cr3t%40PW@127.0.0.1:1/db",
    "driver's own": "mssql+nodriver:///?odbc_connect=DRIVER%3Dx%3BPWD%3Ds3cr3tPW%3BSERVER%3Dh",
    "no backend": "postgres9://me:s3cr3tPW@127.0.0.1/db",
}
SECRETS = ("s3cr3t", "PW@", "PW")


@pytest.fixture
def said(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process, in `tmp_path`; gives all that it printed, and its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv(cli.STORAGE, "")
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["carbs-scaling", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        except RuntimeError:
            sys.excepthook(*sys.exc_info())
            code = "uncaught"
        printed = capsys.readouterr()
        return printed.out + printed.err, code

    return run


def hides(text):
    return not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_no_form_of_url_is_printed(said, url, tmp_path):
    for given in (f"study.storage={url}", f'study.storage="{url}"', f"study={{storage: '{url}'}}"):
        text, code = said("front", given)
        assert code in (1, 2)
        assert text.startswith("carbs-scaling: error: ")
        assert text.count("\n") == 1
        assert hides(text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_prints_it_in_an_error_or_with_its_configuration(said, verb):
    storage = f"study.storage={URLS['two ats']}"
    for more in (
        ["study.name=[", "x"],
        ["budget={"],
        ["nothing=1"],
        ["--cfg", "job"],
        ["--cfg=job", "--resolve"],
    ):
        text, _ = said(verb, storage, *more)
        assert text
        assert hides(text)


def test_no_uncaught_error_and_no_preset_prints_it(said, monkeypatch, tmp_path):
    def fail(composed):
        raise RuntimeError(f"cannot connect: {composed.study.storage}")

    url = "postgresql://me:s3cr3tPW@localhost/db"
    monkeypatch.setattr(front, "run", fail)
    text, code = said("front", f"study.storage={url}")
    assert code == "uncaught"
    assert "Traceback" in text
    assert hides(text)
    preset = tmp_path / "conf" / "experiment" / "mine.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(f"# @package _global_\nstudy: {{storage: '{url}'}}\n")
    text, code = said("front", "--config-dir", "conf", "+experiment=mine", "--cfg", "job")
    assert "@localhost/db" in text
    assert hides(text)


def test_a_multirun_writes_it_nowhere(said, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        front, "run", lambda composed: seen.append((composed.study.seed, composed.study.storage))
    )
    url = "postgresql://me:s3cr3tPW@h1,h2/db"
    text, code = said("front", "-m", f"study.storage={url}", "study.seed=0,1")
    assert code == 0
    assert seen == [(0, url), (1, url)]
    assert hides(text)
    assert list(tmp_path.iterdir()) == []
    assert said("front", "hydra.output_subdir=x")[1] == 2


def test_urls_that_can_be_read_in_two_ways_are_refused_with_what_to_write():
    for url in (URLS["two ats"], URLS["an at in the query"], URLS["question mark"], "nothing"):
        with pytest.raises(CarbsScalingError, match="%40") as error:
            database_url(url)
        assert error.value.__suppress_context__
    assert database_url("postgresql://me:a%40b@h/db").password == "a@b"
    assert database_url("sqlite:////home/me@work/x.db").database == "/home/me@work/x.db"


def test_cleaning_leaves_other_text_alone():
    remember("postgresql://me:ab@host/db")  # too short to be looked for in other words
    text = "about 12 tokens a second; see https://example.org/a and pad_token=x"
    assert cleaned(text) == text
