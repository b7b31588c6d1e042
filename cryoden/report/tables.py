"""The numbers of an evaluation as files for other programs: CSV and STAR."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Dict, List, Optional

import pandas as pd

from cryoden.formats import outputs
from cryoden.formats.files import PathLike, whole_file
from cryoden.formats.star_text import write_blocks
from cryoden.report.evaluation_table import EvaluationTable, Number

COLUMNS = (
    "r2", "r2_error", "r2_corr", "r2_of_mean", "psnr_clean", "bias2", "variance", "mse_clean", "signal_variance",
    "noise_variance", "hallucination", "psnr", "ssim", "ssim_ceiling",
)  # fmt: skip


def micrograph_rows(table: EvaluationTable) -> List[Dict[str, Any]]:
    """Return one dictionary for each micrograph and denoiser: names, whether it is scored, and `COLUMNS`."""
    scored = set(table.scored)
    return [
        {
            "micrograph": name,
            "denoiser": row.label,
            "is_scored": name in scored,
            **{column: getattr(numbers, column) for column in COLUMNS},
        }
        for row in table.rows
        for name, numbers in row.micrographs.items()
    ]


def overall_rows(table: EvaluationTable) -> List[Dict[str, Any]]:
    """Return one dictionary for each denoiser and band, every number with its standard error."""
    rows = []
    for row in table.rows:
        for band in table.bands:
            numbers: Dict[str, Optional[Number]] = dict(vars(row.bands[band]))
            if band == table.bands[0]:
                numbers.update(psnr=row.psnr, ssim=row.ssim, ssim_ceiling=row.ssim_ceiling)
            entry: Dict[str, Any] = {"denoiser": row.label, "band_A": band}
            for name, number in numbers.items():
                if number is not None:
                    entry[name], entry[f"{name}_error"] = number.value, number.error
            rows.append(entry)
    return rows


def summary_lines(table: EvaluationTable) -> List[str]:
    """Return the main table as text: R2 and R2_corr of every row in every band; and why a denoiser is not there."""
    header = f"{'':26}" + "".join(f"{band + ' Å':>34}" for band in table.bands)
    lines = [header, f"{'':26}" + f"{'R2':>22}{'R2_corr':>12}" * len(table.bands)]
    for row in table.rows:
        cells = "".join(
            f"{with_error(numbers.r2, 3):>22}{with_error(numbers.r2_corr, 3, False):>12}"
            for numbers in (row.bands[band] for band in table.bands)
        )
        lines.append(f"{row.label:26}{cells}")
    lines += [f"{absent.label}: {absent.reason}" for absent in table.absent]
    return [line.rstrip() for line in lines]


def with_error(number: Optional[Number], digits: int, has_error: bool = True) -> str:
    """Return `0.315 ± 0.010` of a value with its standard error; a dash where there is none."""
    if number is None or number.value is None:
        return "-"
    text = f"{number.value:.{digits}f}"
    return f"{text} ± {number.error:.{digits}f}" if has_error and number.error is not None else text


def write_tables(folder: PathLike, table: EvaluationTable) -> None:
    """Write the numbers of every micrograph as CSV, and these with the overall ones as STAR."""
    rows = micrograph_rows(table)
    with whole_file(Path(folder) / outputs.METRICS_CSV) as temporary, open(
        str(temporary), "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([{key: _text(value, "") for key, value in row.items()} for row in rows])
    blocks = {"overall": overall_rows(table), "micrographs": rows}
    frames = {name: _star_frame(block) for name, block in blocks.items()}
    write_blocks(Path(folder) / outputs.METRICS_STAR, frames)


def _star_frame(rows: List[Dict[str, Any]]) -> pd.DataFrame:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    content = [[_text(row.get(column), "<NA>").replace(" ", "_") for column in columns] for row in rows]
    return pd.DataFrame(content, columns=["cryoden" + "".join(w.title() for w in c.split("_")) for c in columns])


def _text(value: Optional[Any], nothing: str) -> str:
    if value is None:
        return nothing
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
