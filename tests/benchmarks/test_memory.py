"""What the benchmark of memory makes of a page of metrics, and of its samples."""

from __future__ import annotations

import pytest

from memory import Sample, scraped, slopes_of


def test_a_page_of_metrics_is_summed_by_name_stage_and_what_it_is_of() -> None:
    """Comments, and lines without labels, are stepped over."""
    page = (
        "# HELP forebay_memory_bytes Memory\n"
        'forebay_memory_bytes{of="identities",stage="intake"} 1000.0\n'
        'forebay_events_total{stage="user"} 7.0\n'
        'forebay_entries{of="entities",partition="0",stage="user",topic="t"} 3.0\n'
        'forebay_entries{of="entities",partition="1",stage="user",topic="t"} 4.0\n'
        "process_cpu_seconds_total 5.0\n"
    )
    assert scraped(page) == {
        ("forebay_memory_bytes", "intake", "identities"): 1000.0,
        ("forebay_events_total", "user", ""): 7.0,
        ("forebay_entries", "user", "entities"): 7.0,
    }


def test_the_slope_of_memory_leaves_out_the_beginning_and_tells_identities_apart() -> None:
    """A fifth warms up; then 6 MB a minute, of which identities are 2."""
    samples = [Sample(s, (500 if s < 20 else 100) + s / 10, s / 30, s / 15) for s in range(100)]
    found = slopes_of(samples)
    assert found["RSS"] == pytest.approx(6.0)
    assert found["of which identities"] == pytest.approx(2.0)
    assert found["of which all its tables"] == pytest.approx(4.0)
    assert found["all but identities"] == pytest.approx(4.0)
