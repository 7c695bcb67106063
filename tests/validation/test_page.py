"""The page is one file without scripts or anything from elsewhere, and says in words what was found (C3, C4)."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from unbroken.testing.comparisons import sample_comparison, with_pictures
from unbroken.validation.figures import Picture
from unbroken.validation.heading import Heading
from unbroken.validation.page import html_page
from unbroken.validation.results import Arm, Metric
from unbroken.validation.verdict import describe, digest, judge

VOID = {"meta", "img", "br"}
DRAWN = [
    Picture("improvement.png", "all of it", b"\x89PNG one"),
    Picture("q.png", "queues", b"\x89PNG two", "traffic_light_control"),
]


class Reader(HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self._open = [], [], []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return "".join(self.words).replace("\N{NO-BREAK SPACE}", " ")

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(comparison, heading, pictures=()):
    return html_page([comparison], [judge(comparison, heading.mode)], heading, pictures)


def test_nothing_from_elsewhere(heading):
    page = page_of(with_pictures(sample_comparison()), heading, DRAWN)
    reader = Reader(page)
    assert {tag for tag, _ in reader.tags}.isdisjoint(
        {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    )
    for tag, attributes in reader.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("href", "srcset", "style", "action")
        ]
        assert attributes.get("src", "data:").startswith("data:"), tag
    assert "url(" not in page
    assert "@import" not in page
    assert "http:" not in page
    assert "https:" not in page
    policy = next(a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_pictures_are_inside_with_words_for_who_cannot_see_them(heading):
    images = Reader(page_of(sample_comparison(), heading, DRAWN)).all("img")
    assert [image["alt"] for image in images] == ["all of it", "queues"]
    found = [base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in images]
    assert found == [one.png for one in DRAWN]


def test_what_a_reader_looks_for(heading):
    comparison = sample_comparison()
    finding = judge(comparison, "full")
    text = Reader(page_of(comparison, heading)).text
    for part in (
        "Section 7.6: Traffic control",
        heading.question,
        "traffic_light_control: met",
        finding.reason,
        describe(comparison.rule),
        digest(comparison.rule)[:16],
        "The strongest baseline is actuated: against it the agents are 10.0 % worse.",
        "delay, veh h",
        "less is better",
        "+36.3 (seed 0)",
        "20: 2000 to 2019",
        "300 for every arm",
        "4,500 s of simulated time",
        "3600 s after a warm-up of 900 s",
        "steps: 384,000, legs: 2",
        "20 of 20 seeds",
        "too narrow where trainings differ",
        heading.command,
        heading.made,
        "3.11.7",
        "tuned on other seeds",
        "motorcycles_veh_h",
    ):
        assert part in text, part
    assert "proves nothing" not in text


def test_the_tables_have_the_numbers_of_the_finding(heading):
    comparison = sample_comparison()
    finding = judge(comparison, "full")
    page = page_of(comparison, heading)
    row = re.search(r'<tr class="ruled">.*?</tr>', page)[0]
    found = finding.ruled
    assert re.findall(r"<td>(.*?)<", row) == [
        f"{found.mean.value:.1f}",
        f"{found.improvement.value:+.1f}",
        f"{found.interquartile.value:+.1f}",
        f"{found.difference.value:.2f}",
        f"{100 * found.probability.value:.0f}\N{NO-BREAK SPACE}%",
    ]
    assert f"[{found.improvement.low:+.1f}, {found.improvement.high:+.1f}]" in row


def test_quick_says_that_it_proves_nothing(heading):
    page = page_of(sample_comparison(), replace(heading, mode="quick"))
    reader = Reader(page)
    assert any(attributes.get("class") == "box quick" for attributes in reader.all("p"))
    assert page.index('class="box quick"') < page.index("Verdicts")
    assert "it proves nothing, whatever it shows" in reader.text
    assert "(quick, proves nothing)</title>" in page
    assert 'class="box met"' not in page


@pytest.mark.parametrize(
    ("agents", "kind", "word"),
    [((160.0,) * 3, "met", "met"), ((240.0,) * 3, "missed", "missed"), ((160.0,), "open", "not judged")],
)
def test_verdicts(heading, agents, kind, word):
    reader = Reader(page_of(sample_comparison(agents=agents), heading))
    assert any(attributes.get("class") == f"box {kind}" for attributes in reader.all("p"))
    assert f"traffic_light_control: {word}" in reader.text


def test_a_rule_shared_by_scenarios_is_written_once(heading):
    comparisons = [sample_comparison(), sample_comparison("another")]
    page = html_page(comparisons, [judge(one, "full") for one in comparisons], heading, [])
    assert Reader(page).text.count("Met if") == 1
    assert "traffic_light_control, another." in Reader(page).text


def test_text_of_others_stays_text(hostile):
    comparison = sample_comparison(hostile, {hostile: 250.0, f"{hostile} 2": 100.0})
    arms = tuple(
        replace(arm, plays=tuple(replace(play, measures={hostile: 1.0}) for play in arm.plays))
        for arm in comparison.arms
    )
    facts = {hostile: hostile, "list": [hostile, {hostile: hostile}], "deep": {"deeper": {hostile: [1, hostile]}}}
    comparison = replace(comparison, arms=arms, facts=facts, metric=Metric("m", hostile, hostile, True))
    heading = Heading(*(hostile,) * 3, "full", hostile, hostile, hostile, {hostile: hostile}, (hostile,))
    picture = Picture(hostile, hostile, b"png", hostile)
    page = html_page([comparison], [judge(comparison, "full")], heading, [picture])
    reader = Reader(page)
    assert reader.all("script") == []
    assert "<script" not in page
    assert reader.all("img")[0]["alt"].replace("\N{NO-BREAK SPACE}", " ") == hostile
    assert reader.text.count("alert(1)") > 20
    assert hostile in reader.text


def test_the_command_can_be_copied_as_it_is(heading):
    command = "unbroken validate --title '50 % & <more>'"
    page = page_of(sample_comparison(), replace(heading, command=command))
    assert "<pre>unbroken validate --title &#x27;50 % &amp; &lt;more&gt;&#x27;</pre>" in page


def test_without_facts_measures_units_or_clock(heading):
    comparison = sample_comparison()
    arms = tuple(
        Arm(a.name, tuple(replace(p, measures={}, seconds=None) for p in a.plays), a.training_seed)
        for a in comparison.arms
    )
    comparison = replace(comparison, arms=arms, facts=None, metric=Metric("return", "return", "", False))
    text = Reader(page_of(comparison, replace(heading, question="", notes=(), versions={}, machine=""))).text
    assert "more is better" in text
    assert "Further measures" not in text
    assert "simulated time" not in text
