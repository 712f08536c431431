"""`python -m reproduce`: list, run, collect, report, bench."""

import statistics
import sys
from dataclasses import asdict

import click

from . import autoencoder, experiments, report, runner
from .bench import schedule
from .experiments import BadInput


class Several(click.Command):
    """A command whose repeatable options take every word up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`--only a b` as click knows it: `--only a --only b`."""
        several = {name for param in self.params if param.multiple for name in param.opts}
        spread, option = [], None
        for word in args:
            if word.startswith("-"):
                option = word if word in several else None
                spread.append(word)
            else:
                # The first value follows its option; each further one needs it said again.
                spread += [option, word] if option and spread[-1] != option else [word]
        return super().parse_args(ctx, spread)


def _seeds(_ctx, _param, text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not all(part.isdigit() for part in text.split(",")):
        raise click.BadParameter(f"{text!r}: must be integers such as 0,1,2")
    return [int(part) for part in text.split(",")]


profile_option = click.option(
    "--profile", default="quick", show_default=True, help="smoke, quick or full (the paper's)."
)
only_option = click.option(
    "--only", multiple=True, metavar="KEY=VALUE…", help="Just these: task=25gmm method=TB+Expl."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the book's notebooks in batch, and make its tables from the runs."""


@main.command("list", cls=Several)
@only_option
def list_runs(only: list[str]) -> None:
    """Show every experiment and where its run stands.

    Example: python -m reproduce list --only task=25gmm
    """
    for profile in ("smoke", "quick", "full"):
        for run in experiments.select(experiments.load(profile), only):
            state, seeds = runner.status(run), ",".join(map(str, run.seeds))
            missing = runner.missing_seeds(run)
            done = ",".join(str(seed) for seed in run.seeds if seed not in missing)
            if missing and done:
                seeds = f"{done} of {seeds}"
                state = "partly done" if state == "done" else state
            elif missing and state == "done":  # by other seeds than these
                state = "missing"
            click.echo(f"{run.task:<10} {run.method:<18} {profile:<6} {state:<11} seeds {seeds}")


@main.command(cls=Several)
@only_option
@profile_option
@click.option("--seeds", callback=_seeds, help="Seeds to run, such as 0,1,2; default: the YAML's.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE…", help="Change settings.")
@click.option("--dry-run", is_flag=True, help="Check everything and say what would run.")
def run(only: list[str], profile: str, seeds, settings, dry_run: bool) -> None:
    """Run experiments; finished ones are skipped, interrupted ones go on where they stopped.

    Examples:

    \b
      python -m reproduce run --profile quick
      python -m reproduce run --only method=TB+Expl --seeds 0 --set steps=50 lr=1e-3
    """
    overrides = experiments.parse_settings(settings)
    runs = experiments.select(experiments.load(profile, seeds, overrides), only)
    failed = []
    for number, item in enumerate(runs, 1):
        label = f"[{number}/{len(runs)}] {item.name}"
        if dry_run:
            changed = {k: v for k, v in asdict(item.config).items() if v is not None}
            click.echo(f"{label} seeds {list(item.seeds)}: {changed}")
        elif runner.finished(item):
            click.echo(f"{label}: done already")
        else:
            click.echo(f"{label}: running seeds {list(item.seeds)}")
            state = runner.execute(item)
            click.echo(f"{label}: {state}")
            if state != "done":
                failed.append(item)
    for item in failed:
        click.echo(f"failed: see {item.folder / 'run.json'}", err=True)
    if failed:
        raise SystemExit(1)


@main.command()
def collect() -> None:
    """Print the table of all finished runs on this machine, and keep it for the results page."""
    rows = _collected()
    report.write_local(rows)
    click.echo(report.text_table(rows) if rows else "no finished runs: start with `run`")


@main.command("report")
@click.option("--allow-dirty", is_flag=True, help="Also take runs made from uncommitted code.")
@click.option("--replace", is_flag=True, help="Also take runs with fewer seeds than committed.")
def write_report(allow_dirty: bool, replace: bool) -> None:
    """Merge this machine's finished runs into the committed reproduce/results/*.json.

    A run with fewer seeds than the committed one is left out, unless --replace.
    """
    notes: list[str] = []
    for path in report.write_committed(_collected(), notes, allow_dirty, replace):
        click.echo(f"wrote {path.relative_to(experiments.ROOT)}")
    for note in notes:
        click.echo(note, err=True)


@main.command(cls=Several)
@click.option("--only", multiple=True, metavar="PART…", help=f"Of {', '.join(schedule.PARTS)}.")
@click.option("--threads", multiple=True, type=int, help="Default: 1, and 2 if there are 2 cores.")
@click.option("--repeats", type=click.IntRange(2, 10_000), help="Rounds of each comparison.")
@click.option("--quick", is_flag=True, help="Seconds in all: shows that it runs, and no more.")
def bench(only: list[str], threads: list[int], repeats: int | None, quick: bool) -> None:
    """Time gfnlite against the plain baseline, on a machine that does nothing else.

    Each part is written to reproduce/results/bench/ as soon as it is there, in place of what was
    measured with as many threads before; with --quick to results/local/bench/.

    \b
      steps    a training step of each kind, plain and ours
      vae      the same for the posterior of an autoencoder
      ideas    from the plain step to ours, one idea at a time
      scaling  steps, batch, dimension, width, samples in the buffer
      seeds    five seeds one by one, and as one program
      floor    a step against its matrix products and activations alone
      memory   by how much a training makes its process grow
      profile  which operations a step spends its time in
      dead_ends  ideas that did not pay
      quality  seconds until a sampler is good: the baseline gets 20 times our time, which takes
               most of an hour; killed, it goes on from where it was
      gpu      the steps again on a GPU, where there is one

    Examples:

    \b
      python -m reproduce bench
      python -m reproduce bench --only steps,ideas --threads 1 2
      python -m reproduce bench --quick
    """
    jobs = schedule.jobs(only, threads, repeats, quick)
    failed = [job for job in jobs if schedule.execute(job, quick) != 0]
    for part, count, _ in failed:
        click.echo(f"failed: {part} with {count} thread{'s' * (count > 1)}", err=True)
    if failed:
        raise SystemExit(1)


@main.command()
@click.option("--binary", is_flag=True, help="Pixels 0 or 1, drawn with the grey values.")
@click.option("--epochs", default=100, show_default=True, type=click.IntRange(1))
@click.option("--truth", is_flag=True, help="Only log p(x) of the evaluation images, anew.")
def vae(binary: bool, epochs: int, truth: bool) -> None:
    """Train the autoencoder that comes with gfnlite, and write its test ELBO.

    Needs all of MNIST, which it fetches, and about ten minutes. Killed, it goes on from the last
    epoch. With --truth no training: what is true of the evaluation images, for the grey one.
    """
    try:
        if truth:
            for name, found in autoencoder.truth()["sets"].items():
                click.echo(f"{name}: log p(x) {statistics.fmean(found['log_z']):.2f} on average")
            return
        entry = autoencoder.train(binary, epochs)
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"test ELBO {entry['test_elbo']:.2f} ± {entry['test_elbo_se']:.2f}")


def _collected() -> list[dict]:
    notes: list[str] = []
    rows = report.collect(notes)
    for note in notes:
        click.echo(note, err=True)
    return rows


def entry() -> None:
    """Run the command line; the user's mistakes are one line and exit code 2."""
    try:
        main(standalone_mode=False)
    except BadInput as error:
        click.echo(f"reproduce: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"reproduce: {error.format_message()}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("reproduce: interrupted; the same command goes on from here", err=True)
        sys.exit(130)


if __name__ == "__main__":
    entry()
