"""Output that nobody reads ends nothing and changes no exit status."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cryoden.system.streams import forgiving_streams
from tests.helpers import ROOT

SCRIPT = """
import logging, os, sys
from tqdm import tqdm
from cryoden.system.streams import forgiving_streams

def main():
    with forgiving_streams():
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        for number in tqdm(range(3)):
            print("line", number, flush=number == 1)
            logging.getLogger().info("told")
        print("x" * 100000)
        with open("work.txt", "w") as file:
            file.write(str(file.fileno()))
        for descriptor in (1, 2):
            try:
                os.write(descriptor, b"from C\\n")
            except OSError:  # of a library in C
                pass
        return 3

sys.exit(main())
"""


def shell(line: str) -> subprocess.CompletedProcess[str]:
    Path("script.py").write_text(SCRIPT)
    environment = dict(os.environ, PYTHONPATH=str(ROOT), PYTHON=sys.executable)
    words = ["bash", "-c", f"set -o pipefail; {line}"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "redirection",
    [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "| head -n 1",
     "2>&1 | head -n 1", "| true", "2>&1 | true"],
)  # fmt: skip
def test_the_work_goes_on(redirection: str) -> None:
    result = shell(f"$PYTHON script.py {redirection}")
    assert result.returncode == 3
    assert int(Path("work.txt").read_text().split()[0]) > 2
    assert "from C" not in Path("work.txt").read_text()
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    if "2>" not in redirection:
        assert "told" in result.stderr
    if redirection in ("2>&-", "2>/dev/full"):
        assert result.stdout.startswith("line 0\nline 1\nline 2\nxxx")
    if "head" in redirection and "2>" not in redirection:
        assert result.stdout == "line 0\n"


def test_what_can_be_written_is_written_as_ever() -> None:
    result = shell("$PYTHON script.py")
    assert result.returncode == 3
    assert result.stdout.splitlines()[:3] == ["line 0", "line 1", "line 2"]
    assert result.stderr.count("told") == 3


def test_characters_that_the_encoding_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", written)
    with forgiving_streams():
        print("1.5 \u00c5/px of \udcff.mrc")
    assert written.buffer.getvalue() == b"1.5 \\xc5/px of \\udcff.mrc\n"  # type: ignore[attr-defined]
    assert sys.stdout is written


def test_inside_itself_and_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:

    def work() -> None:
        with forgiving_streams():
            outer = sys.stdout
            with forgiving_streams():
                assert sys.stdout is outer
            assert sys.stdout is outer
            raise ZeroDivisionError

    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError):
        work()
    assert (sys.stdout, sys.stderr) == before


def test_a_stream_that_was_closed() -> None:
    with forgiving_streams():
        stream = io.StringIO()
        stream.close()
        sys.stdout._stream = stream  # type: ignore[attr-defined]
        print("lost", flush=True)
