"""What is behind one door is known nowhere else."""

import re
from pathlib import Path

import carbs_scaling

PACKAGE = Path(carbs_scaling.__file__).parent
BEHIND_THE_TASK = re.compile(r"gpt2|llama|tokens_per_parameter")
MAY_NAME_THEM = ("tasks", "models")


def test_families_and_dimensions_of_pretraining_are_named_only_behind_its_door():
    found = [
        f"{file.relative_to(PACKAGE)}:{number}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.relative_to(PACKAGE).parts[0] not in MAY_NAME_THEM
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if BEHIND_THE_TASK.search(line)
    ]
    assert found == []


def test_search_ledger_executors_and_display_import_no_task_but_the_protocol():
    own = [PACKAGE / "search.py", *(PACKAGE / "ledger").glob("*.py"), *(PACKAGE / "executors").glob("*.py")]
    own += [PACKAGE / "report" / f"{name}.py" for name in ("live", "progress", "front", "table", "html")]
    imported = re.compile(
        r"(?:from|import) carbs_scaling\.(tasks\.(?!task\b)\w+|models|training|data|compute(?!\.energy))"
    )
    assert [file.name for file in own if imported.search(file.read_text())] == []
