"""JupyterLab as `lab.py` starts it, on copies of the lessons, the book as `lab.py book` builds it,
and the system's Chromium looking at them.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from live_lab import FLAGS, TOKEN, Course, Lesson, chromium, free_port, wait_for
from playwright.sync_api import Browser, Page, sync_playwright
from serving import served

import lab
from tools import book

#: Where Sphinx's parts put something into the console that is nothing to a reader, and why.
HARMLESS = re.compile(r"\[PST\]: Changed to")


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Iterator[Course]:  # long: one server for all lessons
    """JupyterLab, started by lab.lab itself with two things replaced: the folder, and the wait for
    its end.
    """
    chromium()
    root, started = tmp_path_factory.mktemp("course"), []
    (root / "notebooks").mkdir()
    shutil.copytree(lab.ROOT / ".jupyter" / "labconfig", root / ".jupyter" / "labconfig")
    with pytest.MonkeyPatch.context() as patch, (root / "server.log").open("w") as log:
        for name, value in (
            lab.REPRODUCIBLE
            | {
                "LESSON_DATASETS": "none",
                "JUPYTER_DATA_DIR": str(root / "data"),
                "JUPYTER_RUNTIME_DIR": str(root / "runtime"),
            }
        ).items():
            patch.setenv(name, value)
        patch.setattr(lab, "environment", lambda: sys.executable)
        patch.setattr(lab, "ROOT", root)
        patch.setattr(
            lab,
            "run",
            lambda command, env: (
                started.append(subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log))
                or 0
            ),
        )
        port = free_port()
        lab.lab(
            [
                "--no-browser",
                f"--port={port}",
                f"--IdentityProvider.token={TOKEN}",
                "--LabApp.expose_app_in_browser=True",
            ]
        )
    running = Course(root, port)
    try:
        wait_for(running, started[0])
        yield running
        running.stop_kernels()
    finally:
        started[0].terminate()
        started[0].wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def lesson(browser, course) -> Iterator[Lesson]:
    """A fresh profile; afterwards nothing may have been said in the console, and the kernels are
    stopped.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = Lesson(context.new_page())
    yield opened
    context.close()
    course.stop_kernels()
    assert not opened.complaints, "errors in the browser's console:\n" + "\n".join(
        opened.complaints
    )


@pytest.fixture(scope="session")
def site(testrun_uid) -> Iterator[str]:
    """The address of the book, built by the first process of a test run that wants it."""
    stamp = book.SITE.with_name("book-testrun")
    stamp.parent.mkdir(exist_ok=True)
    with FileLock(stamp.with_suffix(".lock")):
        if not stamp.exists() or stamp.read_text() != testrun_uid:
            assert book.build() == 0
            stamp.write_text(testrun_uid)
    with served(book.SITE) as address:
        yield address


@pytest.fixture
def page(browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture
def copy_of(site, tmp_path) -> Callable[[str], Path]:
    """copy_of(stem) copies one page of the book with its scripts, to be broken: the folder."""

    def copied(stem: str) -> Path:
        left_out = shutil.ignore_patterns("ort", "*.onnx", "*.ipynb", "*.png", "mathjax.js")
        shutil.copytree(book.SITE / "_static", tmp_path / "_static", ignore=left_out)
        (tmp_path / "notebooks").mkdir()
        shutil.copy(book.SITE / "notebooks" / f"{stem}.html", tmp_path / "notebooks")
        return tmp_path

    return copied


@pytest.fixture
def faults(page: Page, site: str) -> list[str]:
    """What went wrong while a page was read: requests to other hosts, errors, missing files."""
    return watched(page, site)


def watched(page: Page, site: str) -> list[str]:
    """A list that fills with what goes wrong on a page."""
    found = []
    page.on(
        "request",
        lambda r: None if r.url.startswith((site, "data:", "blob:")) else found.append(r.url),
    )
    page.on("response", lambda r: found.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on(
        "console",
        lambda m: found.append(m.text) if m.type == "error" and not HARMLESS.search(m.text) else 0,
    )
    return found
