"""Refuse to publish under a tag that is not the version.

Usage: python .ci/check_tag.py v0.2.0
"""

import re
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
version = re.search(r'__version__ = "(.+)"', (root / "cryoden" / "__init__.py").read_text()).group(1)
citation = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.MULTILINE).group(1)
if not sys.argv[1] == f"v{version}" == f"v{citation}":
    sys.exit(f"The tag is {sys.argv[1]}, the version {version}, that of CITATION.cff {citation}.")
