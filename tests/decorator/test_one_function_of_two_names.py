"""A function is the same however its file came to run: imported, as a script, through a link."""

from __future__ import annotations

import subprocess
import sys

import pytest

JOB = """\
import sys

from pytest_taskcache import TASK_SOURCE, Cache, cached


class Base:
    @cached(policy=TASK_SOURCE)
    def method(self):
        print("ran method")


class Box(Base):
    pass


@cached(policy=TASK_SOURCE)
def function():
    print("ran function")


@cached
def of(box):
    print("ran of")


def work(root):
    with Cache(root + "/cache", root=root):
        function(), Box().method(), of(Box())


if __name__ == "__main__":
    work(sys.argv[1])
"""

WORK = "import jobs.job; jobs.job.work(sys.argv[1])"
IMPORTED = f"import sys; sys.path.insert(0, sys.argv[1]); {WORK}"


@pytest.fixture
def project(tmp_path):
    """A project, and a link to it."""
    root = tmp_path / "project"
    (root / "jobs").mkdir(parents=True)
    (root / "jobs" / "__init__.py").touch()
    (root / "jobs" / "job.py").write_text(JOB)
    (tmp_path / "link").symlink_to(root)
    return root


def run(*args, cwd):
    command = [sys.executable, *map(str, args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_it_is_computed_once(project):
    """To TASK_SOURCE, and as the code of an argument."""
    link = project.parent / "link"
    assert len(run("-c", IMPORTED, project, cwd=project)) == 3
    for args, cwd in (
        (("jobs/job.py", project), project),
        (("-m", "jobs.job", project), project),
        (("-c", IMPORTED, link), link),
        ((link / "jobs" / "job.py", project), "/"),
        ((project / "jobs" / "job.py", link), "/"),
    ):
        assert run(*args, cwd=cwd) == [], args


def test_another_body_is_another_function(project):
    """Whatever it is called."""
    run("jobs/job.py", project, cwd=project)
    text = JOB.replace('print("ran function")', 'print("ran", "function")')
    (project / "jobs" / "job.py").write_text(text)
    assert "ran function" in run("-m", "jobs.job", project, cwd=project)
