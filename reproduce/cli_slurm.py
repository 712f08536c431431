"""Commands for a Slurm cluster: submit, work, cancel, prepare."""

import math
import os
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path

import click

from . import experiments, pool, runner, slurm, state, submission
from .cli import (
    Several,
    chosen,
    duration,
    main,
    only_option,
    profile_option,
    seeds_option,
    set_option,
    track_option,
)  # fmt: skip
from .display import fraction_done
from .experiments import BadInput, Run
from .lock import Busy
from .provenance import slurm_ids
from .stopping import CAUSES, GRACE

__all__ = ["cancel", "carry_out", "prepare", "restarts", "submit", "work"]

TRIES = 2  # restarts in which a run may get no further, before it is not queued again
PASSED_ON = ("partition", "account", "qos", "constraint", "mem", "cpus-per-task")


def _minutes(ctx, param, text: str | None) -> int | None:
    if text is None:
        return None
    if clock := re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3}):(\d\d):(\d\d)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return (days * 24 + hours) * 60 + minutes + math.ceil(seconds / 60)
    if text[-1:].isdecimal():  # Slurm reads 30 as minutes, `run --limit` as seconds
        raise click.BadParameter(f"{text!r}: must be a time such as 30m, 8h, 2d or 1-12:00:00")
    return math.ceil(duration(ctx, param, text) / 60)


def _passed_on(*names: str):
    """Options that sbatch has under the same names."""

    def add(command):
        for name in reversed(names):
            command = click.option(f"--{name}", metavar="VALUE", help="As sbatch's.")(command)
        return command

    return add


@main.command(cls=Several)
@only_option
@profile_option
@seeds_option
@set_option
@click.option("--cap", type=click.IntRange(1), metavar="N", help="At most so many runs at a time.")
@click.option("--gres", default="gpu:1", show_default=True, help="For each run; none: no GPU.")
@click.option(
    "--time",
    "minutes",
    callback=_minutes,
    metavar="TIME",
    help="Limit of each job: 8h, 2-00:00:00.",
)
@click.option(
    "--warning",
    default=120,
    show_default=True,
    type=click.IntRange(10, 86_400),
    metavar="SECONDS",
    help="So long before the limit a run saves a checkpoint and queues again.",
)
@_passed_on(*PASSED_ON)
@click.option(
    "--sbatch", multiple=True, metavar="KEY=VALUE…", help="Any other option of sbatch: exclude=n7."
)
@track_option
@click.option("--dry-run", is_flag=True, help="Only print the commands and the batch script.")
def submit(
    only, profile, seeds, settings, cap, gres, minutes, warning, sbatch, track, dry_run, **more
):
    """Submit runs to Slurm: an array with a task for each run, which trains all its seeds.

    Finished runs, and those that run or wait already, are left out. A run that comes near its time
    limit or is preempted saves a checkpoint, queues again and goes on; one that fails leaves the
    others alone: submit again to have it tried again. Before runs that need all of MNIST comes
    `prepare` (where compute nodes have no network, run that by hand first), after all `collect`.

    Examples:

    \b
      python -m reproduce submit --profile full --time 8h --cap 4
      python -m reproduce submit --only task=25gmm --gres none --mem 2G --cpus-per-task 2
      python -m reproduce submit --partition a100 --account abc --sbatch exclude=n7 exclusive
      python -m reproduce submit --profile full --dry-run
    """
    wanted = {name: more[name.replace("-", "_")] for name in PASSED_ON}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    for pair in sbatch:
        name, equals, value = pair.partition("=")
        wanted[name] = value if equals else None
    options = submission.Options(
        None if gres == "none" else gres, minutes, cap, warning, settings=wanted
    )
    waiting = []
    # What waits already must not be submitted again because the queue was slow to say so.
    runs = chosen(only, profile, seeds, settings, track)
    for one in state.standings(runs, strict=not dry_run):
        if one.state in ("running", "queued"):
            click.echo(f"{one.run.name}: {one.state} already, {one.note}")
        elif reason := runner.why_not(one.run):
            click.echo(f"{one.run.name}: {reason}")
        else:
            waiting.append(one.run)
    if not waiting:
        click.echo("nothing to submit")
        return
    folder = submission.new_folder()
    planned = submission.jobs(waiting, options, folder)
    if dry_run:
        for job in planned:
            click.echo(shlex.join(job.words({})))
            for index, run in enumerate(job.runs):
                click.echo(f"  task {index}: {run.name} seeds {list(run.seeds)}")
        click.echo(f"\n{submission.SCRIPT.read_text()}", nl=False)
        return
    ids = submission.submit(planned, folder)
    for job in planned:
        count = f", {len(job.runs)} run{'s' * (len(job.runs) > 1)}" if job.runs else ""
        click.echo(f"Slurm job {ids[job.name]}: {job.name}{count}")
    click.echo(f"logs in {folder.relative_to(experiments.ROOT)}; see `status`, `cancel`")


@main.command(hidden=True)
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("index", type=click.IntRange(0), envvar="SLURM_ARRAY_TASK_ID")
@click.option("--grace", default=GRACE, help="Seconds that a checkpoint may take.")
def work(manifest: Path, index: int, grace: float) -> None:
    """Execute one run of a manifest: what a task of an array does."""
    runs = submission.read_manifest(manifest)
    if index >= len(runs):
        raise BadInput(f"index={index}: {manifest} has {len(runs)} runs")
    carry_out(runs[index], grace=grace)


def carry_out(run: Run, limit: float | None = None, grace: float = GRACE) -> None:
    """Execute a run as a batch job does: near its time limit it queues again, from its checkpoint.

    Raises:
        BadInput: for a run that is stale or whose folder a link leads out of, a wrong
            OMP_NUM_THREADS, or if Slurm does not answer.
        SystemExit: 1 if the run failed, was interrupted or gets no further from one restart to the
            next; 75 if another process works on it.
    """
    pool.threads()
    if (reason := runner.why_not(run)) and not runner.finished(run):
        raise BadInput(f"{run.name}: {reason}")
    before = fraction_done(run)
    try:
        ended = runner.execute(run, limit, grace)
    except Busy as error:
        click.echo(f"reproduce: {error}", err=True)
        raise SystemExit(os.EX_TEMPFAIL) from error
    cause = runner.record_of(run.folder).get("cause")
    click.echo(f"{run.name}: {ended}" + (f", {cause}" if cause else ""), err=True)
    if ended == "interrupted" and cause == CAUSES[signal.SIGUSR1]:
        times = restarts(os.environ)
        if times >= TRIES and fraction_done(run) <= before:
            click.echo(
                f"reproduce: {run.name}: not queued again, as restart {times} got no further: "
                "give it more --time",
                err=True,
            )
        elif slurm.requeue():
            return
    if ended != "done":
        raise SystemExit(1)


def restarts(environment: Mapping[str, str]) -> int:
    """How often Slurm has started this job again; 0 if it does not say so in digits."""
    text = (slurm_ids(environment) or {}).get("restarts", "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


@main.command(cls=Several)
@click.argument("ids", nargs=-1, metavar="[ID]…")
@only_option
def cancel(ids: tuple[str, ...], only: list[str]) -> None:
    """Cancel what `submit` put into Slurm's queue: all of it, or these jobs, or matching runs.

    Running ones save a checkpoint if Slurm gives them the time; `submit` goes on from there.

    Examples:

    \b
      python -m reproduce cancel
      python -m reproduce cancel 123 124_7
      python -m reproduce cancel --only method=TB+Expl
    """
    cancelled = slurm.cancel(ids, only)
    for line in cancelled:
        click.echo(f"cancelled {line}")
    if not cancelled:
        click.echo("nothing of it is in the queue")


@main.command()
def prepare() -> None:
    """Fetch MNIST, and train the autoencoder if its weights are not there (ten minutes).

    `submit` has this done before the runs that need it. Example: python -m reproduce prepare
    """
    from . import autoencoder

    try:
        autoencoder.prepare()
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    click.echo("MNIST and the autoencoder are here")
