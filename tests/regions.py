"""What the system says about the files that this process has mapped."""

from __future__ import annotations

import re
from pathlib import Path


def regions(path: Path) -> list[dict[str, int]]:
    """What /proc says about each mapping of a file, in KiB."""
    found: list[dict[str, int]] = []
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.removesuffix(" (deleted)").endswith(f" {path}")
            if ours:
                found.append({"start": int(line.split("-")[0], 16)})
        elif ours and line.endswith(" kB"):
            name, size, _ = line.split()
            found[-1][name.rstrip(":")] = int(size)
    return found
