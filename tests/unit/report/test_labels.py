"""Names beside points, apart from each other."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from spillover.report.labels import apart, name_at_the_right


@pytest.mark.parametrize("n", [1, 2, 9])
def test_places_are_apart_in_order_and_within_the_panel(n):
    wanted = np.random.default_rng(n).random(n)
    placed = apart(wanted, 0.1)
    order = np.argsort(wanted)
    assert (np.diff(placed[order]) >= 0.1 - 1e-12).all()
    assert placed.min() >= 0
    assert placed.max() <= 1 + 1e-12


def test_places_with_room_stay_where_they_are():
    assert apart([0.9, 0.1, 0.5], 0.2) == pytest.approx([0.9, 0.1, 0.5])


def test_places_at_one_height_lie_about_it():
    assert apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])


def test_no_name_hides_another():
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(-20, 40))
    points = [(0.5, 10.0)] * 6 + [(0.2, 40.0), (0.9, 39.0)]
    names = [f"arm {number}" for number in range(len(points))]
    name_at_the_right(axes, points, names)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without its line
    assert sorted(text.get_text() for text in axes.texts) == names
    heights = sorted((box.y0, box.y1) for box in boxes)
    assert all(below[1] <= above[0] for below, above in pairwise(heights))
    assert heights[-1][1] <= axes.get_window_extent().y1 + boxes[0].height
