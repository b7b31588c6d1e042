from __future__ import annotations

import dataclasses
import re
from typing import Any, Dict, List, Optional, Tuple, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoden.command_line import COMMANDS
from cryoden.config import (
    Config,
    DenoiseConfig,
    HalvesConfig,
    Options,
    TrainConfig,
    option,
    parse_frame_range,
    shared,
)
from cryoden.config.options import Bounds
from cryoden.errors import OptionError

TRAIN = {"odd": "o", "even": "e", "output": "out"}
DENOISE = {"micrographs": ("a.mrc",), "model": "m", "output": "out"}
HALVES = {"movies": ("a.mrc",), "output": "out"}


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 10**6),
    st.floats(1e-9, 10),
    st.floats(0, 0.99),
    st.booleans(),
    st.sampled_from(["auto", "full"]) | st.floats(0.1, 20),
)
def test_training_options_survive_json(
    epochs: int, lr: float, ema: float, stream: bool, rate: Union[float, str]
) -> None:
    config = TrainConfig(**TRAIN, epochs=epochs, lr=lr, ema=ema, stream=stream, sampling_rate=rate, channels=(4, 8))
    assert TrainConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("config", [HalvesConfig(**HALVES), DenoiseConfig(**DENOISE)], ids=["halves", "denoise"])
def test_lists_of_files_survive_json(config: Config) -> None:
    assert type(config).from_dict(config.to_dict()) == config


def test_unknown_option_is_named() -> None:
    with pytest.raises(OptionError, match=r"Option --colour is unknown; known are .*network"):
        TrainConfig.from_dict({**TRAIN, "colour": 1})


def test_missing_option_is_named() -> None:
    with pytest.raises(OptionError, match=r"Option --output is missing and has no default; give it\."):
        TrainConfig.from_dict({"odd": "o", "even": "e"})


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("epochs", 0, "Option --epochs is 0; it must be at least 1."),
        ("batch_size", 0, "Option --batch-size is 0; it must be at least 1."),
        ("max_batches", 0, "Option --max-batches is 0; it must be at least 1."),
        ("crop", 16, "Option --crop is 16; it must be at least 32."),
        ("patience", -1, "Option --patience is -1; it must be at least 0."),
        ("lr", 0.0, "Option --lr is 0.0; it must be above 0 and finite."),
        ("lr", float("nan"), "Option --lr is nan; it must be above 0 and finite."),
        ("sampling_rate", -1.0, "Option --sampling-rate is -1.0; it must be between 0.01 and 1000."),
        ("minutes", 0.0, "Option --minutes is 0.0; it must be above 0 and finite."),
        ("memory", 0.0, "Option --memory is 0.0; it must be above 0 and finite."),
        ("window", 0.0, "Option --window is 0.0; it must be above 0 and finite."),
        ("validation", 0.0, "Option --validation is 0.0; it must be above 0 and below 1."),
        ("validation", 1.0, "Option --validation is 1.0; it must be above 0 and below 1."),
        ("ema", 1.0, "Option --ema is 1.0; it must be at least 0 and below 1."),
        (
            "channels",
            (8, 0),
            "Option --channels is 8 0; it must be one or more positive numbers such as 32 64",
        ),
        ("network", "vit", "Option --network is 'vit'; it must be one of unet, cnn3, resunet."),
        ("device", "tpu", "Option --device is 'tpu'; it must be auto, cpu, cuda or cuda:N."),
        ("from_model", " ", "Option --from is empty; it must be auto, general, none, or a model file."),
        ("force", True, "Option --force has no meaning alone. Give --stream."),
        ("seed", -1, "Option --seed is -1; it must be at least 0."),
        ("minutes", float("inf"), "Option --minutes is inf"),
        ("lr", float("inf"), "Option --lr is inf"),
    ],
)
def test_training_option_out_of_range(option: str, value: Any, problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        TrainConfig(**TRAIN, **{option: value})
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tile": 63}, "Option --tile is 63; it must be at least 64."),
        ({"odd": "o"}, "Option --odd is given without the other half. Give --even."),
        (
            {"micrographs": ()},
            "Option --micrographs has an empty name; name a micrograph, a folder or a STAR file.",
        ),
        ({"quality": "good"}, "Option --quality is 'good'; it must be one of fast, best."),
        ({"dtype": "int8"}, "Option --dtype is 'int8'; it must be one of float32, float16."),
        ({"device": "cuda:x"}, "Option --device is 'cuda:x'; it must be auto, cpu, cuda or cuda:N."),
        ({"gpus": "0;1"}, "Option --gpus is '0;1'; it must be numbers of GPUs such as 0,1."),
        ({"gpus": "0,00"}, "Option --gpus is 0,00; each GPU can be named once."),
        (
            {"gpus": "1", "device": "cpu"},
            "Option --gpus and a device exclude each other. Leave out --device.",
        ),
    ],
)
def test_denoising_option_out_of_range(changes: Dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        DenoiseConfig(**{**DENOISE, **changes})
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("gpus", "n", "devices"),
    [
        (None, 1, ["auto", "auto"]),
        ("3", 1, ["cuda:3", "cuda:3"]),
        ("0,2", 2, ["cuda:0", "cuda:2"]),
        ("cpu,cpu", 2, ["cpu", "cpu"]),
        ("auto,auto,auto", 3, ["auto", "auto"]),
    ],
)
def test_every_process_has_its_gpu(gpus: Optional[str], n: int, devices: List[str]) -> None:
    assert shared.n_processes(gpus) == n
    assert [shared.device_of("auto", gpus, number, 2) for number in (0, 1)] == devices


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"movies": ()}, "Option --movies has an empty name; name at least one movie or a STAR file."),
        ({"jobs": 0}, "Option --jobs is 0; it must be at least 1."),
        ({"voltage": 0.0}, "Option --voltage is 0.0; it must be above 0 and finite."),
        ({"amplitude_contrast": 5.0}, "Option --amplitude-contrast is 5.0"),
    ],
)
def test_halves_option_out_of_range(changes: Dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError) as caught:
        HalvesConfig(**{**HALVES, **changes})
    assert str(caught.value).startswith(problem)


@dataclasses.dataclass(frozen=True)
class _Bounded(Options):
    """Numbers with bounds of every kind."""

    some: float = option(1.0, at_least=0, at_most=2, help="")
    more: float = option(1.0, above=0, help="")
    less: int = option(1, at_most=2, help="")
    part: float = option(0.5, above=0, below=1, help="")


@settings(deadline=None)
@given(st.floats() | st.integers())
def test_bounds_hold_or_are_told(value: float) -> None:
    is_good = {
        "some": 0 <= value <= 2,
        "more": 0 < value < float("inf"),
        "less": -float("inf") < value <= 2,
        "part": 0 < value < 1,
    }
    for name, expected in is_good.items():
        if expected:
            assert getattr(_Bounded(**{name: value}), name) == value
        else:
            with pytest.raises(OptionError, match=f"Option --{name} is {re.escape(str(value))}; it must be"):
                _Bounded(**{name: value})


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("some", "between 0 and 2"),
        ("more", "above 0 and finite"),
        ("less", "at most 2"),
        ("part", "above 0 and below 1"),
    ],
)
def test_bounds_in_words(name: str, rule: str) -> None:
    with pytest.raises(OptionError) as caught:
        _Bounded(**{name: float("inf")})
    assert str(caught.value) == f"Option --{name} is inf; it must be {rule}."


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_has_a_bound(command: str) -> None:
    kind = COMMANDS[command][0]
    for field in dataclasses.fields(kind):
        words = {field.type, field.type[len("Optional[") : -1]}
        assert not words & {"int", "float"} or field.metadata["bounds"] != Bounds(), field.name


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        TrainConfig(**TRAIN, epochs=0, lr=-1.0, device="tpu")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, (1, None)), ("", (1, None)), ("3-40", (3, 40)), ("3-", (3, None)), (" 1 - 2 ", (1, 2))],
)
def test_frame_range(text: Optional[str], expected: tuple) -> None:
    assert parse_frame_range(text) == expected


@settings(deadline=None, max_examples=100)
@given(st.text("0123456789-: ", max_size=8))
def test_frame_range_is_understood_or_refused(text: str) -> None:
    try:
        first, last = parse_frame_range(text)
    except OptionError as error:
        assert repr(text) in str(error)  # noqa: PT017
    else:
        assert first >= 1
        assert last is None or last > first


@dataclasses.dataclass(frozen=True)
class NewerConfig(Config):
    """A command that has got options since a record was written."""

    old: int = option(1, help="There from the beginning.")
    same: Tuple[int, ...] = option((3, 4), help="New; its default is what the command did before.")
    better: str = option("auto", before="all", help="New; the command does something else by default.")


def test_record_that_lacks_an_option_was_made_with_its_value_before() -> None:
    assert NewerConfig.completed({"output": "out", "old": 7}) == {
        "output": "out",
        "old": 7,
        "same": [3, 4],
        "better": "all",
    }
    known = {"output": "out", "old": 1, "same": [5], "better": "auto"}
    assert NewerConfig.completed(known) == known
    assert NewerConfig(output="out").better == "auto"
