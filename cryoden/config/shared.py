"""Options that several commands share, word for word."""

from __future__ import annotations

from typing import Any, Iterator, Optional, Tuple

from cryoden.config.options import option
from cryoden.errors import OptionError, Problem, Remedy, option_problem

NETWORKS = ("unet", "cnn3", "resunet")
"""Networks that can be trained; new ones come last, because forms store the place in this list."""

UNETS = ("unet", "resunet")
"""Those with levels, whose channels can be chosen."""

PIXEL_SIZES_A = (0.01, 1000.0)
"""Smallest and largest pixel in A, far beyond what electron microscopes make; others are slips or damage."""

UNET_CHANNELS = (32, 64, 128, 256, 256, 256)
"""Of the levels of the U-Net that is trained: six levels see far enough to tell ice from specimen, and gain the most
(benchmarks/README.md)."""

RESUNET_CHANNELS = (32, 64, 128, 256, 256, 224)
"""The same of the residual U-Net: those of the general model, whose file is to stay small."""

EXCHANGED_UNET_CHANNELS = (32, 64, 128, 256)
"""Of the U-Net by which implementations are compared: that of the specification, which other programs build too."""

GENERAL, NOTHING = "general", "none"
"""Names the model that comes with cryoden wherever a model file is named; no model, where a training may start so."""

AUTO, OFF, FULL = "auto", "off", "full"
"""Words that an option may be instead of a number: chosen by the program; not done; the micrographs' own pixel size."""

GIB = 1 << 30
"""Bytes; memory options are in GiB."""


def working_rate(purpose: str) -> Any:
    """Declare the pixel size to which micrographs are brought; `purpose` says what is done at it."""
    return option(
        AUTO,
        words=(AUTO, FULL),
        at_least=PIXEL_SIZES_A[0],
        at_most=PIXEL_SIZES_A[1],
        before=FULL,
        help=f"Pixel size in Å/px at which {purpose}: the micrographs are Fourier-cropped to it. auto: the coarsest "
        "that keeps all detail in which the halves still correlate, at most 4; full: the micrographs' own.",
    )


def odd() -> Any:
    """Declare where the odd micrographs are."""
    return option(help="Folder or STAR file of the odd micrographs, or of both halves (docs/halves.md).")


def even() -> Any:
    """Declare where the even micrographs are."""
    return option(help="Folder or STAR file of the even micrographs, or the same as for the odd ones; matched by name.")


def pixel_size(default: Any, help: str) -> Any:
    """Declare a pixel size in A/px."""
    return option(default, at_least=PIXEL_SIZES_A[0], at_most=PIXEL_SIZES_A[1], help=help)


def device() -> Any:
    """Declare the processor to compute on."""
    kinds = "auto, cpu, cuda or cuda:N"
    return option("auto", form=(r"auto|cpu|cuda(:\d+)?", kinds), help=f"Where to compute: {kinds}.")


def gpus() -> Any:
    """Declare the GPUs that share the work, one process for each."""
    return option(
        None,
        form=(r"\d+(,\d+)*|cpu(,cpu)*|auto(,auto)*", "numbers of GPUs such as 0,1"),
        help="GPUs of this machine that share the work, such as 0,1: one process is started for each. cpu,cpu: two "
        "processes without GPUs; auto,auto: with GPUs if there are any.",
    )


def watch() -> Any:
    """Declare how long new files are waited for."""
    return option(
        None,
        above=0,
        help="Keep looking for new files of a running microscope, until there have been none for this many minutes.",
    )


def poll_seconds() -> Any:
    """Declare how often new files are looked for."""
    return option(
        10.0,
        at_least=0.1,
        at_most=3600,
        help="With --watch: seconds between two looks. A file is used once its size stays the same from one to the "
        "next.",
    )


def end_with_stdin() -> Any:
    """Declare that another program starts the command, and keeps its standard input open."""
    return option(
        False,
        help="With --watch, for programs that start this one: end when standard input is closed, as it is when they "
        "are gone.",
    )


def watch_problems(config: Any) -> Iterator[Problem]:
    """Yield what is wrong with the options about new files, of a command that has all of them."""
    if config.watch is None and config.end_with_stdin:
        yield option_problem("end_with_stdin", "has no meaning alone.", Remedy("set", "watch"))
    if config.watch is not None and n_processes(config.gpus) > 1:
        yield option_problem("watch", "and several GPUs exclude each other.", Remedy("leave_out", "gpus"))


def n_processes(gpus: Optional[str]) -> int:
    """Return how many processes the option `gpus` asks for."""
    return len(gpus.split(",")) if gpus else 1


def device_of(device: str, gpus: Optional[str], number: int, n_started: int) -> str:
    """Return where one process computes: the option `device`, or its part of `gpus`.

    Parameters
    ----------
    device, gpus
        Options of the command.
    number
        Of the process among those of its machine.
    n_started
        Processes of the job.

    Raises
    ------
    OptionError
        If several are named and nothing has started several processes.
    """
    if n_started == 1 < n_processes(gpus):
        only_one = f"is {gpus}; only the command line starts several processes. Name one GPU."
        raise OptionError([option_problem("gpus", only_one)])
    if gpus is None:
        return device
    names = gpus.split(",")
    name = names[number % len(names)]
    return f"cuda:{name}" if name.isdecimal() else name


def gpu_problems(device: str, gpus: Optional[str]) -> Iterator[Problem]:
    """Yield what is wrong with the option `gpus`."""
    if gpus is None:
        return
    names = gpus.split(",")
    if device != AUTO:
        yield option_problem("gpus", "and a device exclude each other.", Remedy("leave_out", "device"))
    if names[0].isdecimal() and len(set(map(int, names))) < len(names):
        yield option_problem("gpus", f"is {gpus}; each GPU can be named once.")


def precision(auto: str = "bfloat16 if the processor supports it, otherwise float32") -> Any:
    """Declare the arithmetic of the network, and what `auto` is."""
    return option(
        "auto", choices=("auto", "bfloat16", "float32"), help=f"Numerical precision of the network; auto: {auto}."
    )


def quality() -> Any:
    """Declare how many views of a micrograph are denoised."""
    help = "fast: one pass. best: the average over the 8 rotated and mirrored views (8 times slower)."
    return option("fast", choices=("fast", "best"), help=help)


def tile() -> Any:
    """Declare how large the tiles are."""
    return option(
        None,
        at_least=64,
        help="Side in pixels of the tiles that micrographs are cut into; default: as large as the memory allows.",
    )


def default_channels(network: str) -> Tuple[int, ...]:
    """Return the channels of a network that is trained without being told any; cnn3 has no use for them."""
    return RESUNET_CHANNELS if network == "resunet" else UNET_CHANNELS


def channel_problems(channels: Tuple[int, ...]) -> Iterator[Problem]:
    """Yield a problem if a U-Net cannot have these channels."""
    if not channels or min(channels) < 1:
        given = " ".join(map(str, channels)) or "empty"
        yield option_problem("channels", f"is {given}; it must be one or more positive numbers such as 32 64 128.")
