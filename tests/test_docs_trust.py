"""The example of "Can I trust the SDE for my model?" says what the page says."""

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_can_i_trust():
    found = runpy.run_path(str(DOCS / "examples" / "can_i_trust.py"))["found"]
    page = (DOCS / "can_i_trust_the_sde.md").read_text()
    rows = re.findall(r"^\| (\d+), \S+ \| (\w+).*\| (\w+):", page, re.MULTILINE)
    assert rows == [(str(batch), noise.verdict, close.verdict) for batch, (noise, close) in found.items()]
    (near, near_close), (far, far_close) = found.values()
    assert near.ratio.min() > 3.6
    assert far.ratio[0] == pytest.approx(0.23, abs=0.005)
    assert far.holds_from == 6
    assert near_close.closeness.bounds[1] < 1.33
    assert far_close.closeness.bounds[0] > 1.5
