"""A small Hugging Face Hub on loopback: enough of its API for huggingface_hub and datasets.

Serves repository info, file trees and files of the repositories it is given, at their commits, and
the error codes that the hub's clients tell apart. On request it breaks off in the middle of a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

Repositories = dict[tuple[str, str], dict[str, dict[str, bytes]]]
"""(`models` or `datasets`, id) to commit to path to content; the last commit is `main`."""


Break = Literal["close", "stall"]
"""In the middle of a file: to close the connection, or to send no more."""


@contextmanager
def hub(repositories: Repositories, breaks: Sequence[Break] = ()) -> Iterator[str]:
    """Serve repositories on a free port; yields the address for HF_ENDPOINT.

    Args:
        breaks: how the sending of tensor files ends, one after the other; the rest arrive whole.
    """
    to_come = list(breaks)
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if to_come and urlsplit(self.path).path.endswith(".safetensors"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if to_come.pop(0) == "stall":
                    over.wait()
                self.close_connection = True
            else:
                self.wfile.write(body)

        def missing(self, code: str) -> None:
            self.answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def json(self, value: Any) -> None:
            self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            paths = (
                json.loads(body)["paths"]
                if body.startswith("{")
                else parse_qs(body).get("paths", [])
            )
            self.handle_path(paths)

        def do_GET(self) -> None:
            self.handle_path([])

        def handle_path(self, paths: list[str]) -> None:
            path = unquote(urlsplit(self.path).path)
            info = re.fullmatch(
                r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?",
                path,
            )
            file = re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path)
            if info:
                kind, name, what, revision, under = info.groups()
            elif file:
                kind, name, revision = "datasets" if file[1] else "models", file[2], file[3]
            else:
                return self.missing("EntryNotFound")
            commits = repositories.get((kind, name))
            if commits is None:
                return self.missing("RepoNotFound")
            commit = list(commits)[-1] if revision in (None, "main") else revision
            if commit not in commits:
                return self.missing("RevisionNotFound")
            files = commits[commit]
            if file:
                if file[4] not in files:
                    return self.missing("EntryNotFound")
                content = files[file[4]]
                etag = hashlib.sha256(content).hexdigest()
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
                span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if span is None:
                    return self.answer(200, content, headers)
                first, size = int(span[1]), len(content)
                headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
                return self.answer(206, content[first:], headers)
            if what == "tree":
                under = (under or "").strip("/")
                entries = [e for e in entries_of(files) if e["path"].startswith(under)]
                if under and not entries:
                    return self.missing("EntryNotFound")
                return self.json(entries)
            if what == "paths-info":
                return self.json([e for e in entries_of(files) if e["path"] in paths])
            siblings = [{"rfilename": path} for path in files]
            return self.json({"id": name, "sha": commit, "siblings": siblings, "private": False})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def entries_of(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Files and folders of a commit, as the hub's tree lists them."""
    folders = {path.rpartition("/")[0] for path in files} - {""}
    oid = {path: hashlib.sha1(content).hexdigest() for path, content in files.items()}  # noqa: S324
    return [
        *({"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders),
        *(
            {"type": "file", "path": path, "oid": oid[path], "size": len(content)}
            for path, content in files.items()
        ),
    ]
