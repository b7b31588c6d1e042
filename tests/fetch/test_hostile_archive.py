"""An archive that lies, or is another's: nothing outside of the folder, nothing without end, no traceback, one line."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Callable, Dict, List
from urllib.parse import quote

import pytest
import requests

from cryoden.config.fetch import FetchConfig
from cryoden.fetch import session
from cryoden.fetch.empiar import LINK, Entry, other_ways, read_entry, read_microscope
from cryoden.fetch.session import Session, open_session
from cryoden.fetch.untrusted import BadAnswerError, part_of, path_below, place_below, positive_number, printable
from tests.fetch.server import FOLDER, N_MOVIES, FakeArchive, entry, map_entry, movie

Handler = BaseHTTPRequestHandler


def says(body: bytes, *headers: str, status: str = "200 OK", has_length: bool = True) -> Callable[[Handler], None]:
    """Answer with bytes as they are."""

    def answer(handler: Handler) -> None:
        length = [f"Content-Length: {len(body)}"] if has_length else []
        handler.wfile.write("\r\n".join([f"HTTP/1.1 {status}", *length, *headers, "", ""]).encode("latin-1") + body)

    return answer


def without_end(piece: bytes, pause_s: float = 0.0) -> Callable[[Handler], None]:
    """Answer until nobody listens."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while not threading.Event().wait(pause_s):
                handler.wfile.write(piece)
        except OSError:
            pass

    return answer


def listing(*links: str) -> bytes:
    return "\n".join(f'<a href="{link}">{link}</a>' for link in links).encode()


def written_outside() -> List[Path]:
    return [path for path in Path().rglob("*") if path.is_file() and FOLDER not in path.parents]


def assert_one_line(result: Any, status: int = 2) -> None:
    assert result.status == status, result.err
    lines = [line for line in result.err.splitlines() if line.startswith("cryoden: ")]
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err
    assert all(letter.isprintable() for letter in lines[0])


# ---------------------------------------------------------------------- where files are written
@pytest.mark.parametrize(
    ("directory", "status"),
    [("../../..", 2), ("data/../../x", 2), ("..\\..\\x", 2), ("data\\movies", 2), ("data/\x1b[2J", 2),
     ("data/\ud800", 2), ("//data//./movies/", 0), ("/", 0), ("", 0), (".", 0)],
)  # fmt: skip
def test_a_directory_leads_nowhere_else(archive: FakeArchive, fetch: Any, directory: str, status: int) -> None:
    archive.entry = entry(directory=directory)
    archive.files["../../../../x/evil.mrc"] = archive.files[movie(0)]
    result = fetch("--subset", 1)
    if status:
        assert_one_line(result)
        assert "which is no path inside the entry." in result.last_error
    else:
        assert result.status == 0
    assert written_outside() == []


def test_an_absolute_directory_is_one_of_the_entry(archive: FakeArchive, fetch: Any, tmp_path: Path) -> None:
    directory = str(tmp_path / "elsewhere")
    archive.entry = entry(directory=directory)
    archive.files[f"{directory.strip('/')}/a.mrc"] = archive.files[movie(0)]
    assert fetch().status == 0
    assert (FOLDER / directory.strip("/") / "a.mrc").is_file()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "link", ["../x.mrc", "..%2fx.mrc", "%2e%2e/x.mrc", "/x.mrc", "//evil/x.mrc", "file:///x.mrc", "..%5cx.mrc",
             "x%00.mrc", "%1b%5b2Jx.mrc", "x%0a.mrc", "&#46;&#46;&#92;x.mrc", "\u202ecrm.x.mrc"],
)  # fmt: skip
def test_a_listed_name_leads_nowhere_else(archive: FakeArchive, fetch: Any, link: str) -> None:
    archive.special["GET /files/10025/data/movies/"] = says(listing("grid/", link))
    result = fetch()
    assert result.status in (0, 1)
    assert written_outside() == []
    failed = [line for line in result.err.splitlines() if line.startswith("cryoden: failed: ")]
    assert len(failed) == result.status
    assert all(letter.isprintable() for line in failed for letter in line)
    assert len(list(FOLDER.rglob("*.mrc"))) == N_MOVIES + 1


@pytest.mark.parametrize("kind", ["folder", "file", "part", "circle"])
def test_a_link_leads_nowhere_else(archive: FakeArchive, fetch: Any, tmp_path: Path, kind: str) -> None:
    place = FOLDER / movie(0)
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious"
    precious.write_text("mine")
    if kind == "folder":
        place.parent.parent.mkdir(parents=True)
        place.parent.symlink_to(outside)
    elif kind == "circle":
        place.parent.parent.mkdir(parents=True)
        place.parent.symlink_to(place.parent)
    else:
        place.parent.mkdir(parents=True)
        Path(f"{place}.part" if kind == "part" else place).symlink_to(precious)
    result = fetch("--subset", 1)
    assert_one_line(result)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert precious.read_text() == "mine"


def test_the_folder_itself_may_be_a_link(archive: FakeArchive, fetch: Any, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    FOLDER.parent.mkdir()
    FOLDER.symlink_to(tmp_path / "large disk")
    assert fetch("--subset", 1).status == 0
    assert (tmp_path / "large disk" / movie(0)).is_file()


def test_a_name_that_is_a_file_and_a_folder(archive: FakeArchive, fetch: Any) -> None:
    archive.special["GET /files/10025/data/movies/"] = says(listing("grid/", "a.mrc", "a.mrc/"))
    archive.special["GET /files/10025/data/movies/a.mrc/"] = says(listing("b.mrc"))
    for name in ("a.mrc", "a.mrc/b.mrc"):
        archive.special[f"HEAD /files/10025/data/movies/{name}"] = says(b"", "Content-Length: 4", has_length=False)
        archive.special[f"GET /files/10025/data/movies/{name}"] = says(b"1234")
    result = fetch("--jobs", 1)
    assert result.status == 1
    assert len([line for line in result.err.splitlines() if line.startswith("cryoden: failed: ")]) == 2
    assert "Traceback" not in result.err
    assert len(list((FOLDER / "data/movies/grid").iterdir())) == N_MOVIES


def test_a_name_that_is_too_long(archive: FakeArchive, fetch: Any) -> None:
    archive.files[f"data/movies/grid/{'n' * 300}.mrc"] = archive.files[movie(0)]
    archive.files[f"data/movies/grid/{'m' * 248}.mrc"] = archive.files[movie(0)]  # with .part it is
    result = fetch()
    assert result.status == 1
    assert result.err.count("(File name too long).") == 2
    assert len(list((FOLDER / "data/movies/grid").iterdir())) == N_MOVIES


# ---------------------------------------------------------------------- how much is read
@pytest.mark.parametrize(
    "path", ["api/entry/10025/", "files/10025/data/movies/", "files/10025/data/movies/md5sums.txt"]
)
def test_an_answer_without_end(archive: FakeArchive, fetch: Any, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(session, "MOST_BYTES", 3 << 20)
    archive.files["data/movies/md5sums.txt"] = b""
    archive.special[f"GET /{path}"] = without_end(b"[" * (1 << 16))
    result = fetch()
    assert_one_line(result)
    assert result.last_error.endswith(": the answer has more than 3 MiB; no such list is so long.")


def test_an_answer_that_drips(archive: FakeArchive, fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MOST_SECONDS", 0.5)
    archive.special["GET /api/entry/10025/"] = without_end(b" ", 0.02)
    result = fetch()
    assert_one_line(result)
    assert "does not finish its answer within 0.5 s." in result.last_error


def test_a_compressed_answer_that_inflates_twice(archive: FakeArchive, fetch: Any) -> None:
    archive.special["GET /api/entry/10025/"] = says(b"x", "Content-Encoding: gzip, gzip")
    result = fetch()
    assert_one_line(result)
    assert "the answer is compressed as 'gzip, gzip'." in result.last_error


def test_the_server_decides_not_how_long_to_wait(archive: FakeArchive, fetch: Any) -> None:
    archive.special["GET /api/entry/10025/"] = says(b"", "Retry-After: 99999", status="503 Busy")
    result = fetch()
    assert_one_line(result)
    assert "the server answers 503 Busy. Try again later." in result.last_error


@pytest.mark.parametrize("page", ["<a " * 300_000, '<a href="' * 100_000, "<!--" * 200_000, "<![" * 200_000, "<a href"])
def test_pages_take_linear_time(page: str) -> None:
    assert [match for match in LINK.finditer(page) if match[1] and "/" in match[1]] == []


def test_movies_that_servers_call_compressed(archive: FakeArchive, fetch: Any) -> None:
    """Web servers say so of files whose name ends in .gz; the file is what is wanted, as it is."""
    content = archive.files[movie(0)]
    archive.special[f"GET /files/10025/{movie(0)}"] = says(content, "Content-Encoding: x-gzip")
    assert fetch("--subset", 1).status == 0
    assert (FOLDER / movie(0)).read_bytes() == content


# ---------------------------------------------------------------------- what a terminal is shown
def test_no_control_character_reaches_the_terminal(archive: FakeArchive, fetch: Any) -> None:
    evil = "\x1b]0;owned\x07\r\n\x9b2J\u202e\ud800"
    archive.entry = entry(name=evil, category=f"multiframe{evil}", data_format=evil)
    archive.entry["EMPIAR-10025"].update(title=f"A title{evil}" + 9999 * "x", dataset_size=evil)
    result = fetch("--subset", 1)
    assert result.status == 0, result.err
    assert all(letter.isprintable() for line in result.out.split("\n") for letter in line)
    first, *_ = result.out.splitlines()
    assert first.startswith("EMPIAR-10025: A title\\x1b]0;owned\\x07\\r\\n\\x9b2J\\u202e\\ud800xxx")
    assert len(first) < 500
    record = json.loads((FOLDER / "entry.json").read_text())
    assert record["title"].isprintable()


def test_reasons_of_the_server_are_shown_safely(archive: FakeArchive, fetch: Any) -> None:
    archive.special["GET /api/entry/10025/"] = says(b"", status="500 \x1b[2J")
    result = fetch()
    assert_one_line(result)
    assert "the server answers 500 \\x1b[2J." in result.last_error


def test_commands_to_copy_are_quoted() -> None:
    for line in other_ways("10025", "data; rm -rf $HOME `id`"):
        assert "'" in line
        assert line.split("'")[1].endswith("10025/data; rm -rf $HOME `id`")
    assert "'" not in "".join(other_ways("10025", "/data/movies"))


# ---------------------------------------------------------------------- answers of every form
ANSWERS: Dict[str, bytes] = {
    "nothing": b"",
    "page": b"<html>",
    "number": b"7",
    "null": b"null",
    "text": b'"x"',
    "list": b"[]",
    "empty": b"{}",
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "huge number": b'{"EMPIAR-10025": 1' + b"0" * 400 + b"}",
    "more digits than are converted": b'{"EMPIAR-10025": 1' + b"0" * 5000 + b"}",
    "not UTF-8": b'\xff\xfe{"\xed\xa0\x80"',
    "entry is a list": b'{"EMPIAR-10025": []}',
    "entry is a text": b'{"EMPIAR-10025": "x"}',
    "image sets are null": b'{"EMPIAR-10025": {"title": "x", "imagesets": null}}',
    "image sets are a number": b'{"EMPIAR-10025": {"title": "x", "imagesets": 7}}',
    "image sets are texts": b'{"EMPIAR-10025": {"title": "x", "imagesets": ["x"]}}',
    "image set is null": b'{"EMPIAR-10025": {"title": "x", "imagesets": [null]}}',
    "references are a number": b'{"EMPIAR-10025": {"title": "x", "imagesets": [], "cross_references": 7}}',
}


@pytest.fixture
def config(archive: FakeArchive) -> FetchConfig:
    places = {"api": f"{archive.address}/api", "files": f"{archive.address}/files", "maps": f"{archive.address}/maps"}
    return FetchConfig(archive="empiar", entry="10025", **places)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_entries_of_every_form(archive: FakeArchive, config: FetchConfig, answer: bytes) -> None:
    archive.special["GET /api/entry/10025/"] = says(answer)
    with open_session() as session, pytest.raises(BadAnswerError, match=r" gives an answer that is no EMPIAR entry \("):
        read_entry(session, config)


ODD_VALUES = [None, True, 7, -1, 10**400, 1e308, "x", "nan", "inf", "-1", "", [], {}, [[]], {"valueOf_": {}}, "\ud800",
              {"valueOf_": 10**400}, {"valueOf_": True}, "1" * 5000]  # fmt: skip


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value)[:20])
def test_image_sets_of_every_form(archive: FakeArchive, config: FetchConfig, value: Any) -> None:
    for key in ("image_width", "image_height", "frames_per_image", "num_images_or_tilt_series", "pixel_width", "name",
                "data_format", "category", "details"):  # fmt: skip
        archive.entry = entry(**{key: value})
        with open_session() as session:
            read = read_entry(session, config).imagesets[1]
        assert read.sampling_rate in (None, 1.5, 7)
        assert read.name.isprintable()


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value)[:20])
def test_microscopes_of_every_form(archive: FakeArchive, config: FetchConfig, value: Any) -> None:
    def variants() -> List[Any]:
        contents = [map_entry() for _ in range(9)]
        outer = contents[0]["structure_determination_list"]
        outer["structure_determination"] = value
        contents[1]["structure_determination_list"] = value
        contents[2]["structure_determination_list"]["structure_determination"] = [value]
        microscopes = [part_of(c, "structure_determination_list", "structure_determination", 0) for c in contents[3:]]
        microscopes[0]["microscopy_list"] = value
        microscopes[1]["microscopy_list"]["microscopy"] = value
        microscopes[2]["microscopy_list"]["microscopy"] = [value]
        microscopes[3]["microscopy_list"]["microscopy"][0]["acceleration_voltage"] = value
        microscopes[4]["microscopy_list"]["microscopy"][0]["image_recording_list"] = value
        microscopes[5]["microscopy_list"]["microscopy"][0]["image_recording_list"]["image_recording"] = value
        return [value, *contents]

    with open_session() as session:
        for content in variants():
            archive.map_entry = content
            read = read_microscope(session, config, Entry("10025", "", "", [], ["EMD-1234"]))
            assert read.voltage in (None, 300, 7)
            assert read.dose in (None, 53)


@pytest.mark.parametrize(
    "headers",
    [["Content-Length: \u00b2"], ["Content-Length: -5"], ["Content-Length: x"], ["Content-Length: 1" + "0" * 400], [],
     ["Content-Length: 0"], ["Content-Length: 5", "Content-Length: 6"], ["Content-Length: 1e3"]],
    ids=str,
)  # fmt: skip
def test_lengths_of_every_form(archive: FakeArchive, fetch: Any, headers: List[str]) -> None:
    """One file whose size is not said is left out by name; the others arrive."""
    archive.special[f"HEAD /files/10025/{movie(1)}"] = says(b"", *headers, has_length=False)
    result = fetch()
    assert result.status == 1, result.err
    assert result.last_error.startswith(f"cryoden: failed: {movie(1)}: ")
    assert "Traceback" not in result.err
    assert len(list(FOLDER.rglob("movie ?.mrc"))) == N_MOVIES - 1
    assert json.loads((FOLDER / "entry.json").read_text())["movies"] == [movie(n) for n in (0, 2, 3, 4)]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 99999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 70000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 302 F\r\nLocation: http://[::1\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: https://" + b"a" * 99 + b"..b/\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: \xff\xfe\r\n\r\n",
    ],
    ids=lambda answer: repr(answer[:40]),
)
def test_answers_that_are_no_http(archive: FakeArchive, fetch: Any, answer: bytes) -> None:
    archive.special["GET /api/entry/10025/"] = lambda handler: handler.wfile.write(answer) and None
    assert_one_line(fetch())


def test_a_file_that_went_away_is_not_asked_for_again(archive: FakeArchive, fetch: Any) -> None:
    archive.special[f"GET /files/10025/{movie(1)}"] = says(b"", status="403 No\x1b")
    result = fetch()
    assert result.status == 1
    assert result.last_error.endswith("movie%201.mrc: the server answers 403 No\\x1b.")
    assert archive.requests[("GET", f"/files/10025/{movie(1)}")] == 1


def test_what_nobody_expects_fails_one_file(archive: FakeArchive, fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoden.fetch import commands

    check = commands._check_image

    def stumble(path: Path) -> None:
        if path.name == "movie 1.mrc":
            raise ZeroDivisionError("of a decoder")
        check(path)

    monkeypatch.setattr(commands, "_check_image", stumble)
    result = fetch()
    assert_one_line(result, status=1)
    assert "failed unexpectedly (ZeroDivisionError: of a decoder); see the log file." in result.last_error
    assert "Traceback" in json.loads((FOLDER / "log.jsonl").read_text())["traceback"]


# ---------------------------------------------------------------------- redirects
def redirect(to: str) -> Callable[[Handler], None]:
    return says(b"", f"Location: {to}", status="302 Found")


def test_a_redirect_on_the_same_server_is_followed(archive: FakeArchive, fetch: Any) -> None:
    archive.special["GET /files/10025/data/movies/"] = redirect("/files/10025/data/movies/grid/")
    archive.special[f"GET /files/10025/{movie(0)}"] = redirect(f"/files/10025/{quote(movie(0))}?again")
    archive.special[f"GET /files/10025/{movie(0)}?again"] = says(archive.files[movie(0)])
    archive.special[f"HEAD /files/10025/{movie(0)}"] = says(b"", "Content-Length: 1984", has_length=False)
    archive.entry = entry(directory="data/movies/grid")
    assert fetch("--subset", 1).status == 0
    assert (FOLDER / movie(0)).read_bytes() == archive.files[movie(0)]


def test_a_redirect_without_encryption_is_not_followed(archive: FakeArchive, fetch: Any) -> None:
    other = FakeArchive()
    try:
        archive.special["GET /api/entry/10025/"] = redirect(f"{other.address}/api/entry/10025/")
        result = fetch()
        assert_one_line(result)
        assert f"redirects to {other.address}, which is not encrypted; it is not followed." in result.last_error
        del archive.special["GET /api/entry/10025/"]
        archive.special[f"GET /files/10025/{movie(1)}"] = redirect(f"{other.address}/files/10025/x")
        assert_one_line(fetch(), status=1)
        assert not other.requests
    finally:
        other.close()


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://example.org/x", "gopher://x", "http://127.0.0.1:9/"])
def test_a_redirect_to_something_else(archive: FakeArchive, fetch: Any, to: str) -> None:
    archive.special["GET /api/entry/10025/"] = redirect(to)
    assert_one_line(fetch())


def test_redirects_in_a_circle(archive: FakeArchive, fetch: Any) -> None:
    archive.special["GET /api/entry/10025/"] = redirect("/api/entry/10025/")
    assert_one_line(fetch())


def test_encryption_is_kept_and_other_hosts_are_not_refused() -> None:
    def target(here: str, there: str) -> Any:
        answer = requests.Response()
        answer.status_code = 302
        answer.url = here
        answer.raw = io.BytesIO()
        answer.headers["Location"] = there
        return Session().get_redirect_target(answer)

    assert target("https://a.org/x", "https://mirror.org/x") == "https://mirror.org/x"
    assert target("https://a.org/x", "/y") == "/y"
    assert target("http://127.0.0.1:80/x", "https://a.org/y") == "https://a.org/y"
    for here, there in (("https://a.org/x", "http://a.org/x"), ("http://127.0.0.1/x", "http://127.0.0.1:81/x")):
        with pytest.raises(BadAnswerError, match="not encrypted"):
            target(here, there)


# ---------------------------------------------------------------------- the parts
def test_text_for_a_terminal() -> None:
    assert printable("1.5 \u00c5/px \u03b2-galactosidase") == "1.5 \u00c5/px \u03b2-galactosidase"
    assert printable("\x1b[31m\n\t\x00\u200f") == "\\x1b[31m\\n\\t\\x00\\u200f"
    assert printable("x" * 301) == "x" * 300 + "..."


def test_numbers() -> None:
    values = [1.5, "1.5", {"valueOf_": "1.5"}, {"valueOf_": 1.5}]
    assert [positive_number(value) for value in values] == [1.5] * 4
    assert [positive_number(value) for value in ODD_VALUES if value != 7] == [None] * (len(ODD_VALUES) - 1)


def test_paths() -> None:
    assert [path_below(text) for text in ("/data/a b", "data//./a b/", "", "/")] == ["data/a b", "data/a b", "", ""]
    assert place_below(Path("out"), "/data/x.mrc") == Path("out/data/x.mrc")
    with pytest.raises(BadAnswerError, match=r"names '\.\./x'"):
        place_below(Path("out"), "../x")
