"""An archive on the loopback address: the same API shape as EMPIAR, with the faults that a test asks for."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Set
from urllib.parse import quote, unquote

N_MOVIES = 5


def entry(**imageset: Any) -> Dict[str, Any]:
    movies = {
        "name": "raw movies", "directory": "/data/movies", "category": "micrographs - multiframe",
        "data_format": "MRC", "num_images_or_tilt_series": N_MOVIES, "frames_per_image": 3, "pixel_width": 1.5,
        "pixel_height": 1.5, "image_width": "20", "image_height": "16", "details": "",
    }  # fmt: skip
    stacks = {"name": "particles", "directory": "data/stacks", "category": "picked particles - single frame"}
    content = {"title": "A small protein", "dataset_size": "12.4 TB", "cross_references": ["EMD-1234"]}
    return {"EMPIAR-10025": {**content, "imagesets": [stacks, {**movies, **imageset}]}}


def map_entry() -> Dict[str, Any]:
    microscopy = {
        "acceleration_voltage": {"units": "kV", "valueOf_": "300"}, "nominal_cs": {"valueOf_": "2.7"},
        "image_recording_list": {"image_recording": [{"average_electron_dose_per_image": {"valueOf_": "53.0"}}]},
    }  # fmt: skip
    structure = {"microscopy_list": {"microscopy": [microscopy]}}
    return {"structure_determination_list": {"structure_determination": [structure]}}


def movie(number: int) -> str:
    return f"data/movies/grid/movie {number}.mrc"


FOLDER = Path("empiar/EMPIAR-10025")


class FakeArchive:
    """Serves `/api/entry/N/`, `/maps/entry/EMD-N` and `/files/N/...` from a dictionary.

    Attributes
    ----------
    files
        Path below the entry's folder -> content.
    entry, map_entry
        What the two APIs answer; None = 404.
    break_at
        Path -> after how many bytes the connection breaks, each time.
    lie
        Path -> bytes that are added to the size which HEAD says.
    no_ranges
        Whether Range is ignored.
    dead
        Paths whose body never brings a byte.
    special
        Method and path, such as `GET /files/10025/data/`, -> who answers instead.
    """

    def __init__(self) -> None:
        self.files: Dict[str, bytes] = {}
        self.entry: Optional[Any] = None
        self.map_entry: Optional[Any] = None
        self.break_at: Dict[str, int] = {}
        self.lie: Dict[str, int] = {}
        self.no_ranges = False
        self.dead: Set[str] = set()
        self.special: Dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: Counter = Counter()
        self.ranges: list = []
        self.together = self.most_together = 0
        self.lock = threading.Lock()
        archive = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_HEAD(self) -> None:
                archive.serve(self, has_body=False)

            def do_GET(self) -> None:
                with archive.lock:
                    archive.together += 1
                    archive.most_together = max(archive.most_together, archive.together)
                try:
                    archive.serve(self, has_body=True)
                finally:
                    with archive.lock:
                        archive.together -= 1

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def serve(self, handler: BaseHTTPRequestHandler, has_body: bool) -> None:
        path = unquote(handler.path)
        with self.lock:
            self.requests[(handler.command, path)] += 1
        if f"{handler.command} {path}" in self.special:
            handler.close_connection = True
            return self.special[f"{handler.command} {path}"](handler)
        if path.startswith("/api/entry/"):
            return self.answer_json(handler, self.entry)
        if path.startswith("/maps/entry/"):
            return self.answer_json(handler, self.map_entry)
        name = path.split("/", 3)[3] if path.startswith("/files/") else path
        if name in self.files:
            return self.answer_file(handler, name, has_body)
        inside = {
            f[len(name) :].split("/")[0] + "/" * ("/" in f[len(name) :]) for f in self.files if f.startswith(name)
        }
        if not inside or not f"/{name}".endswith("/"):
            return self.answer(handler, 404, b"no such thing")
        links = ['<a href="?C=N;O=D">Name</a>', '<a href="/files/">Parent Directory</a>']
        links += [f'<a href="{quote(item)}">{item}</a>' for item in sorted(inside)]
        return self.answer(handler, 200, "\n".join(["<html><body>", *links, "</body></html>"]).encode())

    def answer_json(self, handler: BaseHTTPRequestHandler, content: Any) -> None:
        if content is None:
            return self.answer(handler, 404, b"{}")
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.answer(handler, 200, text)

    def answer(self, handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    def answer_file(self, handler: BaseHTTPRequestHandler, name: str, has_body: bool) -> None:
        content = self.files[name]
        if not has_body:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content) + self.lie.get(name, 0)))
            handler.end_headers()
            return
        first = 0
        wanted = handler.headers.get("Range")
        if wanted:
            self.ranges.append((name, wanted))
        if wanted and not self.no_ranges:
            first = int(wanted.split("=")[1].split("-")[0])
            if first >= len(content):
                return self.answer(handler, 416, b"")
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        body = content[first:]
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if name in self.dead:
            body = b""
        limit = self.break_at.get(name)
        handler.wfile.write(body if limit is None else body[:limit])
        handler.wfile.flush()
        if name in self.dead or (limit is not None and len(body) > limit):
            handler.close_connection = True
            handler.connection.close()
