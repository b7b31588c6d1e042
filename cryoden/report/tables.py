"""The numbers of an evaluation as files for other programs: CSV and STAR."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Dict, List, Optional

import pandas as pd

from cryoden.formats.files import PathLike, whole_file
from cryoden.formats.star_text import write_blocks

METRICS_NAME, CSV_NAME, STAR_NAME = "metrics.json", "metrics.csv", "metrics.star"

COLUMNS = (
    "r2", "r2_error", "r2_corr", "r2_of_mean", "psnr_clean", "bias2", "variance", "mse_clean", "signal_variance",
    "noise_variance", "hallucination", "psnr", "ssim", "ssim_ceiling",
)  # fmt: skip


def micrograph_rows(table: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Return one dictionary for each micrograph and denoiser: names, whether it is scored, and `COLUMNS`."""
    scored = set(table["scored"])
    return [
        {
            "micrograph": name,
            "denoiser": row["label"],
            "is_scored": name in scored,
            **{c: numbers.get(c) for c in COLUMNS},
        }
        for row in table["rows"]
        for name, numbers in row["micrographs"].items()
    ]


def overall_rows(table: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Return one dictionary for each denoiser and band, every number with its standard error."""
    rows = []
    for row in table["rows"]:
        for band, numbers in (row["bands"] or {}).items():
            extra = {
                key: row[key] for key in ("psnr", "ssim", "ssim_ceiling") if key in row and band == table["bands"][0]
            }
            entry: Dict[str, Any] = {"denoiser": row["label"], "band_A": band}
            for name, number in {**numbers, **extra}.items():
                entry[name], entry[f"{name}_error"] = number["value"], number["error"]
            rows.append(entry)
    return rows


def summary_lines(table: Dict[str, Any]) -> List[str]:
    """Return the main table as text: R2 and R2_corr of every row in every band."""
    header = f"{'':26}" + "".join(f"{band + ' A':>34}" for band in table["bands"])
    lines = [header, f"{'':26}" + f"{'R2':>22}{'R2_corr':>12}" * len(table["bands"])]
    for row in table["rows"]:
        if row["bands"] is None:
            lines.append(f"{row['label']:26}{row['note']}")
            continue
        cells = "".join(
            f"{with_error(numbers['r2'], 3):>22}{with_error(numbers['r2_corr'], 3, False):>12}"
            for numbers in (row["bands"][band] for band in table["bands"])
        )
        lines.append(f"{row['label']:26}{cells}")
    return [line.rstrip() for line in lines]


def with_error(number: Dict[str, Any], digits: int, has_error: bool = True) -> str:
    """Return `0.315 +- 0.010` of a value with its standard error; a dash where there is none."""
    if number["value"] is None:
        return "-"
    text = f"{number['value']:.{digits}f}"
    return f"{text} +- {number['error']:.{digits}f}" if has_error and number["error"] is not None else text


def write_tables(folder: PathLike, table: Dict[str, Any]) -> None:
    """Write the numbers of every micrograph as CSV, and these with the overall ones as STAR."""
    rows = micrograph_rows(table)
    with whole_file(Path(folder) / CSV_NAME) as temporary, open(
        str(temporary), "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([{key: _text(value, "") for key, value in row.items()} for row in rows])
    blocks = {"overall": overall_rows(table), "micrographs": rows}
    frames = {name: _star_frame(block) for name, block in blocks.items()}
    write_blocks(Path(folder) / STAR_NAME, frames)


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
