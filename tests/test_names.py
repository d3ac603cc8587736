"""One rule for the names of studies and models."""

import pytest

from carbs_scaling.config import StudyConfig
from carbs_scaling.errors import ConfigError
from carbs_scaling.names import as_name, require_name


@pytest.mark.parametrize("name", ["a", "7b", "mine-2.1_x", "x" * 200])
def test_letters_digits_and_three_marks_make_a_name(name):
    require_name("study.name", name, "study.directory")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-x", "_x", "[x]", "a b", "a/b", "a\\b", "a:b", "a=b", "a\n", "é", "x" * 201]
)
def test_anything_else_is_refused_with_the_rule(name):
    with pytest.raises(ConfigError, match=r"letters .* digits"):
        StudyConfig(name, "studies", None, 0)


def test_jobs_of_a_multirun_have_names_that_differ():
    jobs = [
        "mine-model=gpt2", "mine-model=llama", "mine-x=1", "mine-x=-1", "mine-x=1e+3", "mine-x=1e-3",
        "mine-space.width=[16,32]", "mine-space.width=[16-32]", f"mine-{'x' * 300}1", f"mine-{'x' * 300}2",
    ]  # fmt: skip
    names = [as_name(job) for job in jobs]
    assert names[0] == "mine-model-gpt2"
    assert len(set(names)) == len(jobs)
    for name in names:
        require_name("study.name", name, "study.directory")
