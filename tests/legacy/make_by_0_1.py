"""Make `made_by_0_1/`: what version 0.1 leaves behind, so that later versions prove that they still continue it.

Run once, with the code of version 0.1 (commit c99a482) and in its environment (`make install-dev`), not again later:

    git worktree add --detach V01 c99a482
    cd V01 && export PYTHONPATH=$PWD PATH=CHECKOUT/.venv/bin:$PATH SCIPION_HOME=EMPTY SCIPION_USER_DATA=EMPTY/data
    python -m scipion python CHECKOUT/tests/legacy/make_by_0_1.py CHECKOUT/tests/legacy/made_by_0_1

Everything runs on relative paths inside the folder. `project/` is a Scipion project. Pictures, reports and logs of
runs are thrown away afterwards, to keep it small; `files.json` says which files there were. `commands.json` holds the
command lines, `options.json` and `protocols.json` what 0.1 could be asked and what its protocols were called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import torch
from make_project_by_0_1 import make_project

import cryoden
from cryoden.command_line import COMMANDS, parse
from cryoden.errors import OptionError

FLOAT32 = ["--precision", "float32", "--device", "cpu"]
HALVES = ["--odd", "halves/odd", "--even", "halves/even"]
TRAIN = [
    *HALVES, "--network", "unet", "--channels", "4", "8", "--sampling-rate", "5", "--epochs", "6", "--crop", "32",
    "--batch-size", "4", "--min-batches", "40", "--lr", "0.003", *FLOAT32,
]  # fmt: skip
LINES: Dict[str, List[str]] = {
    "simulation": [
        "simulate", "movies", "--output", "simulation", "--movies", "3", "--size", "64", "96", "--frames", "5",
        "--sampling-rate", "4", "--dose-per-frame", "2.5", "--shape", "globule", "--potential", "12", "--particles",
        "12", "--defocus", "2.5", "--defocus-spread", "0.3", "--drift", "4", "--dead-pixels", "5", "--hot-pixels", "5",
    ],
    "halves": [
        "halves", *(f"simulation/movies/movie_000{number}.mrcs" for number in (1, 2, 3)), "--gain",
        "simulation/gain.mrc", "--hot-pixels", "8", "--output", "halves",
    ],
    "training": ["train", *TRAIN, "--output", "training"],
    "training_stopped": ["train", *TRAIN, "--checkpoint-minutes", "0.0001", "--output", "training_stopped"],
    "denoised": [
        "denoise", "halves/micrographs.star", "--model", "training/model.safetensors", "--output", "denoised", *FLOAT32,
    ],
    "patches": ["patches", "export", *HALVES, "--patch", "32", "--stride", "64", "--output", "patches"],
    "training_patches": [
        "train", "--patches", "patches", "--network", "cnn3", "--epochs", "2", "--crop", "32", "--batch-size", "4",
        "--min-batches", "30", "--output", "training_patches", *FLOAT32,
    ],
    "evaluation": [
        "evaluate", *HALVES, "--truth", "simulation/truth", "--model", "training/model.safetensors",
        "--topaz", "no", "--bootstrap", "50", "--output", "evaluation", *FLOAT32,
    ],
    "bundle": ["verify", "export", "--size", "16", "--batch-size", "1", "--output", "bundle"],
    "pairs": ["simulate", "pairs", "--pairs", "1", "--size", "64", "64", "--output", "pairs"],
    "sheet": ["show", *HALVES, "--output", "sheet"],
}  # fmt: skip
"""What is run, in this order; each fills the folder of its name."""

ONLY_LISTED = ("pairs", "sheet")
"""Folders of which only the names of their files are kept."""

STOPPED_AFTER = 3
"""Epochs of the training that is killed."""

STARTS = {
    "halves": [["a.mrcs", "--output", "out"], ["a.mrcs", "b.tif", "--gain", "gain.mrc", "--output", "out"]],
    "train": [["--odd", "odd", "--even", "even", "--output", "out"], ["--patches", "p", "--output", "out"]],
    "denoise": [
        ["a.mrc", "b.mrc", "--model", "m.safetensors", "--output", "out"],
        ["a.star", "--model", "m.safetensors", "--odd", "odd", "--even", "even", "--output", "out"],
    ],
    "evaluate": [["--odd", "odd", "--even", "even", "--output", "out"]],
    "show": [["--odd", "odd", "--even", "even", "--output", "out"]],
    "patches export": [["--odd", "odd", "--even", "even", "--output", "out"]],
    "patches verify": [["folder"]],
    "verify export": [["--output", "out"]],
    "verify compare": [["folder"]],
    "verify import-weights": [["folder", "--sampling-rate", "3.5", "--output", "out"]],
    "verify benchmark": [[]],
    "simulate pairs": [["--output", "out"], ["a.png", "b.mrc", "--output", "out"]],
    "simulate movies": [["--output", "out"]],
    "fetch": [["empiar", "10025"]],
}
"""Least words of every command."""

VALUES = {
    "band": ["250", "10"], "channels": ["4", "8"], "size": ["70", "80"], "model": ["a.safetensors", "b.safetensors"],
    "frames": ["3-40"], "device": ["cuda:1"], "pattern": ["*.tif"], "topaz": ["no"],
    "api": ["https://example.org/a"], "files": ["https://example.org/b"], "maps": ["https://example.org/c"],
}  # fmt: skip
"""Values of texts and lists whose type does not say enough."""


# --------------------------------------------------------------------- command line
def run(words: Sequence[str]) -> None:
    """Run one command of 0.1."""
    subprocess.run([sys.executable, "-m", "cryoden", *words], check=True)


def run_until_stopped(words: Sequence[str], folder: Path) -> None:
    """Kill a training in the middle of an epoch."""
    process = subprocess.Popen([sys.executable, "-m", "cryoden", *words])
    checkpoint = folder / "checkpoint.pt"
    while not (checkpoint.exists() and is_in_an_epoch(checkpoint)):
        assert process.poll() is None, "The training was over before it could be killed; try again."
    process.kill()
    process.wait()
    assert is_in_an_epoch(checkpoint), "Killed between two epochs; try again."
    for path in folder.glob(".*.part"):
        path.unlink()


def is_in_an_epoch(checkpoint: Path) -> bool:
    """Return whether a checkpoint lies within an epoch, not between two, after some epochs have ended."""
    progress = torch.load(str(checkpoint), weights_only=True)["progress"]
    return progress["epoch"] >= STOPPED_AFTER and progress["batch"] > 0


def is_parsed(words: Sequence[str]) -> bool:
    """Return whether the options go together."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            parse(list(words))
    except (OptionError, SystemExit):
        return False
    return True


def option_words(field: dataclasses.Field[Any], default: Any) -> Iterator[List[str]]:
    """Yield ways to give one option on the command line: another value than the default, and every choice."""
    name = "--" + (field.metadata["name"] or field.name).replace("_", "-")
    if field.type == "bool":
        yield [name]
    elif field.metadata["choices"]:
        yield from ([name, choice] for choice in field.metadata["choices"])
    elif "Tuple" not in field.type and ("int" in field.type or "float" in field.type):
        bounds = field.metadata["bounds"]
        kind = int if "int" in field.type else float
        candidates = [(default or 0) + 2, bounds.at_least, *([] if kind is int else [0.5, 0.1])]
        yield [name, str(kind(next(value for value in candidates if bounds.hold(value) and value != default)))]
    else:
        values = VALUES.get(field.name, [f"some_{field.name}"])
        yield [name, *(values if "Tuple" in field.type else values[:1])]


def option_lines(command: str, start: List[str]) -> List[List[str]]:
    """Return command lines that together give every option, and every choice, as few as follow from their rules."""
    kind = COMMANDS[command][0]
    lines: List[Tuple[List[str], set]] = [(start, {word for word in start if word.startswith("--")})]
    for field in dataclasses.fields(kind):
        if field.metadata["positional"]:
            continue
        for words in option_words(field, None if field.default is dataclasses.MISSING else field.default):
            if words[0] in lines[0][1]:
                continue
            for place, (line, given) in enumerate(lines[1:], 1):
                if words[0] not in given and is_parsed([*command.split(), *line, *words]):
                    lines[place] = ([*line, *words], {*given, words[0]})
                    break
            else:
                if is_parsed([*command.split(), *start, *words]):
                    lines.append(([*start, *words], {*lines[0][1], words[0]}))
                else:
                    print(f"{command}: {' '.join(words)} does not go with {' '.join(start)}")
    return [line for line, _ in lines]


def write_options() -> None:
    """Write command lines with every option, and the configuration that 0.1 makes of each."""
    lines = [
        {"command": command, "words": words, "options": parse([*command.split(), *words]).to_dict()}
        for command in COMMANDS
        for start in STARTS[command]
        for words in option_lines(command, start)
    ]
    write("options.json", lines)


def write(name: str, content: Any) -> None:
    """Write a JSON file."""
    Path(name).write_text(json.dumps(content, indent=1) + "\n")


# --------------------------------------------------------------------- what stays
def listing(folder: Path) -> List[str]:
    """Return the files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def strip(folder: Path) -> None:
    """Remove what nobody continues from: pictures, reports, logs of runs."""
    for pattern in ("**/*.png", "**/report.html", "project/**/logs/*.std*", "project/**/logs/*.log"):
        for path in folder.glob(pattern):
            if "thumbnails" not in path.parts:
                path.unlink()
    for name in ("checkpoint.pt", "samples.npz"):
        (folder / "training_patches" / name).unlink()
    for name in ONLY_LISTED:
        shutil.rmtree(str(folder / name))
    for path in (folder / "project").rglob("tmp"):
        shutil.rmtree(str(path))


def forget_the_machine(folder: Path) -> None:
    """Take host name and process numbers out of the databases, and make them as small as they can be."""
    for path in [*folder.rglob("*.sqlite"), *folder.rglob("run.db")]:
        with contextlib.closing(sqlite3.connect(str(path))) as database:
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            if "Objects" in tables and path.name in ("project.sqlite", "run.db"):
                database.execute("UPDATE Objects SET value = 'localhost' WHERE value = ?", (socket.getfqdn(),))
                database.execute("UPDATE Objects SET value = 'localhost' WHERE value = ?", (socket.gethostname(),))
                database.execute("UPDATE Objects SET value = '0' WHERE name LIKE '%._pid'")
            database.commit()
            database.execute("PRAGMA page_size = 512")
            database.execute("VACUUM")


def require_no_absolute_path(folder: Path) -> None:
    """Fail where a file, binary ones too, knows where it was made."""
    traces = {str(Path.home()), str(folder.resolve()), os.environ["SCIPION_HOME"], sys.prefix, "/tmp/", "/home/"}
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        found = [trace for trace in traces if trace.encode() in path.read_bytes()]
        assert not found, (path, found)


def main() -> None:
    assert cryoden.__version__ == "0.1.0"
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(str(folder), ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(str(folder))
    for name, words in LINES.items():
        if name == "training_stopped":
            run_until_stopped(words, folder / name)
        else:
            run(words)
    write("commands.json", LINES)
    write("files.json", {name: listing(folder / name) for name in LINES})
    write_options()
    make_project(folder / "project")
    os.chdir(str(folder))
    strip(folder)
    forget_the_machine(folder)
    require_no_absolute_path(folder)


if __name__ == "__main__":
    main()
