"""How RELION names what belongs to one image: by the part of its name that comes after the job's folder.

`MotionCorr/job002/movies/a.mrc` is `movies/a.mrc` for every later job: picks on `External/job005/movies/a.mrc` are
found for it, those on `External/job005/a.mrc` are not (RELION 3.1.3, `decomposePipelineFileName`).
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Optional

_JOB = re.compile(r"(^|.*?/)job\d{3,}/")
"""Up to the first folder of a job."""


def name_in_job(name: str) -> str:
    """Return the part of an image's name after the folder of the job that made it, without its ending.

    Names outside of jobs are taken whole, below the project's folder or the root.
    """
    within = _JOB.sub("", os.path.normpath(name), count=1)
    parts = [part for part in PurePath(within).with_suffix("").parts if part not in (os.sep, os.pardir)]
    return os.path.join(*parts)


def micrograph_in_job(name: str, metadata: Optional[str]) -> str:
    """Return by which name RELION's jobs know a micrograph.

    Parameters
    ----------
    name
        Of the micrograph's file.
    metadata
        Of what a motion correction wrote about it: a micrograph that was summed again from the same movie belongs to
        the one that motion correction wrote.
    """
    return name_in_job(metadata or name)
