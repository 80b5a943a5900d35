"""A hub of one repository on loopback, with faults to order: what HF_ENDPOINT points to."""

import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORIES = (
    "/api/models/some/model",
    "/some/model/",
    "/api/datasets/some/data",
    "/datasets/some/data/",
)


class Hub(ThreadingHTTPServer):
    """Serves ``folder`` as the repository ``some/model``, or as the data set ``some/data``.

    Attributes
    ----------
    status : HTTP status that every request is refused with; 200 serves.
    cuts : bytes after which the weights' connection breaks, a number a request; then it holds.
    spoil : whether the weights are sent with one byte changed.
    ranges : first byte of every request for the weights.
    served : names of the files sent, in order.
    """

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.status, self.spoil = 200, False
        self.cuts: list[int] = []
        self.served: list[str] = []
        self.ranges: list[int] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def blob_id(name: str, data: bytes) -> str:
    if is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub = self.server
        if hub.status in (401, 403):
            return self.answer(hub.status, X_Error_Code="GatedRepo", X_Error_Message="gated")
        if hub.status != 200:
            return self.answer(hub.status)
        path = self.path.split("?")[0]
        if not path.startswith(REPOSITORIES):
            return self.answer(404, X_Error_Code="RepoNotFound")
        revision = re.search(r"/(?:revision|tree|resolve)/([^/]+)", path)
        if revision and revision[1] not in ("main", COMMIT):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if "/tree/" in path:
            return self.answer(200, json.dumps(self.tree()).encode())
        if path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in hub.files]
            info = {"id": "some/model", "sha": COMMIT, "siblings": siblings}
            return self.answer(200, json.dumps(info).encode())
        return self.file(path.rsplit("/", 1)[1])

    def tree(self) -> list[dict]:
        entries = []
        for name, data in self.server.files.items():
            entry = {"type": "file", "path": name, "size": len(data)}
            entry["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if is_large(name):
                lfs = {"oid": blob_id(name, data), "size": len(data), "pointerSize": 130}
                entry["lfs"] = lfs
            entries.append(entry)
        return entries

    def file(self, name: str) -> None:
        hub = self.server
        if name not in hub.files:
            return self.answer(404, X_Error_Code="EntryNotFound")
        data = hub.files[name]
        etag = f'"{blob_id(name, data)}"'
        headers = {"ETag": etag, "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        if self.command == "GET":
            hub.served.append(name)
        if not is_large(name) or self.command == "HEAD":
            return self.answer(200, data, **headers)
        if hub.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(re.sub(r"\D", "", (self.headers["Range"] or "0").split("-")[0]) or 0)
        hub.ranges.append(start)
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        end = hub.cuts.pop(0) if hub.cuts else len(data)
        self.wfile.write(data[start:end])
        if end < len(data):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
