"""What the browser tests hold in their hands: the course's server, a lesson in the browser, its
sliders and boxes.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import nbformat.sign
import pytest
from playwright.sync_api import Locator, Page

import lab

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "browser-test"
#: Seconds between two frames of the screen.
FRAME = 1 / 60

# Errors in the browser's console that are nothing to a learner, each with its reason.
HARMLESS: dict[str, str] = {}

CELL = """(id) => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const index = notebook.widgets.findIndex((cell) => cell.model.id === id);
    if (index < 0) throw new Error(`no cell ${id}`);
    notebook.activeCellIndex = index;
    return notebook.scrollToItem(index, 'start').then(() => {
        notebook.widgets[index].node.dataset.cell = id;
    });
}"""
STATE = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    if (!panel?.context?.isReady || !panel.sessionContext?.session?.kernel) return null;
    const models = panel.content.widgets.map((cell) => cell.model);
    const cells = models.filter((model) => model.type === 'code');
    const error = (cell) => cell.outputs.toJSON().find((one) => one.output_type === 'error');
    const failed = cells.map((cell) => [cell.id, error(cell)]).filter((one) => one[1]);
    return { idle: panel.sessionContext.session.kernel.status === 'idle',
             waiting: cells.filter((cell) => !cell.executionCount).map((cell) => cell.id),
             failed: failed.map(([id, e]) => `${id}: ${e.ename}: ${e.evalue}`) };
}"""

# From an input event to the frame after the first change it causes inside `node`; one time for each
# event.
STOPWATCH = """(node, [kind]) => {
    let began = null;
    const start = (event) => { began = event.timeStamp; };
    const observer = new MutationObserver(() => {
        if (began === null) return;
        const from = began;
        began = null;
        const stop = () => window.stopwatch.times.push(performance.now() - from);
        requestAnimationFrame(() => setTimeout(stop));
    });
    document.addEventListener(kind, start, true);
    observer.observe(node, { childList: true, subtree: true, characterData: true });
    window.stopwatch = { times: [], stop() {
        document.removeEventListener(kind, start, true);
        observer.disconnect();
        return this.times;
    } };
}"""


def chromium() -> str:
    """Path of the system's Chromium; the tests are skipped, and say so, where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip(
        f"no browser to test with: none of {', '.join(BROWSERS)} is installed"
    )


def published(number: str) -> Path:
    """The lesson as `lab.py test` names it (somebody's own edits stay out), else as it lies in
    notebooks/.
    """
    named = [
        Path(name) for name in os.environ.get("LESSON_NOTEBOOKS", "").split(os.pathsep) if name
    ]
    return next(path for path in named or lab.lessons() if path.name.startswith(f"{number}_"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Course:
    """A running JupyterLab over an empty copy of the course's folder; lessons are copied into it
    one by one.
    """

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.url = root, f"http://127.0.0.1:{port}"

    def lesson(self, number: str, keep: set[str] | None = None) -> str:
        """Copies a lesson, or only its cells `keep`, and signs it as lab.py would; its address."""
        source = published(number)
        notebook = nbformat.read(source, 4)
        notebook.cells = [cell for cell in notebook.cells if keep is None or cell.id in keep]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.execution_count = None  # so that it is seen which have run
        path = self.root / "notebooks" / source.name
        nbformat.write(notebook, path)
        notary = nbformat.sign.NotebookNotary(data_dir=str(self.root / "data"))
        notary.sign(notebook)
        notary.store.close()  # from Python 3.13 on a database left open is a warning
        # reset: no tabs of the lesson before
        return f"{self.url}/lab/tree/notebooks/{path.name}?reset&token={TOKEN}"

    def stop_kernels(self) -> None:
        for kernel in json.load(self._ask("kernels")):
            self._ask(f"kernels/{kernel['id']}", "DELETE").close()

    def _ask(self, what: str, method: str = "GET"):
        request = urllib.request.Request(
            f"{self.url}/api/{what}", method=method, headers={"Authorization": f"token {TOKEN}"}
        )
        return urllib.request.urlopen(request, timeout=10)


def wait_for(running: Course, server: subprocess.Popen, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            return running._ask("status").close()
        except OSError:
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(
                    "JupyterLab did not start:\n"
                    + (running.root / "server.log").read_text()[-3000:]
                )
            time.sleep(0.2)


class Lesson:
    """One lesson open in the browser.

    `complaints` fills with the console's errors and what the page threw.
    """

    def __init__(self, page: Page) -> None:
        self.page, self.complaints = page, []
        page.set_default_timeout(180_000)  # a machine that does ten things at once is no failure
        page.on("console", lambda message: message.type == "error" and self._complain(message.text))
        page.on("pageerror", lambda error: self._complain(str(error)))

    def _complain(self, words: str) -> None:
        if not any(known in words for known in HARMLESS):
            self.complaints.append(words)

    def open(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_function(f"({STATE})() !== null", timeout=180_000)
        self.page.get_by_text("Loading", exact=True).wait_for(state="hidden")

    def run_all(self, seconds: float = 180) -> None:
        """Run > Run All Cells from the menu, then the end of it; AssertionError names cells with an
        error.
        """
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(
            f"""() => {{ const state = ({STATE})();
            return state && (state.failed.length || state.idle && !state.waiting.length); }}""",
            timeout=seconds * 1000,
        )
        failed = self.page.evaluate(STATE)["failed"]
        assert not failed, f"cells that stopped with an error: {failed}"

    def cell(self, id: str) -> Locator:
        """The cell with this id, scrolled into view."""
        self.page.evaluate(CELL, id)
        return self.page.locator(f'[data-cell="{id}"]')

    def slider(self, id: str, name: str) -> "Slider":
        """The slider with this description in the output of a cell, and the drawing under it."""
        return Slider(self.cell(id).locator(".jp-OutputArea-output"), name)

    def playground(self, id: str) -> "Playground":
        """The picture with boxes to move in the output of a cell."""
        return Playground(self.cell(id).locator(".box-playground"))


class Slider:
    """One slider of a SliderFigure."""

    def __init__(self, output: Locator, name: str) -> None:
        row = output.locator(".widget-slider").filter(has_text=name)
        self.handle, self.readout = row.locator(".noUi-handle"), row.locator(".widget-readout")
        self.page, self.figure = output.page, output.locator(".widget-html-content")
        self.figure.locator("svg").first.wait_for()

    def press(self, key: str, times: int = 1) -> None:
        """Moves the slider by the keyboard, and waits for the drawing after each step."""
        for _ in range(times):
            before = self.drawing()
            self.handle.press(key)
            self.page.wait_for_function(
                "([node, before]) => node.innerHTML !== before",
                arg=[self.figure.element_handle(), before],
                timeout=30_000,
            )
            alert = self.figure.locator("[role=alert]")
            assert not alert.count(), f"in place of the drawing: {alert.inner_text()}"

    def value(self) -> float:
        return float(self.readout.inner_text())

    def drawing(self) -> str:
        return self.figure.inner_html()

    def words(self) -> str:
        """What is written in the drawing, in one line."""
        return " ".join(self.figure.locator("text").all_text_contents())

    def pixels(self) -> bytes:
        return self.figure.screenshot()

    def milliseconds(self, moves: int) -> list[float]:
        """Times from a key on the slider to the changed drawing on the screen."""
        self.figure.evaluate(STOPWATCH, ["keydown"])
        for i in range(moves):
            self.handle.press("ArrowRight" if i % 2 else "ArrowLeft")
            self.page.wait_for_function(f"window.stopwatch.times.length > {i}", timeout=30_000)
        return self.page.evaluate("window.stopwatch.stop()")


class Playground:
    """A BoxPlayground in the page; coordinates are the picture's pixels."""

    def __init__(self, root: Locator) -> None:
        root.locator("[data-box]").first.wait_for()
        self.page, self.root = root.page, root

    def boxes(self) -> list[list[float]]:
        return json.loads(self.root.get_attribute("data-boxes"))

    def readout(self) -> str:
        return self.root.locator("output").inner_text()

    def pixels(self) -> bytes:
        return self.root.locator("svg").first.screenshot()

    def drag(self, box: int, dx: float, dy: float, steps: int = 8) -> None:
        """Takes a box at its middle with the mouse, moves it and lets go."""
        x1, y1, x2, y2 = self.boxes()[box]
        (x, y), (to_x, to_y) = (
            self.on_screen((x1 + x2) / 2 + d, (y1 + y2) / 2 + e) for d, e in ((0, 0), (dx, dy))
        )
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(to_x, to_y, steps=steps)
        self.page.mouse.up()
        self._answered()

    def press(self, box: int, *keys: str) -> None:
        for key in keys:
            self.root.locator(f'[data-box="{box}"]').press(key)
        self._answered()

    def milliseconds(self, box: int, moves: int) -> list[float]:
        """Times from the mouse's move to the new sentence on the screen, one drag of many small
        moves. They come at any moment of a frame, as those of a hand do.
        """
        moments = random.Random(0)
        x1, y1, x2, y2 = self.boxes()[box]
        x, y = self.on_screen((x1 + x2) / 2, (y1 + y2) / 2)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.root.locator("output").evaluate(STOPWATCH, ["pointermove"])
        for i in range(moves):
            time.sleep(moments.uniform(0, FRAME))
            self.page.mouse.move(x + 5 * (1 - i % 2), y)
            self.page.wait_for_function(f"window.stopwatch.times.length > {i}", timeout=30_000)
        self.page.mouse.up()
        return self.page.evaluate("window.stopwatch.stop()")

    def on_screen(self, x: float, y: float) -> tuple[float, float]:
        self.root.scroll_into_view_if_needed()
        return tuple(
            self.root.locator("svg").first.evaluate(
                """(svg, [x, y]) => {
            const at = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());
            return [at.x, at.y];
        }""",
                [x, y],
            )
        )

    def _answered(self) -> None:
        """Waits until Python has answered the newest position:
        nothing changes any more for 0.3 s.
        """
        self.page.wait_for_function(
            """(root) => new Promise((done) => {
            const seen = root.dataset.seq;
            setTimeout(() => done(root.dataset.seq === seen), 300);
        })""",
            arg=self.root.element_handle(),
            timeout=30_000,
        )
