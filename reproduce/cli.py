"""What all commands share: the group, options that take several words, errors of one line."""

import dataclasses
import gc
import sys

import click

import gfnlite as gl

from . import experiments
from .experiments import BadInput
from .reading import printable

__all__ = [
    "Several", "chosen", "duration", "entry", "main", "only_option", "profile_option",
    "seeds_option", "set_option", "track_option",
]  # fmt: skip


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the book's notebooks in batch, on this machine or on a cluster, and make its tables.

    \b
    Start with:  python -m reproduce run --profile smoke --only task=25gmm
    then:        python -m reproduce status,  collect,  report
    """


def _seeds(_ctx, _param, text: str | None) -> list[int] | None:
    if text is None:
        return None
    if not all(part.isdecimal() and part.isascii() for part in text.split(",")):
        raise click.BadParameter(f"{text!r}: must be integers such as 0,1,2")
    return [int(part) for part in text.split(",")]


LONGEST = 2000  # characters of a mistake
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration(_ctx, _param, text: str | None) -> float | None:
    """`90`, `90s`, `15m`, `2h` or `1d` in seconds."""
    if text is None:
        return None
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 366 * UNITS["d"]:
        raise click.BadParameter(f"{text!r}: must be a time such as 90s, 15m, 2h or 1d")
    return seconds


profile_option = click.option(
    "--profile",
    default="quick",
    show_default=True,
    metavar="NAME",
    help="smoke, quick or full (the paper's).",
)
only_option = click.option(
    "--only", multiple=True, metavar="KEY=VALUE…", help="Just these: task=25gmm method=TB+Expl."
)
seeds_option = click.option(
    "--seeds",
    callback=_seeds,
    metavar="N,N,…",
    help="Seeds to run, such as 0,1,2; default: those in the YAML.",
)
set_option = click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE…", help="Change settings: steps=50."
)
track_option = click.option(
    "--track",
    type=click.Choice(list(gl.callbacks.NAMES)),
    help="Also log the trainings there; off by default. Files are in the run's folder.",
)


def chosen(only, profile, seeds=None, settings=(), track=None) -> list[experiments.Run]:
    """The runs that a command's options name.

    Raises:
        BadInput: for a name, a type or a range that is not allowed, or a tracker that is not here.
    """
    overrides = experiments.parse_settings(settings)
    runs = experiments.load(profile, seeds, overrides, only)
    if track:  # those that train nothing, such as SMC, have nothing to log
        trains = [run for run in runs if "track" in experiments.notebook_parameters(run.notebook)]
        for run in trains:
            experiments.check(dataclasses.replace(run, track=track))
        runs = [dataclasses.replace(run, track=track if run in trains else "") for run in runs]
    return runs


def entry() -> None:
    """Run the command line; the user's mistakes are one line and exit code 2."""
    gc.freeze()  # what was imported stays: no collection among many runs has to look at it
    try:
        main(standalone_mode=False)
    except BadInput as error:
        _say(str(error))
        sys.exit(2)
    except click.ClickException as error:
        _say(error.format_message())
        sys.exit(2)
    except OSError as error:  # a full or read-only disk: what is there stays as it was
        _say(f"{error.strerror or error}: {error.filename or 'no file'}")
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted; the same command goes on from here")
        sys.exit(130)


def _say(text: str) -> None:
    text = printable(text)  # whatever was typed is in it
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    click.echo(f"reproduce: {text}", err=True)
