from pathlib import Path


def test_has_a_page_for_each_module(outline: Path) -> None:
    assert (outline / "json" / "decoder.md").is_file()
    assert len(list(outline.rglob("*.md"))) > 500


def test_indexes_each_package(outline: Path) -> None:
    assert "decoder" in (outline / "json" / "INDEX").read_text(encoding="utf-8").splitlines()
