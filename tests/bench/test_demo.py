"""The demo's picture is drawn from its report alone."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from stretto.bench.demo import draw


def test_picture_is_drawn_from_the_report(tmp_path: Path) -> None:
    points = [
        {"width": width, "depth": depth, "accuracy": 0.8 + depth / 20, "macs": 10, "p50_ms": width * depth}
        for width in (0.5, 1.0)
        for depth in (1, 2)
    ]
    row = {"budget_ms": 2.0, "requests": 9, "met": 0.97, "accuracy": 0.9, "width": 0.5, "depth": 2.0}
    draw({"points": points, "idle": [row], "busy": [row]}, tmp_path / "deep" / "demo.png")
    assert (tmp_path / "deep" / "demo.png").read_bytes().startswith(b"\x89PNG")
