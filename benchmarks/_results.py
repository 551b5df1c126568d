"""A file of JSON lines that a benchmark goes on with after it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Results:
    """Lines of earlier runs, and of this one.

    Parameters
    ----------
    path : Path
        Is made with the first line.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []

    def of(self, key: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The lines that hold all entries of ``key``."""
        return [line for line in self.lines if key.items() <= line.items()]

    def add(self, line: dict[str, Any]) -> None:
        """Write a line to the file and to the screen."""
        self.lines.append(line)
        text = json.dumps(line)
        with self.path.open("a") as file:
            file.write(f"{text}\n")
        print(text, flush=True)
