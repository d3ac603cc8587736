"""The pages name files and pages that exist, and the README stays one page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Repository paths in backticks or commands, without placeholders or globs.
PATHS = re.compile(r"\b(?:carbs_scaling|benchmarks|conf|examples|tests)/[\w./]*\w\.(?:py|yaml|md)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    missing = sorted({path for path in PATHS.findall(page.read_text()) if not (ROOT / path).exists()})
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_the_readme_is_one_page_and_free_of_paths_outside_the_repository():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert "../" not in text
