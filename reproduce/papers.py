"""A run's notebook, executed by papermill in a kernel that ends with it."""

import functools
import logging
import os
import signal
import sys
import tempfile

# A grammar that jsonschema compiles in two seconds at every start, for a format of web addresses
# that no notebook has; without it, it goes on without that format.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import jupytext  # noqa: E402
import nbformat  # noqa: E402
import papermill  # noqa: E402
from jupyter_client import AsyncKernelManager  # noqa: E402

from .experiments import NOTEBOOKS, Run, parameters  # noqa: E402
from .stopping import Stop, end_with  # noqa: E402

__all__ = ["execute_notebook"]

# It warns of parameters written `int | None`, which its reader misses; ours were checked before.
logging.getLogger("papermill").setLevel(logging.ERROR)

START_TIMEOUT = 180  # a kernel that starts on a busy machine
CELL_TIMEOUT = 7 * 24 * 3600  # a cell may train for days; a hung kernel must still end one day
LESSON = "lesson"  # cells with this tag only teach: a batch run leaves them out
LAST_CELL = """\
from gfnlite.machine import machine

gl.write_json(f"{out_dir}/machine.json", machine())"""


def execute_notebook(run: Run, handle: int, stop: Stop) -> None:
    """Execute it into the run's folder; what was executed is kept after a failure too.

    Args:
        run: whose notebook, and whose parameters.
        handle: of the run's lock, which the kernel is to hold as well.
        stop: is told of the kernel.

    Raises:
        papermill.PapermillExecutionError: for an error in a cell.
        Stopped: if the run was told to stop between two cells.
    """
    output, temporary = run.folder / "notebook.ipynb", run.folder / ".notebook.ipynb"
    os.environ["GFNLITE_STATIC"] = "1"  # nobody moves a slider
    try:
        # Sockets in a folder of their own: ports of kernels that start together can collide.
        with tempfile.TemporaryDirectory(prefix="reproduce-") as sockets:
            papermill.execute_notebook(
                _notebook(run),
                str(temporary),
                parameters(run),
                kernel_name="python3",
                language="python",
                cwd=str(NOTEBOOKS),
                progress_bar=False,  # the training's own bar says more, and comes through stderr
                stderr_file=sys.stderr,
                start_timeout=START_TIMEOUT,
                execution_timeout=CELL_TIMEOUT,
                on_cell_start=stop.check,
                kernel_manager_class=_kernel_class(handle, stop, sockets),
                shutdown_kernel="immediate",  # all is written; a polite end prints an interrupt
            )
    finally:  # after a failure too: the executed cells show what went wrong
        stop.kernel = None
        if temporary.exists():
            os.replace(temporary, output)


def _notebook(run: Run) -> nbformat.NotebookNode:
    """The chapter without its lessons, and a last cell that says what it ran on."""
    notebook = jupytext.read(NOTEBOOKS / f"{run.notebook}.py")
    notebook.cells = [c for c in notebook.cells if LESSON not in c.metadata.get("tags", [])]
    notebook.cells.append(nbformat.v4.new_code_cell(LAST_CELL))
    return notebook


def _kernel_class(handle: int, stop: Stop, sockets: str) -> type[AsyncKernelManager]:
    class Kernel(AsyncKernelManager):
        """Has the run's lock as long as it lives, and can be interrupted from outside."""

        transport, ip = "ipc", f"{sockets}/kernel"
        connection_file = f"{sockets}/kernel.json"

        async def start_kernel(self, **options):
            stop.check()
            prepare = functools.partial(_prepare_kernel, os.getpid())
            await super().start_kernel(**options, pass_fds=(handle,), preexec_fn=prepare)
            stop.kernel = self.provisioner.pid

    return Kernel


def _prepare_kernel(runner: int) -> None:
    """What the kernel's process does before it is Python."""
    end_with(runner, signal.SIGKILL)
    # Slurm sends SIGTERM to every process of a job that it ends: a kernel that died of it could not
    # save its checkpoint when its runner interrupts it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
