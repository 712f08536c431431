"""How often does the drift check cry wolf? `python -m reproduce.bench.false_alarms`.

200 trainings that differ in their seed alone, on 9GMM and so short that all of them take minutes,
make 20 pairs of five seeds and five others. Nothing has drifted: every alarm is a false one.
How far metrics are from normal, on which the check's level rests, no simulated numbers can tell.
Results go to results/bench/false_alarms.json.
"""

import json
import random
import tempfile
from pathlib import Path

import torch

import gfnlite as gl

from .. import drift
from ..report import summary

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench" / "false_alarms.json"
SETTINGS = {"steps": 20, "coarse_steps": None, "iterations": 500}
PAIRS, SEEDS, TEAM, SHUFFLES = 20, 5, 25, 100


def trained(seeds: range, settings: dict, team: int = TEAM) -> list[dict]:
    """The metrics.json of each seed, trained `team` at a time."""
    config, kept = gl.preset("9gmm", "TB+Expl", "quick", settings), []
    with tempfile.TemporaryDirectory() as folder:
        for first in seeds[::team]:
            some = [seed for seed in seeds if first <= seed < first + team]
            for sampler in gl.Ensemble(gl.gmm9, config=config, seeds=some).fit(progress=False):
                own = Path(folder) / f"seed-{sampler.seed}"
                own.mkdir()
                gl.record(sampler, own, 4000, 500)
                kept.append(json.loads((own / "metrics.json").read_text()))
            print(f"{len(kept)} of {len(seeds)} seeds", flush=True)
    return kept


def alarms(metrics: list[dict], seeds: int = SEEDS) -> tuple[int, int]:
    """How many pairs of sets of seeds there are, one after another, and how many drift."""
    rows = []
    for first in range(0, len(metrics) - seeds + 1, seeds):
        some = metrics[first : first + seeds]
        found = {name: summary([seed[name] for seed in some]) for name in drift.METRICS}
        key = {"task": "9gmm", "method": "TB+Expl", "profile": "quick"}
        rows.append(key | {"seeds": [seed["seed"] for seed in some], "metrics": found})
    pairs = list(zip(rows[::2], rows[1::2], strict=False))
    found = [drift.drift([fresh], {"9gmm": {"rows": [old]}}) for old, fresh in pairs]
    return len(pairs), sum(any(f.verdict == drift.DRIFT for f in pair) for pair in found)


def run(n: int = 2 * PAIRS * SEEDS, path: Path = RESULTS, **settings) -> dict:
    """Train, count the alarms of the pairs, and of pairs of the same seeds drawn again."""
    metrics = trained(range(n), SETTINGS | settings)
    pairs, false = alarms(metrics)
    rng, again = random.Random(0), []
    for _ in range(SHUFFLES):
        rng.shuffle(metrics)
        again.append(alarms(metrics))
    result = {
        "torch": torch.__version__,
        "settings": SETTINGS | settings,
        "level": drift.LEVEL,
        "metrics": len(drift.METRICS),
        "pairs": pairs,
        "false_alarms": false,
        # not independent of each other, but their rate is estimated without bias
        "shuffled_pairs": sum(n for n, _ in again),
        "shuffled_false_alarms": sum(k for _, k in again),
    }
    gl.write_json(path, result)
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(run())
