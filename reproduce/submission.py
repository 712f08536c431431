"""What is submitted to Slurm: an array of runs, what must come before it, and what comes after."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import gfnlite as gl
from gfnlite.arguments import shown

from . import experiments
from .experiments import BadInput, Run
from .slurm import PATIENCE, run_of, slurm

__all__ = ["Job", "Options", "entry", "jobs", "new_folder", "read_manifest", "submit"]

SCRIPT = Path(__file__).parent / "slurm" / "job.sh"
USUAL_ARRAY_SIZE = 1001  # MaxArraySize of a cluster that does not set it
# What this module sets itself, by the long names of sbatch's options.
OWN = set(
    "array chdir dependency gres job-name kill-on-invalid-dep no-requeue open-mode output error "
    "parsable requeue signal test-only time wait wrap".split()
)  # fmt: skip

KINDS = {  # what stands in a manifest for each run
    "task": str, "method": str, "profile": str, "seeds": list, "notebook": str,
    "overrides": dict, "published": str, "track": str, "name": str,
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What Slurm is asked for.

    Attributes:
        gres: of each run, such as gpu:1; None: no GPU.
        minutes: time limit of each job; None: the partition's.
        cap: how many runs at a time; None: as many as there is room for.
        warning: seconds before the time limit at which a run saves a checkpoint.
        settings: further options of sbatch by their long names; None as a value: a flag.
    """

    gres: str | None = "gpu:1"
    minutes: int | None = None
    cap: int | None = None
    warning: int = 120
    settings: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self):
        for name in self.settings:
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise BadInput(f"--sbatch {name}: must be a long option of sbatch without its --")
            # sbatch takes any abbreviation that is unambiguous.
            if any(own.startswith(name) for own in OWN):
                raise BadInput(f"--sbatch {name}: is set by `submit` itself")
        # Slurm may send its signal a minute early: a job must get further than that.
        if self.minutes is not None and self.minutes * 60 <= self.warning + 60:
            raise BadInput(
                f"--time of {self.minutes} min: must be more than a minute longer than the "
                f"warning of {self.warning} s, or runs are stopped as soon as they begin"
            )


@dataclass(frozen=True)
class Job:
    """A job to be submitted.

    Attributes:
        name: prepare, array-0, array-1, … or collect.
        options: for sbatch.
        command: the words after `python -m reproduce`.
        after: (kind of dependency, name of the job that it waits for).
        runs: of an array, in the order of its tasks.
    """

    name: str
    options: tuple[str, ...]
    command: tuple[str, ...]
    after: tuple[tuple[str, str], ...] = ()
    runs: tuple[Run, ...] = ()

    def words(self, ids: Mapping[str, str]) -> list[str]:
        """The command line of sbatch: a list, so that no value of it is read by a shell."""
        waits = ",".join(f"{kind}:{ids.get(name, f'<{name}>')}" for kind, name in self.after)
        waiting = [f"--dependency={waits}", "--kill-on-invalid-dep=yes"] if waits else []
        return ["sbatch", "--parsable", *waiting, *self.options, str(SCRIPT), *self.command]


def jobs(runs: Sequence[Run], options: Options, folder: Path) -> list[Job]:
    """What `submit` submits: preparation if a run needs it, arrays, then the table of results."""
    common = [f"--chdir={experiments.ROOT}", "--open-mode=append", "--requeue"]
    if options.minutes is not None:
        common.append(f"--time={options.minutes}")
    # Flags last: one that wants a value takes the script for it, and sbatch complains.
    given = sorted(options.settings.items(), key=lambda item: item[1] is None)
    last_words = [f"--{name}" + (f"={value}" if value is not None else "") for name, value in given]

    def job(name: str, log: str, more: Sequence[str], command: Sequence[str], **rest) -> Job:
        own = [f"--job-name=gfnlite-{name}", f"--output={folder}/{log}.log"]
        return Job(name, (*own, *common, *more, *last_words), tuple(command), **rest)

    made: list[Job] = []
    if any(map(_needs_digits, runs)):
        made.append(job("prepare", "prepare-%j", [], ["prepare"]))
    warned = [f"--signal=B:USR1@{options.warning}"]
    on = [f"--gres={options.gres}"] if options.gres else []
    arrays: list[str] = []
    for number, some in enumerate(_arrays(runs)):
        name, after = f"array-{number}", []
        if _needs_digits(some[0]):
            after.append(("afterok", "prepare"))
        if options.cap and arrays:  # Slurm counts in each array: one after the other, then
            after.append(("afterany", arrays[-1]))
        tasks = f"--array=0-{len(some) - 1}" + (f"%{options.cap}" if options.cap else "")
        # Most of the warning is for the checkpoint, the rest for queueing again.
        grace = f"--grace={0.75 * options.warning:g}"
        command = ["work", grace, str(folder / f"{name}.json")]
        more = [tasks, *warned, *on]
        made.append(job(name, "%A_%a", more, command, after=tuple(after), runs=tuple(some)))
        arrays.append(name)
    last = tuple(("afterany", name) for name in arrays)
    return [*made, job("collect", "collect-%j", [], ["collect"], after=last)]


def submit(planned: Sequence[Job], folder: Path) -> dict[str, str]:
    """Write the arrays' manifests to `folder` and submit all jobs, or none; their ids by name.

    Whatever ends it on the way, what was submitted is cancelled; after a kill -9, submitted.json
    has the jobs that are in the queue, and those that are not as null.

    Raises:
        BadInput: for what sbatch does not accept, in its words.
    """
    ids: dict[str, str] = {}
    for job in planned:
        if job.runs:
            gl.write_json(folder / f"{job.name}.json", [entry(run) for run in job.runs])
    intent = dict.fromkeys(job.name for job in planned)
    gl.write_json(folder / "submitted.json", intent)
    try:
        for job in planned:
            ids[job.name] = slurm(*job.words(ids)).strip().split(";")[0]
            gl.write_json(folder / "submitted.json", intent | ids)
    except BaseException as error:  # a full disk or Ctrl-C as well: half of it would run unseen
        if ids:
            slurm("scancel", *ids.values())
        elif isinstance(error, BadInput):  # refused, so that nobody will read what was written
            shutil.rmtree(folder)
        raise
    return ids


def new_folder() -> Path:
    """Where manifests, job ids and logs of a submission are kept, named by the time."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    return experiments.RUNS / ".slurm" / stamp


def read_manifest(path: Path) -> list[Run]:
    """The runs of an array.

    Raises:
        BadInput: for a file that is not one, or a run that could not be executed as it was meant.
    """
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as a manifest ({error})") from error
    if not isinstance(entries, list):
        raise BadInput(f"{path}: must be a list of runs")
    runs = []
    for number, entry in enumerate(entries):
        where = f"{path.name} run {number}"
        if not isinstance(entry, dict) or set(entry) != set(KINDS):
            raise BadInput(f"{where}: must be a mapping with the keys {', '.join(KINDS)}")
        for name, kind in KINDS.items():
            if not isinstance(entry[name], kind):
                raise BadInput(f"{where}: {name}={shown(entry[name])} must be a {kind.__name__}")
        experiments.check_seeds(where, entry["profile"], entry["seeds"])
        run = run_of(entry)
        try:
            experiments.check(run)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from error
        if run.name != entry["name"]:
            raise BadInput(f"{where}: its settings have changed since it was submitted: do it anew")
        runs.append(run)
    return runs


def _needs_digits(run: Run) -> bool:
    """Whether it needs what `prepare` makes; smoke runs use images that come with a package."""
    return run.task.startswith("vae") and run.profile != "smoke"


def _arrays(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs in arrays: those that must wait for `prepare` apart, none longer than Slurm allows."""
    most = _max_array_size()
    for digits in (False, True):
        some = [run for run in runs if _needs_digits(run) == digits]
        for start in range(0, len(some), most):
            yield some[start : start + most]


def _max_array_size() -> int:
    try:
        config = slurm("scontrol", "show", "config", timeout=PATIENCE)
    except BadInput:  # a dry run away from the cluster
        return USUAL_ARRAY_SIZE
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", config)
    most = int(found[1]) if found else USUAL_ARRAY_SIZE
    if most == 0:
        raise BadInput("MaxArraySize=0: this cluster takes no job arrays, which `submit` needs")
    return most


def entry(run: Run) -> dict:
    """What a manifest says of a run."""
    return asdict(run) | {"name": run.name}
