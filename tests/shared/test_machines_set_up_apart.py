"""Two machines whose Pythons and packages lie at different places share what they compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from team import Place, Team

SUITE = """
    import pytest
    from counter import count
    from pytest_taskcache import cached
    from tool import twice

    @cached
    def value(n):
        count("function")
        return twice(n)

    @pytest.mark.cached
    def test_value():
        count("test")
        assert value(2) == 4
    """


def install(site: Path, script: str) -> None:
    """A distribution ``tool`` as pip installs it: the digest of its script depends on where."""
    info = site / "tool-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "tool.py").write_text("def twice(n):\n    return 2 * n\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tool\nVersion: 1.0\n")
    (info / "INSTALLER").write_text("pip\n")
    (info / "RECORD").write_text(
        f"../../../bin/tool,sha256={script},210\n"
        "__pycache__/tool.cpython-312.pyc,,\n"
        "tool-1.0.dist-info/INSTALLER,sha256=zuuue4knoyJ-UwPPXg8fezS7VCrXJQrAP7zeNuwvFQg,4\n"
        "tool-1.0.dist-info/METADATA,,\n"
        "tool-1.0.dist-info/RECORD,,\n"
        "tool.py,,\n"
    )


def test_virtual_environments_at_different_places(
    signing: Team, place_of: Callable[[str], Place], tmp_path: Path
) -> None:
    """The same packages in ``/home/me/.venv`` and ``/opt/venv``: RECORD differs in the digests of
    scripts, which name their interpreter, and nothing else does."""
    place = place_of("file")
    signing.files["test_suite.py"] = SUITE
    before = signing.environ.get("PYTHONPATH")
    for number, name in enumerate(("laptop", "ci")):
        site = tmp_path / name / "lib" / "python3" / "site-packages"
        install(site, f"{number}" * 43)
        path = f"{site}:{before}" if before else str(site)
        run = signing.checkout(name).run(f"--cache-storage={place.url}", PYTHONPATH=path)
        run.assert_outcomes(passed=1)
    assert signing.counted() == 2, run.shown
