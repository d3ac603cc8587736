"""A stand-in of the Hugging Face hub on loopback: a few made-up shards in the layout of real data sets.

It answers what `huggingface_hub` and `datasets` ask to stream or download (repository, tree, paths, ranges of
files), keeps a list of all requests, and can drop connections in the middle of a file.
"""

import gzip
import hashlib
import json
import random
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

WORDS = [
    f"{a}{b}"
    for a in ("lo", "mi", "ra", "te", "su", "na", "ko", "de")
    for b in ("ne", "ta", "ri", "mo", "s", "l")
]


def made_up_texts(count: int, seed: int) -> list[str]:
    """Documents that begin with their own number, of words that a small model learns to spell."""
    drawn = random.Random(seed)
    return [
        f"{seed}-{i}: " + " ".join(drawn.choices(WORDS, k=drawn.randint(20, 120))) + "." for i in range(count)
    ]


def c4(shards: int = 3, documents: int = 200) -> dict[str, bytes]:
    """allenai/c4: gzipped JSON lines, named by their number of 1024, and the card that names its subsets."""
    card = "---\nconfigs:\n"
    for subset in ("en", "realnewslike"):
        card += f"- config_name: {subset}\n  data_files:\n"
        for split in ("train", "validation"):
            card += f"  - split: {split}\n    path: {subset}/c4-{split}.*.json.gz\n"
    files = {"README.md": f"{card}---\n# C4\n".encode()}
    for subset, offset in (("en", 0), ("realnewslike", 500)):
        for split, count, whole in (("train", shards, 1024), ("validation", 1, 8)):
            for shard in range(count):
                texts = made_up_texts(documents, seed=offset + shard + (100 if split == "validation" else 0))
                rows = [
                    {"text": t, "timestamp": "2019-04-25T12:57:54Z", "url": f"http://{i}.x"}
                    for i, t in enumerate(texts)
                ]
                name = f"{subset}/c4-{split}.{shard:05d}-of-{whole:05d}.json.gz"
                files[name] = gzip.compress(_lines(rows), mtime=0)
    return files


def pile(shards: int = 2, documents: int = 200) -> dict[str, bytes]:
    """monology/pile-uncopyrighted: shards of JSON lines by Zstandard, and no card that names them."""
    import zstandard

    files = {"README.md": b"---\nlicense: other\n---\n# Pile Uncopyrighted\n"}
    names = [f"train/{shard:02d}.jsonl.zst" for shard in range(shards)] + ["val.jsonl.zst", "test.jsonl.zst"]
    for number, name in enumerate(names):
        texts = made_up_texts(documents, seed=1000 + number)
        rows = [{"text": text, "meta": {"pile_set_name": "Pile-CC"}} for text in texts]
        half = len(rows) // 2
        # Two frames a file.
        files[name] = b"".join(zstandard.compress(_lines(part)) for part in (rows[:half], rows[half:]))
    return files


def _lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@dataclass
class StandIn:
    """The running server.

    Attributes:
        data_sets: files of each repository, by its name.
        requests: method, path and range of each request so far.
        drops: for each path, after how many bytes the next connections break.
    """

    data_sets: dict[str, dict[str, bytes]]
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    drops: dict[str, list[int]] = field(default_factory=dict)

    def __enter__(self) -> "StandIn":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def read_files(self) -> list[str]:
        """Names of the files whose content was asked for, in order, each run of the same once."""
        names = [
            path.rsplit("/resolve/", 1)[1].split("/", 1)[1]
            for kind, path, _ in self.requests
            if kind == "GET" and "/resolve/" in path
        ]
        return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        for name, files in self.hub.data_sets.items():
            if path.startswith(f"/api/datasets/{name}"):
                return self._api(name, files, path.removeprefix(f"/api/datasets/{name}"), body)
            if path.startswith(f"/datasets/{name}/resolve/"):
                return self._file(name, files, path.split("/resolve/", 1)[1].split("/", 1)[1], path)
        self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _api(self, name: str, files: dict[str, bytes], rest: str, body: bytes) -> None:
        if rest.startswith("/paths-info/"):
            kind = self.headers.get("Content-Type", "")
            asked = json.loads(body)["paths"] if "json" in kind else parse_qs(body.decode())["paths"]
            asked = [asked] if isinstance(asked, str) else asked
            found = [_entry(path, files[path]) for path in asked if path in files]
            folders = [p for p in asked if any(path.startswith(f"{p}/") for path in files)]
            return self._json(
                found + [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in folders]
            )
        if rest.startswith("/tree/"):
            below = rest.removeprefix("/tree/").partition("/")[2]
            paths = [path for path in files if not below or path.startswith(f"{below}/")]
            inner = {path[len(below) :].lstrip("/").split("/")[0] for path in paths}
            recursive = "recursive=true" in self.path.lower()
            entries = [
                _entry(p, files[p]) for p in paths if recursive or "/" not in p[len(below) :].lstrip("/")
            ]
            folders = {f"{below}/{name}".lstrip("/") for name in inner} - set(files)
            entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in sorted(folders)]
            return (
                self._json(entries)
                if paths
                else self._json({"error": "not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            )
        times = dict.fromkeys(("lastModified", "createdAt"), "2024-01-01T00:00:00.000Z")
        flags = dict.fromkeys(("private", "gated", "disabled"), False)
        counts = dict.fromkeys(("downloads", "likes"), 0)
        siblings = [{"rfilename": path} for path in files]
        about = {"_id": "0" * 24, "id": name, "sha": commit(files), "tags": [], "siblings": siblings}
        self._json({**about, **times, **flags, **counts})

    def _file(self, name: str, files: dict[str, bytes], file: str, path: str) -> None:
        if file not in files:
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        content, status = files[file], 200
        headers = {
            "X-Repo-Commit": commit(files), "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream",
        }  # fmt: skip
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        self._send(status, headers, content, self.hub.drops.get(path.split("/resolve/")[1].split("/", 1)[1]))

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(
            status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode()
        )

    def _send(
        self, status: int, headers: dict[str, str], content: bytes, drops: list[int] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if drops:
            self.wfile.write(content[: drops.pop(0)])
            self.close_connection = True  # though more was promised
            return
        self.wfile.write(content)


def commit(files: dict[str, bytes]) -> str:
    """A name for the state of a repository, as long as Git's."""
    return hashlib.sha1(
        repr(sorted((path, hashlib.sha1(data).hexdigest()) for path, data in files.items())).encode()
    ).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": path}
