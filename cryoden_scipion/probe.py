"""What a Python environment has of what the denoiser needs: run as a script by the Python that is asked about.

Nothing that takes long is imported, PyTorch least of all: its version stands in a small file of its own.
"""

import importlib.util
import json
import os
import runpy
import sys
from typing import Dict, Optional

MARK = "cryoden environment: "
"""Begins the line of the answer: the command that activates an environment may print lines of its own."""


def lookAround() -> Dict[str, Optional[str]]:
    """Return the environment's folder and the versions of cryoden, PyTorch and its GPU libraries, None where absent."""
    found: Dict[str, Optional[str]] = {"prefix": sys.prefix, "cryoden": None, "torch": None, "gpuBuild": None}

    spec = importlib.util.find_spec("cryoden")
    if spec is not None and spec.origin:  # a folder of this name is no package
        from cryoden import __version__

        found["cryoden"] = __version__

    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin:
        version = runpy.run_path(os.path.join(os.path.dirname(spec.origin), "version.py"))
        found["torch"] = str(version["__version__"])
        found["gpuBuild"] = version.get("cuda") or version.get("hip")
    return found


if __name__ == "__main__":
    print(MARK + json.dumps(lookAround()))
