"""Commands about runs on this machine: list, run, train, status, show, clean."""

import os
import time

import click

import gfnlite as gl

from . import cli_slurm, experiments, pool, runner, state
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
from .display import watching
from .provenance import slurm_ids


@main.command("list", cls=Several)
@only_option
def list_runs(only: list[str]) -> None:
    """Show every experiment and where its run stands.

    Example: python -m reproduce list --only task=25gmm
    """
    for profile in ("smoke", "quick", "full"):
        for run in experiments.select(experiments.load(profile), only):
            standing = state.standing(run)
            done = ",".join(map(str, standing.done)) if standing.done else ""
            seeds = ",".join(map(str, run.seeds))
            seeds = f"{done} of {seeds}" if standing.state == "partly done" else seeds
            words = f"{standing.state:<11} seeds {seeds}"
            click.echo(f"{run.task:<12} {run.method:<18} {profile:<6} {words}")


@main.command(cls=Several)
@only_option
@profile_option
@seeds_option
@set_option
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="Runs at a time; default: one for each GPU, or else for each core. More of them than "
    "there are GPUs share these.",
)
@click.option("--limit", callback=duration, metavar="TIME", help="For each run: 30m, 2h.")
@track_option
@click.option("--profile-step", is_flag=True, help="Only say where a training step's time goes.")
@click.option("--dry-run", is_flag=True, help="Check everything, and say what would run and cost.")
def run(
    only, profile, seeds, settings, jobs, limit, track, profile_step: bool, dry_run: bool
) -> None:
    """Run experiments; finished ones are skipped, interrupted ones go on where they stopped.

    Ctrl-C, SIGTERM and the time limit save a checkpoint first; after a kill -9 the last one, at
    most half a minute old, is gone on from. With --profile-step twenty steps of each run's training
    are profiled, from its start: where the time goes is printed, a trace is left in its folder.

    Examples:

    \b
      python -m reproduce run --profile quick
      python -m reproduce run --only method=TB+Expl --seeds 0 --set steps=50 lr=1e-3
      python -m reproduce run --profile full --only task=manywell32 --jobs 4 --limit 8h
      python -m reproduce run --profile full --dry-run
      python -m reproduce run --profile full --only task=25gmm --track tensorboard
      python -m reproduce run --only task=25gmm method=TB+Expl --profile-step
    """
    runs = chosen(only, profile, seeds, settings, track)
    if dry_run:
        _say_what_would_run(runs)
        return
    if profile_step:
        _say_where_time_goes(runs)
        return
    _execute(runs, jobs, limit)


def _say_where_time_goes(runs) -> None:
    from . import profiler

    for item in runs:
        if not isinstance(item.config, gl.Config):
            click.echo(f"{item.name}: trains nothing, so there is no step to profile")
            continue
        for line in profiler.profile_steps(item).lines():
            click.echo(line)


def _execute(runs, jobs: int | None, limit: float | None) -> None:
    """Run what is not done and say how it ends; exit code 1 unless all are done."""
    pool.threads()
    waiting = []
    for item in runs:
        if reason := runner.why_not(item):
            click.echo(f"{item.name}: {reason}")
        else:
            waiting.append(item)
    devices = pool.gpus()
    with watching(waiting) as watcher:
        jobs = jobs or len(devices) or pool.cores()
        ended = pool.run_all(waiting, jobs, devices, limit, watcher)
    left = [item for item in waiting if ended.get(item.name) != "done"]
    for item in left:
        if item.name in ended:
            click.echo(f"{ended[item.name]}: see {item.folder}", err=True)
    if left or not all(map(runner.finished, runs)):  # a stale one cannot be done
        raise SystemExit(1)


@main.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--from-environment", is_flag=True, help="Read ENERGY, T, BATCH_SIZE, EPOCHS, …")
@click.option(
    "--from-yaml", type=click.Path(dir_okay=False), help="Read a file with energy_type: …"
)
@click.option("--limit", callback=duration, metavar="TIME", help="As for `run`.")
@click.option("--dry-run", is_flag=True, help="Only say which run it is.")
@click.pass_context
def train(ctx, from_environment: bool, from_yaml: str | None, limit, dry_run: bool) -> None:
    """One run, by the names that users of the paper's code know: --energy, --T, --local_search, …

    Every flag is listed in the chapter on reproduction, with the setting that it is here.

    \b
      python -m reproduce train --energy many_well --T 50 --batch_size 512 --local_search
      python -m reproduce train --from-yaml manywell.yaml
      ENERGY=many_well T=50 EPOCHS=5000 python -m reproduce train --from-environment
    """
    from . import seed_names

    sources = [bool(ctx.args), from_environment, from_yaml is not None]
    if sum(sources) > 1:
        raise click.UsageError("give flags, --from-environment or --from-yaml: one of them")
    if from_environment:
        item = seed_names.from_environment(os.environ)
    elif from_yaml is not None:
        item = seed_names.from_yaml(from_yaml)
    else:
        item = seed_names.from_flags(ctx.args)
    changes = ", ".join(f"{k}={v}" for k, v in item.overrides.items()) or "none"
    click.echo(
        f"{item.task}, {item.method}, {item.profile}, seed {item.seeds[0]}; other: {changes}"
    )
    if dry_run:
        return
    if slurm_ids(os.environ):  # a job of its own, which Slurm warns, preempts and requeues
        cli_slurm.carry_out(item, limit)
    else:
        _execute([item], 1, limit)


def _say_what_would_run(runs) -> None:
    from . import cost

    total, unknown = 0.0, 0
    for number, item in enumerate(runs, 1):
        label = f"[{number}/{len(runs)}] {item.name} seeds {list(item.seeds)}"
        if reason := runner.why_not(item):
            click.echo(f"{label}: {reason}")
            continue
        estimate = cost.estimate(item)
        chosen = ", ".join(f"{name}={value}" for name, value in item.chosen.items())
        click.echo(f"{label}: {estimate}\n    {chosen or 'all settings at their defaults'}")
        total, unknown = total + (estimate.seconds or 0), unknown + (estimate.seconds is None)
    words = f"in all about {cost.human(total)} of training on one core or GPU"
    click.echo(words + (f", and {unknown} runs of unknown cost" if unknown else ""))


@main.command(cls=Several)
@only_option
@click.option("--profile", metavar="NAME", help="smoke, quick or full; default: all of them.")
@click.option("--all", "everything", is_flag=True, help="Also what has not been begun.")
@click.option("--watch", is_flag=True, help="Go on showing it, anew every two seconds.")
def status(only, profile, everything: bool, watch: bool) -> None:
    """Show how far the runs are: on this machine, and in Slurm's queue where there is one.

    Example: python -m reproduce status --profile full --watch
    """
    from rich.console import Console
    from rich.live import Live

    def table():
        profiles = [profile] if profile else ["smoke", "quick", "full"]
        runs = [run for name in profiles for run in chosen(only, name)]
        return state.table(state.standings(runs), everything)

    console = Console()
    if watch and console.is_terminal:
        with Live(table(), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(2)
                live.update(table(), refresh=True)
    elif console.is_terminal:
        console.print(table())
    else:
        for line in state.lines(table()):
            click.echo(line)


@main.command()
@click.argument("name")
@click.option("--open", "opened", is_flag=True, help="Its notebook, as a page in the browser.")
def show(name: str, opened: bool) -> None:
    """Show what matters of a run: settings, provenance, curves, metrics. NAME may be shortened.

    Example: python -m reproduce show 25gmm-TB+Expl-quick
    """
    from . import show as shown

    folder = shown.find(name)
    for line in shown.describe(folder):
        click.echo(line)
    if opened:
        click.launch(str(shown.page(folder)))


@main.command(cls=Several)
@click.option(
    "--what",
    multiple=True,
    type=click.Choice(["stale", "failed", "interrupted", "smoke"]),
    default=["stale", "failed"],
    show_default=True,
    help="Folders of which kind.",
)
@click.option("--yes", is_flag=True, help="Do it; otherwise it is only said.")
def clean(what: list[str], yes: bool) -> None:
    """Remove run folders that nobody needs; what runs or waits, here or in Slurm, stays.

    Stale are those made with settings that can no longer be made: a default has changed since, or
    their task or method is no more. A finished run that no experiment names is not stale.

    Example: python -m reproduce clean --what stale smoke --yes
    """
    folders = state.removable(set(what))
    for folder in folders:
        if not yes:
            click.echo(f"would remove {folder.name}")
        elif state.remove(folder, set(what)):
            click.echo(f"removed {folder.name}")
        else:
            click.echo(f"{folder.name} stays: somebody works in it by now")
    if not folders:
        click.echo("nothing to remove")
    elif not yes:
        click.echo("say --yes to do it")
