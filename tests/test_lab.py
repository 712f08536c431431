"""The playground in JupyterLab, in a real browser: sliders draw, and the button trains."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from browsing import ROOT


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# No question about news; and cells that are not in view stay in the page.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@contextlib.contextmanager
def lab(folder):
    """JupyterLab on a folder, with settings and kernels' files of its own; its address."""
    port = free_port()
    environment = os.environ | {"GFNLITE_PROFILE": "smoke", "PYTHONPATH": str(ROOT)}
    environment.pop("GFNLITE_STATIC", None)
    for name in ("CONFIG", "DATA", "RUNTIME"):
        environment[f"JUPYTER_{name}_DIR"] = str(folder / name.lower())
    for name, values in SETTINGS.items():
        path = folder / "config/lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    environment["IPYTHONDIR"] = str(folder / "ipython")
    command = [str(Path(sys.executable).parent / "jupyter"), "lab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.expose_app_in_browser=True"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        for _ in range(600):
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()  # and its kernels
        server.wait(30)


# The sign of an idle kernel is there before the kernel is.
READY = """async () => {
    const context = jupyterapp.shell.currentWidget.sessionContext;
    await context.ready;
    await context.session.kernel.info;
}"""


PICTURE = ".widget-vbox .widget-html img"
IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
DEAD = """
import ipywidgets
ipywidgets.VBox([
    ipywidgets.SelectionSlider(options=[1, 2]),
    ipywidgets.Button(description="Start"),
    ipywidgets.HTML("<img alt='a' width='2000' src='data:image/gif;base64,"
                    "R0lGODlhAQABAAAAACwAAAAAAQABAAA='>"),
])
"""


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """Opens a notebook in JupyterLab, runs all its cells, and gives the page and its errors."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "notebooks" / "17_playground.ipynb", folder)
    dead = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(DEAD)])
    dead.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(dead, folder / "dead.ipynb")

    def run(name):
        page, wrong = browser.new_page(viewport={"width": 1300, "height": 1000}), []
        page.set_default_timeout(300_000)  # a busy machine
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(
            f"{address}/lab/workspaces/{name}/tree/{name}.ipynb", wait_until="domcontentloaded"
        )
        page.wait_for_selector(IDLE, state="attached")
        page.evaluate(READY)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_selector(PICTURE)
        return page, wrong

    with lab(folder) as address:
        yield run


class Box:
    """One of the page's boxes of sliders, a button and a picture."""

    def __init__(self, page, number=0):
        self.box = page.locator(".widget-vbox").nth(number)
        self.box.locator("img").wait_for()
        self.now = self.shown()

    def shown(self):
        return self.box.locator("img").get_attribute("src")

    def move(self, slider=0):
        handle = self.box.locator(".noUi-handle").nth(slider)
        handle.focus()
        handle.press("ArrowRight")

    def changes(self, seconds=60):
        """Whether the picture becomes another within that time."""
        end = time.monotonic() + seconds
        while (new := self.shown()) == self.now and time.monotonic() < end:
            time.sleep(0.1)
        old, self.now = self.now, new
        return old != new

    def fits(self):
        """Whether the picture is within its cell's output."""
        return self.box.locator("img").evaluate(
            """image => image.getBoundingClientRect().right
                <= image.closest('.jp-OutputArea-output').getBoundingClientRect().right + 1"""
        )

    def says(self):
        return self.box.locator("img").get_attribute("alt")


def test_the_playground_plays_in_jupyterlab(opened):
    page, wrong = opened("17_playground")
    training = Box(page)
    assert training.says().startswith("Iteration 0:") and training.fits()
    training.box.locator("button").click()
    assert training.changes() and training.says().startswith("Iteration 5:")
    assert training.changes() and training.says().startswith("Iteration 10:")  # by itself
    training.move()
    assert training.changes() and training.says().startswith("Iteration 0:")
    assert training.box.locator(".widget-readout").first.inner_text() == "0.0"
    drawing = Box(page, 1)
    drawing.move()
    assert drawing.changes()  # one well for five
    assert page.locator(".widget-vbox").count() == 3 and wrong == []
    if shot := os.environ.get("GFNLITE_SHOT"):
        training.box.scroll_into_view_if_needed()
        page.screenshot(path=shot)
    page.close()


def test_boxes_that_do_nothing_would_be_found(opened):
    page, wrong = opened("dead")
    box = Box(page)
    assert not box.fits()
    box.box.locator("button").click()
    box.move()
    assert not box.changes(seconds=1) and wrong == []
    page.close()
