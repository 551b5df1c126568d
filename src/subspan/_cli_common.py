"""What the commands share: messages, one place that catches errors, ``--set`` values."""

from __future__ import annotations

import ast
import difflib
import errno
import inspect
import json
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from subspan.errors import InvalidInputError, SubspanError

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130

#: Parameters that have an option of their own, so that none can be given twice.
OPTIONS = {
    "n_clusters": "--n-clusters",
    "recipe": "--recipe",
    "encoder": "--encoder",
    "random_state": "--seed",
    "verbose": "--quiet",
    "checkpoint_dir": "--out",
    "resume": "--resume",
}


class FriendlyGroup(TyperGroup):
    """Commands whose errors are one sentence on stderr and exit code 2; ``--debug``, anywhere, shows the traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("Interrupted.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except Exception as error:
            sentence = explain(error)
            if sentence is None:
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            say(f"Error: {sentence}")
            raise typer.Exit(EXIT_ERROR) from None


def explain(error: Exception) -> str | None:
    """One sentence about an error that a user can do something about; None for anything else."""
    text = " ".join(str(error).split())
    if isinstance(error, SubspanError):
        return text
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "The disk is full: free some space or choose another place."
        return f"{error.filename or 'A file'} cannot be used ({error.strerror or text}): check the path."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory: use fewer or smaller samples, or a smaller batch_size (--set)."
    if isinstance(error, ValueError | TypeError):
        return f"{text} (add --debug for the traceback)"
    return None


def say(text: str) -> None:
    """A line on stderr, never wrapped."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Mapping[str, Any]) -> None:
    """A result: one line of JSON on stdout."""
    from subspan._json import to_json

    print(json.dumps(to_json(value), ensure_ascii=False), flush=True)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """``name=value`` pairs; a value is read as JSON, else as a Python literal, else as text.

    Examples
    --------
    >>> parse_settings(["epochs=[60, 30]", "soft=True", "encoder_name=conv"])
    {'epochs': [60, 30], 'soft': True, 'encoder_name': 'conv'}
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InvalidInputError(f"--set {setting} is not a setting: write --set name=value.")
        if name in OPTIONS:
            raise InvalidInputError(f"--set {setting} has an option of its own: use {OPTIONS[name]}.")
        if name in parsed:
            raise InvalidInputError(f"--set gives {name} twice: give it once.")
        parsed[name] = _parse_value(text.strip())
    return parsed


def _parse_value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text


def build_estimator(cls: type, name: str, parameters: Mapping[str, Any]) -> Any:
    """``cls(**parameters)`` with a message that names the nearest parameters if one is unknown."""
    valid = [key for key in inspect.signature(cls).parameters if key not in ("self", "args", "kwargs")]
    for key in parameters:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=3, cutoff=0.5)
            advice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(valid))}."
            raise InvalidInputError(f"Method {name} has no parameter '{key}': {advice}")
    return cls(**parameters)


def compact(config: Mapping[str, Any], width: int = 110) -> str:
    """A configuration as a few readable lines: one for each section, ``name=value`` inside."""
    from subspan._json import to_json

    lines = []
    for key, value in to_json(config).items():
        if value == {}:
            continue
        if not isinstance(value, dict):
            lines.append(f"{key + ':':<12} {value}")
            continue
        line = f"{key + ':':<12}"
        for name, item in value.items():
            part = f" {name}={item if isinstance(item, str) else json.dumps(item)}"
            if len(line) + len(part) > width and len(line) > 12:
                lines.append(line)
                line = " " * 12
            line += part
        lines.append(line)
    return "\n".join(lines)


def human_bytes(count: float) -> str:
    """``1.5 GiB`` and the like."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
