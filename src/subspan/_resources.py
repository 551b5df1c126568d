"""Memory that can be had now, for estimates made before an allocation (layer 0)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LIBRARIES = 400_000_000  # bytes that torch, SciPy and the like take before any data


def available_bytes() -> int | None:
    """Available memory in bytes, capped by the container's limit; None where the system does not say."""
    found = []
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        with suppress(AttributeError, OSError, ValueError):
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, KeyError, ValueError):  # no container, or no limit ("max")
        found.append(_left_in_container(Path("/sys/fs/cgroup")))
    return min(found, default=None)


def _left_in_container(group: Path) -> int:
    """Limit less what is used, apart from files in memory that would make room."""
    used = int((group / "memory.current").read_text())
    files = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
    return max(0, int((group / "memory.max").read_text()) - used + int(files))
