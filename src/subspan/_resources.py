"""Memory that can be had now, for estimates made before an allocation (layer 0)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def available_bytes() -> int | None:
    """Available memory in bytes, capped by the container's limit; None where the system does not say."""
    found = []
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        with suppress(AttributeError, OSError, ValueError):
            found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # no container, or no limit ("max")
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found, default=None)
