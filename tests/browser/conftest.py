"""JupyterLab as `lab.py` starts it, on copies of the lessons, and the system's Chromium looking at
it.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from live_lab import FLAGS, TOKEN, Course, Lesson, chromium, free_port, wait_for
from playwright.sync_api import Browser, sync_playwright

import lab


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
