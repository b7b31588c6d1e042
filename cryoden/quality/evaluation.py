"""Halves and denoisers in, numbers out: every denoiser is applied to both halves of every micrograph and compared."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from tqdm import tqdm

from cryoden.config import DenoiseConfig, EvaluateConfig
from cryoden.data.halves import Outcome
from cryoden.data.normalize import STANDARD, GreyScale, measure_scale
from cryoden.data.pairs import HalfPair, check_correlation, find_pairs, list_halves
from cryoden.data.progress import tell_at_once
from cryoden.data.rescale import SAME_RATE_TOLERANCE, fourier_crop, rescaled_shape
from cryoden.errors import CryodenError, FileError, ModelError, PairError, PixelError
from cryoden.formats.files import make_folder, read_json, write_json
from cryoden.formats.images import read_micrograph
from cryoden.formats.pixels import naming
from cryoden.model.devices import pick_device
from cryoden.model.pipeline import overlapped
from cryoden.model.predictor import card_normalization, load_predictor
from cryoden.quality import checks
from cryoden.quality.inside import look_inside, save_inside
from cryoden.quality.measurement import (
    FOLDER,
    NOISE_SIDE,
    Measurement,
    load_measurement,
    measure,
    measurement_path,
    save_measurement,
)  # fmt: skip
from cryoden.quality.noisy_reference import centre
from cryoden.quality.report import INSIDE_NAME
from cryoden.quality.score_table import Candidate, tabulate
from cryoden.quality.tables import METRICS_NAME, write_tables
from cryoden.quality.topaz_row import TopazRow

log = logging.getLogger(__name__)

RECORD_NAME = "evaluate.json"
"""Says, in the output folder, with what its micrographs were measured."""

NETWORK_LABELS = {"unet": "U-Net", "cnn3": "CNN3"}


class NetworkDenoiser:
    """A trained model that denoises halves in their own units, at its own sampling rate.

    Parameters
    ----------
    path
        Model file.
    config
        The options.
    device
        Where it computes.
    """

    def __init__(self, path: str, config: EvaluateConfig, device: torch.device) -> None:
        options = DenoiseConfig(
            micrographs=("-",), model=path, output="-", quality=config.quality, precision=config.precision,
            tile=config.tile,
        )  # fmt: skip
        self.path = path
        self.card, self.predictor = load_predictor(path, options, device)
        self.normalization = card_normalization(self.card)

    def predict(self, image: np.ndarray, scale: GreyScale) -> np.ndarray:
        """Return the denoised image in the units of the image."""
        standard = torch.from_numpy(scale.standardize(image))
        return scale.restore(self.predictor(standard).cpu().numpy())

    def predict_cut(self, image: np.ndarray, scale: GreyScale) -> np.ndarray:
        """Return the denoised cut-out, as `Predictor.on_cut` makes it, in the units of the image."""
        standard = torch.from_numpy(scale.standardize(image))
        return scale.restore(self.predictor.on_cut(standard).cpu().numpy())

    def region(self, name: str) -> Optional[Tuple[float, float]]:
        """Return the rows of a micrograph that the model was not trained on, as shares of its height; None: no row."""
        held_out = self.card.training.get("held_out", {})
        if name in held_out:
            return float(held_out[name][0]), float(held_out[name][1])
        return None if name in self.card.training.get("trained_on", ()) else (0.0, 1.0)


@dataclass(frozen=True)
class Halves:
    """Both halves of a micrograph in memory.

    Attributes
    ----------
    pair
        Where they come from.
    images
        Float32, as in the files.
    truth
        The clean image, at the working sampling rate.
    region
        Rows that count, as shares of the height; None if a model was trained on all of it.
    """

    pair: HalfPair
    images: Tuple[np.ndarray, np.ndarray]
    truth: Optional[np.ndarray]
    region: Optional[Tuple[float, float]]

    def at(self, shape: Tuple[int, int]) -> List[np.ndarray]:
        """Return both halves, Fourier-cropped to a shape."""
        return [fourier_crop(image, shape) for image in self.images]


class Evaluation:
    """One evaluation: its denoisers, its micrographs, and what became of them.

    Parameters
    ----------
    config
        The options.

    Raises
    ------
    CryodenError
        If nothing can be done: a model cannot be read, no pair of halves is usable.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        self.config = config
        device = pick_device(config.device)
        self.networks = [NetworkDenoiser(path, config, device) for path in config.model]
        rate = _working_rate(self.networks, config)
        self.pairs, self.failures = find_pairs(config.odd, config.even, rate)
        self.n_inputs = len(self.pairs) + len(self.failures)
        self.truths = list_halves(config.truth) if config.truth else {}
        self.output = make_folder(config.output)
        self.topaz = TopazRow(config, self.output, str(device))
        self.mismatched: Dict[str, np.ndarray] = {}

    def run(self) -> Dict[str, Any]:
        """Measure every micrograph that was not measured before, and return the table.

        Raises
        ------
        CryodenError
            If no micrograph could be measured.
        """
        make_folder(self.output / FOLDER)
        is_continued = self._guard_options()
        paths = {pair.name: measurement_path(self.output, pair.name) for pair in self.pairs}
        done = {name for name, path in paths.items() if is_continued and path.is_file()}
        if done:
            log.info("%d of %d micrographs were measured before.", len(done), len(self.pairs))
        todo = [pair for pair in self.pairs if pair.name not in done]
        try:
            self.topaz.prepare(todo, self._load, self.failures, must_work=bool(done))
            write_json(self.output / RECORD_NAME, self._record())
            for measurement in self._measured([pair for pair in todo if pair.name not in self.failures]):
                done.add(measurement.name)
        finally:
            self.topaz.clean()
        measurements = [load_measurement(paths[pair.name]) for pair in self.pairs if pair.name in done]
        self._name_swapped(measurements)
        if not measurements:
            reason = next(iter(self.failures.values()), "the list is empty.")
            raise PairError(f"None of {self.n_inputs} micrographs could be evaluated; the first reason: {reason}")
        table = tabulate(measurements, self._candidates(), self._absent(), self.config)
        table["warnings"] = [*self._model_warnings(), *table["warnings"]]
        table["failures"] = self.failures
        table["models"] = [{"path": net.path, "network": net.card.network, **_card_facts(net)} for net in self.networks]
        return table

    # ------------------------------------------------------------------ one micrograph
    def _measured(self, pairs: Sequence[HalfPair]) -> Iterator[Measurement]:
        """Yield measurements: one thread reads ahead, one computes covariances and writes behind the networks."""
        results = overlapped(pairs, self._load, lambda pair, halves: self._predict(halves), self._keep)
        for pair, outcome in tqdm(results, total=len(pairs), unit="micrograph", desc="Evaluating", disable=None):
            if isinstance(outcome, CryodenError):
                self.failures[pair.name] = str(outcome)
                tell_at_once(str(outcome))
            else:
                yield outcome

    def _load(self, pair: HalfPair) -> Halves:
        images = (read_micrograph(pair.odd)[0], read_micrograph(pair.even)[0])
        regions = [network.region(pair.name) for network in self.networks]
        known = [region for region in regions if region is not None]
        region: Optional[Tuple[float, float]] = None
        if len(known) == len(regions):
            region = max([0.0, *(r[0] for r in known)]), min([1.0, *(r[1] for r in known)])
        truth = read_truth(pair, self.truths, self.config.truth) if self.config.truth else None
        return Halves(pair, images, truth, region)

    def _predict(self, halves: Halves) -> Tuple[Any, ...]:
        """Return the arguments of `_keep`: both halves standardised, with every denoiser's predictions."""
        pair = halves.pair
        images = halves.at(pair.shape)
        scales = [_scale(path, image) for path, image in zip((pair.odd, pair.even), images)]
        standard = [scale.standardize(image) for scale, image in zip(scales, images)]
        try:
            check_correlation(pair.name, np.stack(standard))
        except PairError:
            self.mismatched[pair.name] = np.stack([checks.thumbnail(image, pair.sampling_rate) for image in standard])
            raise
        predictions: List[np.ndarray] = []
        noise_predictions: List[Tuple[np.ndarray, np.ndarray, float]] = []
        for network in self.networks:
            shape = rescaled_shape(pair.file_shape, pair.file_rate, network.card.sampling_rate)
            own = images if shape == pair.shape else halves.at(shape)
            try:
                own_scales = [measure_scale(image, network.normalization) for image in own]
            except PixelError as error:
                raise PixelError(f"'{pair.name}' cannot be given to {network.path}: {error}") from error
            denoised = [network.predict(image, scale) for image, scale in zip(own, own_scales)]
            noise_predictions.append(_noise_response(network, own, own_scales[0], denoised[0], pair))
            for image, scale in zip(denoised, scales):
                predictions.append(
                    (fourier_crop(image, pair.shape) - np.float32(scale.mean)) / np.float32(scale.deviation)
                )
        if self.topaz.is_there:
            topaz, noise = self.topaz.predictions(pair, scales)
            predictions += topaz
            noise_predictions.append((noise, centre(topaz[0], NOISE_SIDE), pair.sampling_rate))
        data_range = (scales[0].data_range + scales[1].data_range) / 2
        positive = float(np.mean([(image[:: max(1, len(image) // 256)] > 0).mean() for image in images]))
        return halves, standard, predictions, noise_predictions, data_range, positive

    def _keep(
        self,
        halves: Halves,
        standard: List[np.ndarray],
        predictions: List[np.ndarray],
        noise_predictions: List[Tuple[np.ndarray, np.ndarray, float]],
        data_range: float,
        positive_share: float,
    ) -> Measurement:
        """Measure and write, on the rows that count."""
        pair, truth = halves.pair, halves.truth
        is_seen = halves.region is None
        first, last = halves.region or (0.0, 1.0)
        if self.config.scored == "all":
            is_seen, first, last = is_seen or (first, last) != (0.0, 1.0), 0.0, 1.0
        rows = slice(round(first * pair.shape[0]), round(last * pair.shape[0]))
        result = measure(
            pair.name, [image[rows] for image in standard], [image[rows] for image in predictions], noise_predictions,
            data_range, positive_share, pair.sampling_rate, is_seen, truth[rows] if truth is not None else None,
        )  # fmt: skip
        wrong = checks.filtered_half(pair.name, result.rings)
        if wrong:
            raise PairError(wrong)
        save_measurement(measurement_path(self.output, pair.name), result)
        return result

    # ------------------------------------------------------------------ all of them
    def _name_swapped(self, measurements: Sequence[Measurement]) -> None:
        """Say of halves that do not correlate to which other micrograph they belong, where that can be seen."""
        images = {**{m.name: m.thumbnails.astype(np.float32) for m in measurements}, **self.mismatched}
        shape = next(iter(self.mismatched.values())).shape if self.mismatched else None
        names = [name for name in images if images[name].shape == shape][-checks.MAX_COMPARED :]
        if len(names) < 2:
            return
        belongs = checks.swapped_halves(names, checks.correlations([images[name] for name in names]))
        for name in self.mismatched:
            if name in belongs:
                self.failures[name] = (
                    f"The halves of '{name}' are swapped with those of '{belongs[name]}': they correlate with that "
                    "micrograph's halves, not with each other. Rename the files so that both halves of a micrograph "
                    "have its name."
                )
                tell_at_once(self.failures[name])

    def _candidates(self) -> List[Candidate]:
        kinds = [net.card.network for net in self.networks]
        rows = []
        for number, net in enumerate(self.networks):
            label = NETWORK_LABELS[net.card.network]
            if kinds.count(net.card.network) > 1:
                label += f" ({_distinct_name(net.path, self.config.model)})"
            note = f"{net.card.sampling_rate:.3g} A/px, {net.path}"
            rows.append(Candidate(f"model{number + 1}", label, "network", note))
        return rows + ([self.topaz.candidate()] if self.topaz.is_there else [])

    def _absent(self) -> List[Candidate]:
        kinds = {net.card.network for net in self.networks}
        missing = [
            Candidate(kind, label, "network", f"not given; train one with --network {kind} and name it with --model")
            for kind, label in NETWORK_LABELS.items()
            if kind not in kinds
        ]
        return missing + ([] if self.topaz.is_there else [self.topaz.candidate()])

    def _model_warnings(self) -> List[str]:
        silent = [net.path for net in self.networks if "trained_on" not in net.card.training]
        return [
            f"{path} does not say which micrographs it was trained on; if some of these are among them, the numbers "
            "flatter it."
            for path in silent
        ]

    def _record(self) -> Dict[str, Any]:
        """Return what the measurements of one folder have in common."""
        config = self.config
        record = {key: getattr(config, key) for key in ("odd", "even", "truth", "sampling_rate", "scored", "quality")}
        record["models"] = [{"network": net.card.network, "training": net.card.training} for net in self.networks]
        record["topaz"] = self.topaz.record
        return json.loads(json.dumps(record))

    def _guard_options(self) -> bool:
        path = self.output / RECORD_NAME
        if self.config.overwrite or not path.is_file():
            return False
        before, now = read_json(path), self._record()
        if before == {**now, "topaz": {"is_there": False, "network": None}} != now:
            raise FileError(
                f"{self.output} holds an evaluation without Topaz-Denoise, which was not there or failed ({path}); "
                "give --topaz no to go on without it, or --overwrite to measure everything with it."
            )
        if before != now:
            raise FileError(
                f"{self.output} holds an evaluation of other micrographs, models or options ({path}); choose another "
                "--output folder, or give --overwrite."
            )
        return True


def evaluate(config: EvaluateConfig) -> Tuple[Dict[str, Any], Outcome]:
    """Evaluate, and write the numbers: metrics.json, metrics.csv, metrics.star, and what is inside the networks.

    Returns
    -------
    table
        What metrics.json holds.
    outcome
        How many micrographs, and why some were left out.

    Raises
    ------
    CryodenError
        If nothing can be done.
    """
    evaluation = Evaluation(config)
    table = evaluation.run()
    write_json(evaluation.output / METRICS_NAME, table)
    write_tables(evaluation.output, table)
    cut = load_measurement(measurement_path(evaluation.output, table["order"][0])).cuts[0].astype(np.float32)
    for row, network in zip(
        [row for row in table["rows"] if row["kind"] == "network" and row["bands"]], evaluation.networks
    ):
        save_inside(evaluation.output / INSIDE_NAME.format(key=row["key"]), look_inside(network.predictor.network, cut))
    return table, Outcome(evaluation.n_inputs, evaluation.failures)


def read_truth(pair: HalfPair, truths: Dict[str, str], source: Optional[str]) -> np.ndarray:
    """Return the clean image of a micrograph at the working sampling rate.

    Raises
    ------
    PairError
        If there is none, or it has another size or sampling rate than the halves.
    """
    if pair.name not in truths:
        raise PairError(f"'{pair.name}' has no truth in {source}; give the clean image of every micrograph.")
    image, rate = read_micrograph(truths[pair.name])
    if image.shape != pair.file_shape:
        sizes = [f"{shape[1]} x {shape[0]} px" for shape in (image.shape, pair.file_shape)]
        raise PairError(
            f"The truth of '{pair.name}' is {sizes[0]} but its halves are {sizes[1]}; both must show the same area "
            "with the same pixels. Write the truth in the halves' size."
        )
    if rate and abs(rate / pair.file_rate - 1) > SAME_RATE_TOLERANCE:
        raise PairError(
            f"The truth of '{pair.name}' has {rate:g} A/px but its halves have {pair.file_rate:g} A/px; both must be "
            "the same. Mend the header, or give the right truth."
        )
    return fourier_crop(image, pair.shape)


def _working_rate(networks: Sequence[NetworkDenoiser], config: EvaluateConfig) -> Optional[float]:
    if not networks:
        return config.sampling_rate
    coarsest = max(networks, key=lambda network: network.card.sampling_rate)
    rate = coarsest.card.sampling_rate
    if config.sampling_rate and config.sampling_rate * (1 + SAME_RATE_TOLERANCE) < rate:
        raise ModelError(
            f"{coarsest.path} works at {rate:.4g} A/px, coarser than the {config.sampling_rate:.4g} A/px of "
            "--sampling-rate; compare at its sampling rate or a coarser one."
        )
    return config.sampling_rate or rate


def _scale(path: str, image: np.ndarray) -> GreyScale:
    with naming(path):
        return measure_scale(image, STANDARD)


def _noise_response(
    network: NetworkDenoiser, images: Sequence[np.ndarray], scale: GreyScale, denoised: np.ndarray, pair: HalfPair
) -> Tuple[np.ndarray, np.ndarray, float]:
    """Return f((a - b) / sqrt(2)) and f(a) on the central cut-out, in the units of the odd half, and their A/px."""
    step = network.predictor.network.step
    side = min(NOISE_SIDE, *images[0].shape) // step * step
    cuts = [centre(image, side) for image in images]
    noise = (cuts[0] - cuts[1]) / np.float32(np.sqrt(2))
    noise += np.float32(cuts[0].mean() - noise.mean())
    rate = pair.file_rate * pair.file_shape[1] / images[0].shape[1]
    # Near the edges of a cut-out without halo the prediction is another one: they are not compared.
    inner = side - 2 * min(network.predictor.network.receptive_radius, side // 4)
    return centre(network.predict_cut(noise, scale), inner), centre(denoised, inner), rate


def _distinct_name(path: str, others: Sequence[str]) -> str:
    """Return the shortest end of a path, without its ending, that tells it from the others; its folder if that does."""
    parents = [Path(other).parent.name for other in others]
    return Path(path).parent.name if len(set(parents)) == len(parents) else str(Path(path).with_suffix(""))


def _card_facts(network: NetworkDenoiser) -> Dict[str, Any]:
    training = network.card.training
    return {
        "sampling_rate": network.card.sampling_rate,
        "n_weights": int(sum(weight.numel() for weight in network.predictor.network.parameters())),
        "channels": list(network.card.channels),
        "epoch": training.get("epoch"),
        "seconds": training.get("seconds"),
    }
