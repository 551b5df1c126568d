"""Memory that can be had now."""

from __future__ import annotations

import pytest

from subspan import _resources

LIMIT, USED, FILES = 8_000_000_000, 6_000_000_000, 1_000_000_000


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [
        (str(LIMIT), USED, LIMIT - USED + FILES),  # files in memory make room
        (str(LIMIT), 10 * USED, 0),
        ("max", USED, None),
    ],
)
def test_a_container_has_its_limit_less_what_is_used(tmp_path, limit, used, left):
    for name, content in (
        ("memory.max", f"{limit}\n"),
        ("memory.current", f"{used}\n"),
        ("memory.stat", f"anon 5\ninactive_file {FILES}\nslab 7\n"),
    ):
        (tmp_path / name).write_text(content)
    if left is None:
        with pytest.raises(ValueError, match="max"):
            _resources._left_in_container(tmp_path)
    else:
        assert _resources._left_in_container(tmp_path) == left


def test_the_tightest_limit_counts(monkeypatch):
    free = _resources.available_bytes()
    assert free is None or free > 0
    monkeypatch.setattr(_resources, "_left_in_container", lambda group: 1000)
    assert _resources.available_bytes() == 1000

    def unlimited(group):
        raise ValueError("max")

    monkeypatch.setattr(_resources, "_left_in_container", unlimited)
    assert _resources.available_bytes() != 1000
