"""A report's heading, and names that try to break out of every format."""

import pytest

from unbroken.validation.heading import Heading

HOSTILE = '<script src="http://elsewhere/x.js">alert(1)</script> & "q" \'s\' \\input{x} %_#$^~{} |é\n% [1] $x$ ]]> -->'


@pytest.fixture
def heading():
    return Heading(
        section="7.6",
        title="Traffic control",
        question="Do learnt controllers delay vehicles less?",
        mode="full",
        command="unbroken validate --section 7.6 --mode full",
        made="2026-05-04T12:00:00+00:00",
        machine="2 cores",
        versions={"python": "3.11.7"},
        notes=("tuned on other seeds",),
    )


@pytest.fixture
def hostile():
    return HOSTILE


@pytest.fixture
def coarse(monkeypatch):
    """Pictures with fewer pixels, for tests that look at something else."""
    monkeypatch.setattr("unbroken.validation.figures.DPI", 50)
