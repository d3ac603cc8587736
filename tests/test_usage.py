"""Help of each verb from the comments in `conf/`, and what a TAB completes."""

import os
import shutil
import subprocess
import sys

import pytest

from carbs_scaling.config_keys import verb_keys
from carbs_scaling.usage import SHELLS, VERBS, completions, usage, verb_usage

COMPLETE = """{script}
COMP_LINE="$1" COMP_POINT=${{#1}}
_carbs_scaling
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_a_line_for_each_of_its_keys(verb, composed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = verb_usage(verb, [])
    known = verb_keys(verb)
    assert not [key.name for key in known.keys if not key.comment]
    for key in known.keys:
        assert len([line for line in text.splitlines() if line.startswith(f"  {key.name}=")]) == 1
    assert text.count(f"\n  carbs-scaling {verb} ") == 3
    # Its own keys and groups: what Hydra composes, and nothing else.
    config = composed(verb=verb)
    assert {key.name.split(".")[0] for key in known.keys} == set(config)
    assert max(map(len, text.splitlines())) <= 110


def test_help_follows_the_options_that_are_chosen():
    assert "search it" not in verb_usage("fit", [])
    assert "sampler.population_size=20" in verb_usage("search", ["sampler=nsga2"])
    assert "sampler=nsga2" in verb_usage("search", ["sampler=nsga2"])
    assert "space.width={low: 128, high: 2048, log: true}" in verb_usage("search", ["space=language_model"])
    assert "executor" not in verb_usage("front", [])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("carbs-scaling se", ["search"]),
        ("carbs-scaling search mod", ["model=", "model.head_size=", "model.sequence_length="]),
        ("carbs-scaling search model=l", ["model=llama"]),
        ("carbs-scaling search +experiment=sm", ["+experiment=smoke"]),
        ("carbs-scaling front plots=", ["plots=true", "plots=false"]),
        ("carbs-scaling front model", []),
        ("carbs-scaling nothing x", []),
    ],
)
def test_completions(line, words):
    assert set(words) <= set(completions(line))
    assert bool(words) == bool(completions(line))


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_tab_in_bash(tmp_path):
    program = tmp_path / "carbs-scaling"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m carbs_scaling.cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = COMPLETE.format(script=SHELLS["bash"])
    for line, words in (
        ("carbs-scaling search model=l", ["llama"]),
        ("carbs-scaling comp", ["compare"]),
    ):
        result = subprocess.run(
            ["bash", "-c", script, "bash", line], env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.split() == words
        assert result.stderr == ""


def test_help_of_the_program_names_every_verb():
    assert all(f"\n  {verb} " in usage() for verb in VERBS)
