"""C1: the page of figures is written from measurements."""

import pytest

from unbroken.traffic.verification import page


def test_a_section_has_its_numbers_and_its_figure(tmp_path):
    text = page.capacity_drop(tmp_path)
    assert "cars/h before a queue forms" in text
    assert "(capacity_drop.png)" in text
    assert (tmp_path / "capacity_drop.png").stat().st_size < 150_000


@pytest.mark.full
def test_the_page_has_every_figure_and_none_is_large(tmp_path):
    page.main([str(tmp_path)])
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    figures = sorted(tmp_path.glob("*.png"))
    assert len(figures) == 8
    for file in figures:
        assert f"({file.name})" in text
        assert file.stat().st_size < 150_000
