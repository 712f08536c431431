"""Commands about results: collect, report, drift, bench, vae."""

import statistics

import click

from gfnlite.files import write_bytes

from . import autoencoder, experiments
from .bench import schedule
from .cli import Several, main, only_option


@main.command()
def collect() -> None:
    """Print the table of all finished runs on this machine, and keep it for the results page."""
    from . import report

    rows = _collected()
    report.write_local(rows)
    click.echo(report.text_table(rows) if rows else "no finished runs: start with `run`")


@main.command("report")
@click.option("--allow-dirty", is_flag=True, help="Also take runs made from uncommitted code.")
@click.option("--replace", is_flag=True, help="Also take runs with fewer seeds than committed.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "latex", "csv"]),
    help="Instead, print the tables that are committed, in this form.",
)
@click.option("--output", type=click.Path(dir_okay=False), help="Print them into a file.")
def write_report(allow_dirty: bool, replace: bool, form: str | None, output: str | None) -> None:
    """Merge this machine's finished runs into the committed reproduce/results/*.

    Each task gets a JSON and a CSV file and a forest plot, each cell a verdict against the paper's.
    A run of uncommitted code is left out, unless --allow-dirty, and one with fewer seeds than the
    committed one, unless --replace.

    \b
      python -m reproduce report
      python -m reproduce report --format latex --output tables.tex
    """
    from . import export, report

    if form:
        made = export.text(report.read_committed().values(), form)
        if output:
            write_bytes(output, made.encode())
        else:
            click.echo(made, nl=False)
        return
    if output:
        raise click.BadParameter("needs --format", param_hint="--output")
    notes: list[str] = []
    for path in report.write_committed(_collected(), notes, allow_dirty, replace):
        click.echo(f"wrote {path.relative_to(experiments.ROOT)}")
    for note in notes:
        click.echo(note, err=True)


@main.command("drift", cls=Several)
@only_option
@click.option("--output", type=click.Path(dir_okay=False), help="Also write the findings, as JSON.")
def check_drift(only: list[str], output: str | None) -> None:
    """Compare this machine's finished runs with the committed results of the same rows.

    Exit code 1: some metric differs by more than seeds do (level 1% over all that are compared).
    0: none does. 2: there is nothing to compare.

    \b
      python -m reproduce run --profile quick --only task=25gmm method=TB+Expl
      python -m reproduce drift --only task=25gmm
    """
    from . import drift

    said, code = drift.check(only, output)
    click.echo(said.rstrip("\n"))
    raise SystemExit(code)


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
@click.option("--epochs", default=autoencoder.EPOCHS, show_default=True, type=click.IntRange(1))
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
    from . import report

    notes: list[str] = []
    rows = report.collect(notes)
    for note in notes:
        click.echo(note, err=True)
    return rows
