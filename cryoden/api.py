"""The commands as functions, `cryoden.split_movies`, `train`, `denoise`, `evaluate`, `choose`, and `cryoden.Denoiser`.

Each takes the options of its command, by name, and returns what became of it. Files may be given as text or as `Path`.

>>> from pathlib import Path
>>> import cryoden

Movies become odd and even micrographs, from which a denoiser is trained (here a small one, for a moment):

>>> cryoden.split_movies(movies=sorted(Path("movies").glob("*.mrcs")), output="halves").n_done
3
>>> training = cryoden.train(
...     odd="halves/odd", even="halves/even", output="model", network="cnn3", crop=32, epochs=1, max_batches=4
... )
>>> training.model.name
'model.safetensors'

It denoises files, or images in memory:

>>> outcome = cryoden.denoise(micrographs=["halves/full"], model=training.model, output="denoised")
>>> outcome.n_done, outcome.failures
(3, {})
>>> denoiser = cryoden.Denoiser.load(training.model, device="cpu")
>>> denoiser.label, denoiser.sampling_rate
('CNN3', 4.0)
>>> denoiser.denoise(np.random.normal(20, 3, (80, 100)), sampling_rate=2.0).shape
(40, 50)

And one learns how good it is, beside filters that anyone could have applied:

>>> table, outcome = cryoden.evaluate(
...     odd="halves/odd", even="halves/even", model=[training.model], topaz="no", output="evaluation"
... )
>>> [row.label for row in table.rows]
['raw (unprocessed half)', 'best Gaussian', 'ring-wise Wiener', 'CNN3']
>>> r2 = table.leading_row.bands["300-8"].r2
>>> 0 < r2.value < 1
True
>>> Path("evaluation/report.html").is_file()
True

What is wrong with an option is said before anything is done:

>>> cryoden.denoise(micrographs=["halves/full"], model=training.model, output="more", quality="perfect")
Traceback (most recent call last):
cryoden.errors.OptionError: Option --quality is 'perfect'; it must be one of fast, best.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, Tuple, Type, TypeVar, get_origin, get_type_hints

from cryoden.config import ChooseConfig, DenoiseConfig, EvaluateConfig, HalvesConfig, Options, TrainConfig
from cryoden.formats import outputs
from cryoden.system.packages import needing_torch

if TYPE_CHECKING:
    from cryoden.formats.outcome import Outcome
    from cryoden.model.training import Training
    from cryoden.report.election_result import Election
    from cryoden.report.evaluation_table import EvaluationTable

C = TypeVar("C", bound=Options)


def split_movies(**options: Any) -> Outcome:
    """Split movies into odd, even and full sums: `cryoden halves`.

    Parameters
    ----------
    **options
        Fields of `cryoden.config.HalvesConfig`: `movies`, `output`...

    Returns
    -------
    outcome
        How many movies there were, and why some were left out.

    Raises
    ------
    CryodenError
        If nothing can be done.
    """
    from cryoden.movies import split

    return split.split_movies(_config(HalvesConfig, options))


def train(**options: Any) -> Training:
    """Train a denoiser on odd and even micrographs: `cryoden train`.

    Parameters
    ----------
    **options
        Fields of `cryoden.config.TrainConfig`: `odd`, `even`, `output`...

    Returns
    -------
    training
        The file of the best model, its held-out R2 and epoch.

    Raises
    ------
    CryodenError
        If halves, options or device cannot be used.
    """
    with needing_torch():
        from cryoden.model import training
    return training.train(_config(TrainConfig, options))


def denoise(**options: Any) -> Outcome:
    """Denoise files of micrographs: `cryoden denoise`. An image in memory is denoised by `Denoiser.denoise`.

    Parameters
    ----------
    **options
        Fields of `cryoden.config.DenoiseConfig`: `micrographs`, `model`, `output`...

    Returns
    -------
    outcome
        How many micrographs there were, and why some were left out.

    Raises
    ------
    CryodenError
        If nothing can be done.
    """
    with needing_torch():
        from cryoden.model.denoising import denoise_micrographs
    return denoise_micrographs(_config(DenoiseConfig, options))


def evaluate(**options: Any) -> Tuple[EvaluationTable, Outcome]:
    """Measure how good denoisers are, and write the report: `cryoden evaluate`.

    Parameters
    ----------
    **options
        Fields of `cryoden.config.EvaluateConfig`: `odd`, `even`, `model`, `output`...

    Returns
    -------
    table
        Every denoiser's numbers with their errors.
    outcome
        How many micrographs there were, and why some were left out.

    Raises
    ------
    CryodenError
        If nothing can be done.
    """
    with needing_torch():
        from cryoden.evaluation.evaluate import evaluate
    from cryoden.report.html_report import write_report

    config = _config(EvaluateConfig, options)
    table, outcome = evaluate(config)
    write_report(config.output)
    return table, outcome


def choose(**options: Any) -> Election:
    """Elect the denoiser that is best on these micrographs, and write it and the report: `cryoden choose`.

    Parameters
    ----------
    **options
        Fields of `cryoden.config.ChooseConfig`: `odd`, `even`, `output`, `model`...

    Returns
    -------
    election
        Who was elected, and every candidate's R2.

    Raises
    ------
    CryodenError
        If nothing can be done.
    """
    with needing_torch():
        from cryoden.evaluation import election
    from cryoden.report.html_report import write_report

    config = _config(ChooseConfig, options)
    elected = election.choose(config)
    write_report(os.path.join(config.output, outputs.EVALUATION_FOLDER))
    return elected


def _config(kind: Type[C], options: Dict[str, Any]) -> C:
    """Return options as a command has them: paths as text; where a list is wanted, one alone is a list of one.

    Raises
    ------
    OptionError
        If an option is unknown, missing, or breaks a rule.
    """
    hints, values = get_type_hints(kind), {}
    for name, value in options.items():
        value = _as_text(value)
        is_list = get_origin(hints.get(name)) is tuple
        values[name] = [value] if is_list and isinstance(value, str) else value
    return kind.from_dict(values)


def _as_text(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_text(part) for part in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
