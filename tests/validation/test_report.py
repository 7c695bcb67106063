"""A folder of results: everything or nothing, the page last, the same bytes again (C3, C4)."""

import json
from dataclasses import replace

import pytest

from unbroken.testing.comparisons import sample_comparison, with_pictures
from unbroken.validation import report
from unbroken.validation.guards import UntrustworthyComparison
from unbroken.validation.report import write_report

SAMPLE = with_pictures(sample_comparison())
pytestmark = pytest.mark.usefixtures("coarse")


def test_the_folder(heading, tmp_path):
    folder = tmp_path / "with space é" / "results"
    written = write_report([SAMPLE], heading, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(written.files)
    assert written.files == (
        "metrics.json",
        "metrics.csv",
        "table.tex",
        "improvement.png",
        "learning-traffic_light_control.png",
        "space-time-traffic_light_control.png",
        "queues-traffic_light_control.png",
        "report.html",
    )
    assert written.page == folder / "report.html"
    assert written.lines() == (f"traffic_light_control: MET. {written.findings[0].reason}",)
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["scenarios"][0]["verdict"] == "met"
    assert (folder / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 4


def test_the_same_bytes_again_and_other_files_stay(heading, tmp_path):
    first = write_report([SAMPLE], heading, tmp_path)
    (tmp_path / "run.log").write_text("log")
    bits = {name: (tmp_path / name).read_bytes() for name in first.files}
    write_report([SAMPLE], heading, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in first.files} == bits
    assert (tmp_path / "run.log").read_text() == "log"


def untrustworthy():
    """The sample as a scenario `bad`, in which the first training did what webster did."""
    arms = SAMPLE.arms
    twin = replace(
        arms[3], plays=tuple(replace(p, digest=q.digest) for p, q in zip(arms[3].plays, arms[0].plays, strict=True))
    )
    return replace(SAMPLE, scenario="bad", arms=(*arms[:3], twin, *arms[4:]))


def test_of_what_cannot_be_trusted_there_is_only_why(heading, tmp_path):
    """C4: the other scenarios are reported all the same."""
    written = write_report([SAMPLE, untrustworthy()], heading, tmp_path)
    why = "agent of training 0 did bit for bit what webster did"
    assert why in written.refused["bad"]
    assert [finding.scenario for finding in written.findings] == ["traffic_light_control"]
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert [one["scenario"] for one in content["scenarios"]] == ["traffic_light_control"]
    assert why in content["refused"]["bad"]
    assert "\nbad," not in (tmp_path / "metrics.csv").read_text(encoding="utf-8")
    assert "bad: not compared" in (tmp_path / "table.tex").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<strong>bad: not compared, it cannot be trusted</strong>{why}" in page
    assert not list(tmp_path.glob("*bad.png"))


def test_nothing_is_written_where_nothing_can_be_trusted(heading, tmp_path):
    with pytest.raises(UntrustworthyComparison, match="bad: agent of training 0 did bit for bit what webster did"):
        write_report([untrustworthy()], heading, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_the_page_comes_last(heading, tmp_path, monkeypatch):
    """Storage that fails at any file leaves no page that points to files which are not there."""
    write = report.write_bytes_durably

    def failing(backend, path, content):
        if path.startswith("queues"):
            raise OSError("disk full")
        write(backend, path, content)

    monkeypatch.setattr(report, "write_bytes_durably", failing)
    with pytest.raises(OSError, match="disk full"):
        write_report([SAMPLE], heading, tmp_path)
    assert (tmp_path / "metrics.csv").exists()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("comparisons", [[], [SAMPLE, SAMPLE]])
def test_scenarios_once_each(heading, tmp_path, comparisons):
    with pytest.raises(ValueError, match="each of its scenarios once"):
        write_report(comparisons, heading, tmp_path)


def test_quick(heading, tmp_path):
    written = write_report([SAMPLE], replace(heading, mode="quick"), tmp_path)
    assert (
        written.lines()[0]
        == "traffic_light_control: NOT JUDGED. Quick comparison: it proves nothing, whatever it shows."
    )
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["mode"] == "quick"
    assert "proves nothing" in (tmp_path / "table.tex").read_text(encoding="utf-8")
