"""The pictures of an evaluation, drawn from what its folder holds; matplotlib is imported inside, torch never."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Sequence, Tuple

import numpy as np
import scipy.fft

from cryoden.metrics.ground_truth import truth_maps, truth_scale
from cryoden.metrics.measurement import Measurement
from cryoden.metrics.ring_covariance import A, B
from cryoden.report.evaluation_result import Evaluated, denoised_cut
from cryoden.report.evaluation_table import Number
from cryoden.report.figures import add_scale_bar, plain, power_spectrum, show_image
from cryoden.report.pictures import MAX_BARS, PER_ROW
from cryoden.report.tables import with_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LAGS = 24
"""Pixels on each side that are shown of an autocorrelation."""


RESOLUTIONS_A = (100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4, 3.5, 3, 2.5, 2, 1.5, 1)
"""Periods that may be named above an axis of frequencies."""


def plot_scores(figure: Figure, evaluated: Evaluated) -> None:
    """Draw R2 of every denoiser in the score band, with its error; what is worse than a constant image has no bar."""
    axes: Any = figure.subplots()
    rows, main = evaluated.rows(), evaluated.table.bands[0]

    behind = {"facecolor": "w", "edgecolor": "none", "alpha": 0.8, "pad": 1}  # the numbers cross lines
    for place, row in enumerate(rows):
        r2 = row.bands[main].r2
        value = r2.value or 0.0
        length, error = (value, r2.error or 0.0) if value > 0 else (0.0, 0.0)
        axes.barh(place, length, 0.62, xerr=error or None, color=evaluated.colour(row), capsize=3)
        true = row.truth.r2.value if row.truth else None
        if true is not None and true > 0:
            axes.plot(true, place, "kd", ms=6, label="with the truth")

        says = with_error(r2, 3) + ("" if value > 0 else "\n(worse than a constant image)")
        axes.text(max(length + error, true or 0.0) + 0.03, place, says, va="center", fontsize=10, bbox=behind)

    axes.axvline(1, color="k", lw=1, ls="--")
    axes.set_yticks(range(len(rows)), [plain(row.label).replace(" ", "\n", 1) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.3)  # with room for the numbers
    axes.set_xticks(np.arange(0, 1.01, 0.2))
    axes.set(xlabel=f"$R^2$ in {main} Å (1: the clean image)", title="Signal recovered")
    axes.grid(axis="x", alpha=0.3)
    _legend_once(axes, loc="lower right")


def plot_bands(figure: Figure, evaluated: Evaluated) -> None:
    """Draw R2_corr of every denoiser in every band."""
    axes: Any = figure.subplots()
    rows, bands = evaluated.rows(), evaluated.table.bands

    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        numbers = [row.bands[band].r2_corr for band in bands]
        x = np.arange(len(bands)) + (place - (len(rows) - 1) / 2) * width
        values = [number.value or 0.0 for number in numbers]
        errors = [number.error or 0.0 for number in numbers]
        axes.bar(x, values, 0.9 * width, yerr=errors, color=evaluated.colour(row), label=plain(row.label), capsize=2)

    axes.axhline(1, color="k", lw=1, ls="--")
    axes.text(-0.45, 1.01, "perfect", va="bottom", fontsize=9)
    axes.set_xticks(range(len(bands)), [f"{band} Å" for band in bands])
    axes.set(ylabel="$R^2_{corr}$: share of the signal explained", title="Quality in each band", ylim=(0, 1.08))
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncol=2, frameon=False)
    axes.grid(axis="y", alpha=0.3)


def plot_errors(figure: Figure, evaluated: Evaluated) -> None:
    """Draw both parts of every denoiser's error on top of each other, in units of the signal."""
    axes: Any = figure.subplots()
    main = evaluated.table.bands[0]
    shown = [row for row in evaluated.rows() if row.key != "raw"]
    labels = [plain(row.label) for row in shown]
    scores = [row.bands[main] for row in shown]
    signal = _values([score.signal_variance for score in scores])
    bias = _values([score.bias2 for score in scores]) / signal
    variance = _values([score.variance for score in scores]) / signal

    axes.barh(labels, bias, 0.55, color="tab:blue", alpha=0.75, label="deleted or shared (bias$^2$)")
    axes.barh(labels, variance, 0.55, left=bias, color="tab:red", alpha=0.75, label="noise let through (variance)")
    axes.axvline(1, color="k", lw=1, ls="--")
    axes.set(xlabel="error / signal variance (1 = a constant image)", title=f"What the error consists of, {main} Å")
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=2, frameon=False)
    axes.grid(axis="x", alpha=0.3)


def plot_fidelity(figure: Figure, evaluated: Evaluated) -> None:
    """Draw FRC_clean of every denoiser with the line of a perfect one; ring-wise filters share the raw half's curve."""
    axes: Any = figure.subplots()
    frequency = evaluated.table.curves.frequency
    known = _rings_with_signal(evaluated)
    _shade_band(axes, evaluated)

    for row in evaluated.rows():
        if row.key in ("gaussian", "wiener"):
            continue
        values = np.where(known, row.curves.frc_clean, np.nan)
        spread = row.curves.frc_clean_error
        label = "raw half, and every ring-wise filter" if row.key == "raw" else plain(row.label)
        axes.plot(frequency, values, color=evaluated.colour(row), lw=1.8, label=label)
        if spread is not None:
            axes.fill_between(frequency, values - spread, values + spread, color=evaluated.colour(row), alpha=0.2, lw=0)
        if row.truth:
            axes.plot(frequency, row.truth.correlation, ":", color=evaluated.colour(row), lw=1.5)

    axes.axhline(1, color="k", lw=1, ls="--", label="ceiling: a perfect denoiser")
    if not known.all():
        last = frequency[known].max(initial=frequency[0])
        axes.axvline(last, color="0.6", lw=1, ls=":", label="the halves correlate up to here")

    truth = " (dotted: measured with the truth)" if any(row.truth for row in evaluated.rows()) else ""
    axes.set(ylabel="FRC with the unknown clean image", ylim=(-0.05, 1.32), title=f"Fidelity per ring{truth}")
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    _frequency_axes(axes, frequency)
    axes.legend(fontsize=7.5, loc="upper right", ncol=2, columnspacing=1.0)


def plot_spectra(figure: Figure, evaluated: Evaluated) -> None:
    """Draw the power of a half, of its signal, and of every prediction."""
    axes: Any = figure.subplots()
    curves = evaluated.table.curves
    frequency = curves.frequency
    _shade_band(axes, evaluated)

    axes.semilogy(frequency, curves.half_power, color="0.5", lw=2, label="one half")
    signal = curves.signal_power
    axes.semilogy(frequency, np.where(signal > 0, signal, np.nan), "k--", lw=1.5, label="signal: cov(a, b)")

    for row in evaluated.rows():
        if row.key != "raw":
            power = np.maximum(row.curves.power, 1e-12)
            axes.semilogy(frequency, power, color=evaluated.colour(row), lw=1.5, label=plain(row.label))

    axes.set(ylabel="power per ring", title="Power spectra")
    low = np.nanmin(np.where(signal > 0, signal, np.nan))
    axes.set_ylim(bottom=low / 100 if np.isfinite(low) else None)
    _frequency_axes(axes, frequency)
    axes.legend(fontsize=8)


def plot_residual(figure: Figure, evaluated: Evaluated) -> None:
    """Draw the power of the residual a - f(b) relative to the noise: 1 is a perfect denoiser."""
    axes: Any = figure.subplots()
    frequency = evaluated.table.curves.frequency
    _shade_band(axes, evaluated)

    for row in evaluated.rows():
        if row.key != "raw":
            ratio = row.curves.residual_over_noise
            axes.plot(frequency, ratio, color=evaluated.colour(row), lw=1.6, label=plain(row.label))

    curves = evaluated.table.curves
    constant = curves.half_power / np.maximum(curves.half_power - curves.signal_power, 1e-30)
    axes.plot(frequency, constant, ":", color="0.4", label="constant image")
    axes.axhline(1, color="k", lw=1, ls="--", label="ceiling: nothing but noise is left")

    # The lowest rings hold illumination gradients, far above all else: they do not set the scale.
    inner = frequency > 2 / evaluated.table.band_A[0]
    top = float(np.nanmax(constant[inner]))
    axes.set(ylabel="power of a - f(b) / power of the noise", ylim=(0.9, min(max(1.15, 1.1 * top), 3.0)))
    axes.set_title("Residual: what the prediction leaves of the other half")
    _frequency_axes(axes, frequency)
    axes.legend(fontsize=8)


def plot_micrograph_scores(figure: Figure, evaluated: Evaluated) -> None:
    """Draw R2 of every scored micrograph: bars with errors of the leader, or histograms where there are many."""
    axes: Any = figure.subplots()
    scored, leader = evaluated.table.order, evaluated.leader()
    if len(scored) <= MAX_BARS:
        values = [leader.micrographs[name].r2 for name in scored]
        errors = [leader.micrographs[name].r2_error or 0.0 for name in scored]
        place = np.arange(len(scored))
        colour = evaluated.colour(leader)
        axes.barh(place, values, 0.6, xerr=errors, color=colour, capsize=3, label=plain(leader.label))

        for row in evaluated.rows():
            if row.key in ("wiener", "topaz") or (row.is_model and row is not leader):
                others = [row.micrographs[name].r2 for name in scored]
                axes.plot(others, place, "|", ms=14, mew=2.5, color=evaluated.colour(row), label=plain(row.label))

        axes.set_yticks(place, [plain(name) for name in scored])
        axes.set_ylim(len(scored) - 0.3, -0.7)
        known = [value for value in values if value is not None]
        axes.set_xlim(min(0.0, min(known) - 0.05), 1.3 * max(0.1, *known))  # the legend stands on the right
        axes.set(xlabel="$R^2$", title="$R^2$ of each micrograph, with the error that its noise leaves")
    else:
        edges = np.linspace(*_range([leader.micrographs[name].r2 for name in scored]), 31)
        for row in evaluated.rows():
            if row.kind != "baseline":
                values = [row.micrographs[name].r2 for name in scored]
                axes.hist(values, edges, color=evaluated.colour(row), alpha=0.6, label=plain(row.label))
        axes.set(xlabel="$R^2$", ylabel="micrographs", title="$R^2$ of each micrograph")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper right")


def plot_raw(figure: Figure, evaluated: Evaluated, name: str) -> None:
    """Draw the central cut-out of one half of a micrograph."""
    measurement = evaluated.measurement(name)
    show_image(figure.subplots(), measurement.half_cuts()[A], f"{name}: one half, unprocessed", _width_nm(measurement))


def plot_denoised(figure: Figure, evaluated: Evaluated, name: str, key: str = "") -> None:
    """Draw the same cut-out as a denoiser leaves it."""
    measurement, row = evaluated.measurement(name), evaluated.row_or_leader(key)
    r2 = row.micrographs[name].r2
    title = f"{name}: denoised by {row.label}{'' if r2 is None else f', R² {r2:.2f}'}"
    show_image(figure.subplots(), denoised_cut(row, measurement), title, _width_nm(measurement))


def plot_side_by_side(figure: Figure, evaluated: Evaluated, name: str) -> None:
    """Draw the central cut-out of one micrograph as every denoiser leaves it."""
    measurement = evaluated.measurement(name)
    rows = evaluated.rows()

    n = len(rows) + int(measurement.has_truth)
    n_columns = min(n, PER_ROW)
    axes: Any = np.atleast_1d(figure.subplots(-(-n // n_columns), n_columns, squeeze=False)).ravel()
    width_nm = _width_nm(measurement)

    for place, row in zip(axes, rows):
        r2 = row.micrographs[name].r2_corr
        title = row.label if r2 is None else f"{row.label}   R²corr {r2:.2f}"
        show_image(place, denoised_cut(row, measurement), title, width_nm)

    if measurement.has_truth:
        show_image(axes[len(rows)], measurement.truth_cut(), "truth", width_nm)
    for place in axes[n:]:
        place.set_axis_off()
    figure.suptitle(f"{plain(name)}: one half, denoised")


def plot_micrograph(figure: Figure, evaluated: Evaluated, name: str, key: str = "") -> None:
    """Draw half, prediction, the other half; difference, residual a - f(b) and its whiteness; power spectra.

    Whiteness: the autocorrelation of the residual beside that of the noise (a - b). Structure in the first that the
    second does not have is signal that the denoiser missed.
    """
    measurement = evaluated.measurement(name)
    row = evaluated.row_or_leader(key)
    a, b = measurement.half_cuts()
    fa = denoised_cut(row, measurement, A)
    fb = denoised_cut(row, measurement, B)

    width_nm = _width_nm(measurement)
    axes: Any = figure.subplots(2, 4)
    for place, image, title in zip(
        axes[0],
        (a, (fa + fb) / 2, b, a - fa),
        ("half a (odd)", f"{row.label}: mean of f(a) and f(b)", "half b (even)", "difference a - f(a)"),
    ):
        show_image(place, image, title, width_nm)

    show_image(axes[1, 0], a - fb, "residual a - f(b)", width_nm)
    for place, image, title in ((axes[1, 1], a - fb, "residual a - f(b)"), (axes[1, 2], a - b, "noise a - b")):
        shown = _autocorrelation(image)
        limit = max(0.02, float(np.max(np.abs(shown))))
        y, x = (side // 2 for side in shown.shape)
        drawn = place.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", extent=(-x, x, -y, y))
        place.set(title=f"autocorrelation, {title}", xlabel="px", ylabel="px")
        figure.colorbar(drawn, ax=place, shrink=0.75)

    for image, label, colour in ((a, "half a", "0.5"), (fa, "f(a)", evaluated.colour(row)), (a - fb, "residual", "k")):
        _, frequency, profile = power_spectrum(image, measurement.sampling_rate)
        axes[1, 3].semilogy(frequency[1:], profile[1:], color=colour, label=label)
    axes[1, 3].set(title="power spectra", xlabel="spatial frequency (1/Å)")
    axes[1, 3].grid(alpha=0.3)
    axes[1, 3].legend(fontsize=8)

    scores = row.micrographs[name]
    number = "" if scores.r2 is None else f", R² = {scores.r2:.3f} ± {scores.r2_error or 0:.3f}"
    figure.suptitle(f"{plain(name)}{number}")


def plot_truth(figure: Figure, evaluated: Evaluated, name: str) -> None:
    """Draw the truth, the prediction, and maps of what the leader invented and deleted."""
    measurement, leader = evaluated.measurement(name), evaluated.leader()
    band = evaluated.table.band_A
    scale = truth_scale(name, measurement.rings.of(A, B, A, B, measurement.order.truth or 0).in_band(band))
    truth = measurement.truth_cut() * np.float32(scale)
    prediction = (denoised_cut(leader, measurement, A) + denoised_cut(leader, measurement, B)) / 2

    maps = truth_maps(prediction, truth, measurement.sampling_rate, (band[0], band[1]))
    axes: Any = figure.subplots(1, 4)
    width_nm = _width_nm(measurement)
    show_image(axes[0], truth, "truth", width_nm)
    show_image(axes[1], prediction, leader.label, width_nm)

    top = float(max(maps.invented.max(), maps.deleted.max(), 1e-6))
    for place, image, title, colours in (
        (axes[2], maps.invented, "invented: not in the truth", "Reds"),
        (axes[3], maps.deleted, "deleted: not in the prediction", "Blues"),
    ):
        extent = (0.0, width_nm, 0.0, width_nm * image.shape[0] / image.shape[1])
        drawn = place.imshow(image, cmap=colours, vmin=0, vmax=top, origin="lower", extent=extent)
        place.set_title(f"{title}\n{100 * image.mean():.0f} % of the signal variance")
        place.set(xticks=[], yticks=[])
        add_scale_bar(place)
        figure.colorbar(drawn, ax=place, shrink=0.7, label="of the truth's variance")
    figure.suptitle(f"{plain(name)}: where {plain(leader.label)} invents and deletes")


def _values(numbers: Sequence[Number]) -> np.ndarray:
    """Return the values of numbers, NaN where there is none."""
    return np.array([np.nan if number.value is None else number.value for number in numbers])


def _rings_with_signal(evaluated: Evaluated) -> np.ndarray:
    """Return which rings come before the first one, beyond 100 A, in which the halves do not correlate."""
    curves = evaluated.table.curves
    frequency, frc = curves.frequency, np.nan_to_num(curves.frc_halves)
    lost = (frc <= 0) & (frequency > 0.01)
    return np.cumsum(lost) == 0


def _range(values: Sequence[Optional[float]]) -> Tuple[float, float]:
    known = [value for value in values if value is not None]
    low = min(known, default=0.0)
    high = max(known, default=0.0)
    return min(low, 0.0), max(high, 0.01) * 1.05


def _width_nm(measurement: Measurement) -> float:
    """Return the width of a cut-out."""
    return measurement.half_cuts().shape[2] * measurement.sampling_rate / 10


def _shade_band(axes: Any, evaluated: Evaluated) -> None:
    low, high = evaluated.table.band_A
    axes.axvspan(1 / low, 1 / high, color="tab:green", alpha=0.06, lw=0, label=f"score band {low:g}-{high:g} Å")


def _frequency_axes(axes: Any, frequency: np.ndarray) -> None:
    """Name frequencies below, and the periods that microscopists speak of above."""
    low, high = 0.0, float(frequency[-1])
    periods = [period for period in RESOLUTIONS_A if period * high >= 1]
    # Names that would stand on each other are left out, the coarse ones first.
    while any(1 / b - 1 / a < high / 14 for a, b in zip(periods, periods[1:])):
        crowded = next(n for n, (a, b) in enumerate(zip(periods, periods[1:])) if 1 / b - 1 / a < high / 14)
        del periods[crowded]
    axes.set_xlim(low, high)
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.grid(alpha=0.3)
    above = axes.secondary_xaxis("top")
    above.set_xticks([1 / period for period in periods], [f"{period:g} Å" for period in periods], fontsize=8)


def _legend_once(axes: Any, **where: Any) -> None:
    """Show a legend in which each word stands once, if there is any."""
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1]))
    if handles:
        axes.legend(handles.values(), handles.keys(), fontsize=8, **where)


def _autocorrelation(image: np.ndarray) -> np.ndarray:
    """Return the autocorrelation `(2 LAGS + 1, 2 LAGS + 1)`, with its central 1 set to 0 so that the rest is seen."""
    image = image - image.mean()
    power = np.abs(scipy.fft.rfft2(image)) ** 2
    correlation = scipy.fft.fftshift(scipy.fft.irfft2(power, s=image.shape)) / max(float(np.sum(image**2)), 1e-30)
    centre = [side // 2 for side in image.shape]
    reach = [min(LAGS, c - 1) for c in centre]
    cut = correlation[centre[0] - reach[0] : centre[0] + reach[0] + 1, centre[1] - reach[1] : centre[1] + reach[1] + 1]
    cut[reach[0], reach[1]] = 0.0
    return cut
