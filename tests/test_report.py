"""What is told of the runs: collected, judged, exported, drawn, and checked for drift."""

import csv
import io
import json
import math
import random
import re
import shutil
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scipy.stats import binom, ttest_ind_from_stats

import gfnlite as gl
from gfnlite.forest import interval
from reproduce import drift, experiments, export, forest, reasons, report, table, verdict
from reproduce.bench import false_alarms

ROOT = Path(__file__).parent.parent
NAMES = (
    "elbo eubo log_z_is log_z_learned ess w2 w2_floor delta_log_z delta_log_z_rw seconds".split()
)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A repository with results and runs of its own, and the real experiments."""
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(experiments, "RUNS", tmp_path / "reproduce/runs")
    monkeypatch.setattr(report, "FOLDER", tmp_path / "reproduce/results")
    monkeypatch.setattr(report, "_planned", set)
    return tmp_path


def runs(profile="quick", **kwargs):
    """The first two rows of the mixture that are run."""
    found = []
    for method in ("TB", "TB+Expl"):
        found += experiments.load(profile, only=["task=25gmm", f"method={method}"], **kwargs)
    return found


def finish(run, shift=0.0, commit="0123abc", device="cpu", **changes):
    """The folder that a finished run leaves, its metrics 1 for seed 0, 2 for seed 1, ..."""
    about = {name: getattr(run, name) for name in "task method profile notebook overrides".split()}
    gl.write_json(run.folder / "config.json", about | {"config": asdict(run.config)})
    commits = {str(seed): [commit] for seed in run.seeds}
    record = {"status": "done", "commits": commits, "device": device}
    gl.write_json(run.folder / "run.json", record)
    for seed in run.seeds:
        metrics = {name: 1.0 + seed + shift for name in NAMES}
        metrics |= {"modes": 20 + seed, "n_modes": 25, "energy_calls": 10, "true_log_z": 0.0}
        gl.write_json(run.folder / f"seed-{seed}" / "metrics.json", metrics | changes)
    (run.folder / "samples.png").write_bytes(b"picture")
    return run


def done_runs(profile="quick", **kwargs):
    return [finish(run) for run in runs(profile, **kwargs)]


def commanded(*words):
    """What a command prints, in this process."""
    from click.testing import CliRunner

    from reproduce.__main__ import main

    return CliRunner().invoke(main, words, catch_exceptions=False).output


def cell(mean, std=0.1, n=5):
    """A summary that has this mean and this standard deviation."""
    values = [mean] * n
    if std:
        half = std * math.sqrt((n - 1) / 2)
        values[:2] = [mean - half, mean + half]
    spread = statistics.stdev(values) if n > 1 else None
    return {"mean": statistics.fmean(values), "std": spread, "values": values}


def measured(method="TB", profile="full", n=5, **metrics):
    """A row as `collect` makes them."""
    if metrics.get("delta_log_z_rw"):
        metrics["paper_log_z_is"] = cell(-metrics["delta_log_z_rw"]["mean"])
    return {
        "task": "25gmm", "true_log_z": 0.0, "method": method, "changed": False, "profile": profile,
        "seeds": list(range(n)), "metrics": metrics, "runs": [f"25gmm-{method}-{profile}"],
        "commit": "0123abc", "device": "cpu",
    }  # fmt: skip


# ---------------------------------------------------------------- collect


def test_collect_summarises_finished_runs_only(house):
    first, _ = done_runs(seeds=[0, 1])
    record = first.folder / "run.json"
    gl.write_json(record, json.loads(record.read_text()) | {"status": "interrupted"})
    notes = []
    rows = report.collect(notes)
    assert [row["method"] for row in rows] == ["TB+Expl"]
    assert rows[0]["metrics"]["elbo"] == {"mean": 1.5, "std": 0.5**0.5, "values": [1.0, 2.0]}
    assert "paper_elbo" not in rows[0]["metrics"]
    assert len(notes) == 1 and "its status is interrupted" in notes[0]
    assert "20.5 of 25" in report.text_table(rows)


@pytest.mark.parametrize("damage", ["", "{", '{"elbo": 1}', "[1]"])
def test_collect_leaves_out_what_it_cannot_read_and_says_so(house, damage):
    first, _ = done_runs()
    (first.folder / "seed-1/metrics.json").write_text(damage)
    notes = []
    assert [row["method"] for row in report.collect(notes)] == ["TB+Expl"]
    assert len(notes) == 1 and "left out, cannot be read" in notes[0]


def test_collect_leaves_out_runs_of_other_settings(house, monkeypatch):
    done_runs()
    changed = dict(gl.PROFILES["quick"], iterations=77)
    # As another version of the tables would make it, not as this process has made it already.
    monkeypatch.setattr("gfnlite.presets._cell", gl.presets._cell.__wrapped__)
    monkeypatch.setitem(gl.PROFILES, "quick", changed)
    notes = []
    assert report.collect(notes) == []
    assert all("settings that have changed since" in note for note in notes) and len(notes) == 2


def test_code_without_a_history_is_unknown_and_not_reported(house):
    _, second = done_runs()
    record = second.folder / "run.json"
    about = json.loads(record.read_text())
    del about["commits"]
    gl.write_json(record, about)
    commits = {row["method"]: row["commit"] for row in report.collect([])}
    assert commits == {"TB": "0123abc", "TB+Expl": "unknown"}
    notes = []
    report.write_committed(report.collect([]), notes)
    (note,) = notes
    assert (
        note.startswith(second.name) and "left out, made from uncommitted or unknown code" in note
    )


def test_collect_keeps_the_paper_s_columns_where_no_truth_is_known(house):
    blank = {"delta_log_z": None, "delta_log_z_rw": None, "w2": None, "true_log_z": None}
    finish(runs()[0], **blank, paper_elbo=380.0, paper_log_z_is=414.0)
    metrics = report.collect([])[0]["metrics"]
    assert metrics["delta_log_z"] is None and metrics["paper_elbo"]["mean"] == 380.0
    assert verdict.ours({"metrics": metrics}, "log_z")[0] == "paper_elbo"
    assert verdict.ours({"metrics": metrics}, "log_z_rw")[1]["mean"] == 414.0


def test_collect_takes_time_in_proportion_to_the_runs(house):
    one = finish(runs(seeds=[0])[0])

    def seconds(count):
        for i in range(count):
            copy = one.folder.with_name(f"{one.name}-{i}")
            if not copy.exists():
                shutil.copytree(one.folder, copy)
        times = []
        for _ in range(3):  # one of them may meet Python's own collection of all that tests left
            start = time.process_time()
            assert len(report.collect([])) >= count
            times.append(time.process_time() - start)
        return min(times)

    few, many = seconds(50), seconds(400)
    assert many < 8 * 2.5 * few + 0.1


# ---------------------------------------------------------------- report


def test_report_writes_the_schema_merges_and_repeats(house):
    done_runs(seeds=[0, 1])
    written = report.write_committed(report.collect([]), [])
    names = ["25gmm.json", "25gmm.csv", "25gmm.svg", "25gmm.png"]
    assert [path.name for path in written] == names
    first = [path.read_bytes() for path in written]
    result = json.loads(first[0])
    assert (
        list(result) == ["task", "true_log_z", "floor", "notes", "rows", "sha256"]
        and result["true_log_z"] == 0
    )
    assert result["floor"] == {"delta_log_z": pytest.approx(0.125, abs=0.002), "steps": 100,
                               "sigma2": 5.0}  # fmt: skip
    assert {row["method"] for row in result["rows"]} == set(table.published("25gmm")["rows"])
    keys = "method profile seeds metrics paper verdict reason runs commit device".split()
    keys += ["command", "estimate", "verdicts"]
    assert all(list(row) == keys for row in result["rows"])
    standing = {(row["method"], row["profile"]): row["verdict"] for row in result["rows"]}
    assert standing["TB", "quick"] == "not comparable" and standing["TB", "full"] == "not run"

    assert report.write_committed(report.collect([]), []) == []
    assert [path.read_bytes() for path in written] == first

    # A later machine has only the full runs: the committed quick rows stay.
    shutil.rmtree(experiments.RUNS)
    done_runs("full", seeds=[0, 1])
    report.write_committed(report.collect([]), [])
    rows = json.loads(written[0].read_text())["rows"]
    ran = [(row["method"], row["profile"]) for row in rows if row["seeds"]]
    assert ran == [("TB", "full"), ("TB", "quick"), ("TB+Expl", "full"), ("TB+Expl", "quick")]
    assert {row["verdict"] for row in rows if row["seeds"] and row["profile"] == "full"} <= {
        "matches", "better", "worse"
    }  # fmt: skip


def test_report_never_trades_a_row_for_one_of_fewer_seeds(house):
    done_runs(seeds=[0, 1, 2])
    path, *_, picture = report.write_committed(report.collect([]), [])
    before = path.read_bytes()
    picture.write_bytes(b"of three seeds")

    # A fresh clone: one seed of one method.
    shutil.rmtree(experiments.RUNS)
    finish(runs(seeds=[0])[1])
    notes = []
    assert report.write_committed(report.collect([]), notes) == []
    assert path.read_bytes() == before and picture.read_bytes() == b"of three seeds"
    assert len(notes) == 1 and "seeds [0] are fewer than the committed [0, 1, 2]" in notes[0]

    def seeds():
        rows = json.loads(path.read_text())["rows"]
        return [row["seeds"] for row in rows if row["seeds"]]

    # As many seeds do replace it, and fewer when told to.
    finish(runs(seeds=[3, 4, 5])[0])
    assert path in report.write_committed(report.collect([]), notes)
    assert seeds() == [[3, 4, 5], [0, 1, 2]]
    assert commanded("report").endswith("or say --replace\n")
    assert seeds() == [[3, 4, 5], [0, 1, 2]]
    assert "25gmm.png" in commanded("report", "--replace")
    assert seeds() == [[3, 4, 5], [0]] and picture.read_bytes() == b"picture"


def test_report_keeps_out_smoke_changed_and_dirty_runs(house):
    done_runs("smoke")
    done_runs(overrides={"steps": 50})
    rows = report.collect([])
    assert len(rows) == 4 and "TB (steps=50)" in [row["method"] for row in rows]
    assert report.write_committed(rows, []) == []
    report.write_local(rows)
    local = json.loads((report.FOLDER / "local/25gmm.json").read_text())["rows"]
    assert len(local) == 4

    # A dirty run is left out and said, and is in the way of no other.
    finish(runs()[0], commit="0123abc+changes")
    finish(runs()[1], commit="4567def")
    notes = []
    written = report.write_committed(report.collect([]), notes)
    assert "4567def" in written[0].read_text() and "+changes" not in written[0].read_text()
    assert len(notes) == 1 and "uncommitted or unknown code" in notes[0]
    written = report.write_committed(report.collect([]), [], allow_dirty=True)
    assert "0123abc+changes" in written[0].read_text()


def test_a_run_without_its_picture_is_reported(house):
    (run,) = [finish(run) for run in runs() if run.method == "TB+Expl"]
    (run.folder / "samples.png").unlink()
    written = report.write_committed(report.collect([]), [])
    assert [path.name for path in written] == ["25gmm.json", "25gmm.csv", "25gmm.svg"]


def test_a_task_with_a_published_table_is_shown_before_anything_is_run(house, monkeypatch):
    planned = experiments.load("full", only=["task=manywell32", "method=TB"])
    monkeypatch.undo()
    monkeypatch.setattr(report, "FOLDER", house / "reproduce/results")
    monkeypatch.setattr(experiments, "load", lambda profile: planned)
    written = report.write_committed([], [])
    result = json.loads(written[0].read_text())
    assert [path.name for path in written] == [f"manywell32.{s}" for s in ("json", "csv", "svg")]
    assert result["true_log_z"] == pytest.approx(164.695675, abs=1e-5)
    assert result["floor"]["delta_log_z"] == pytest.approx(0.956, abs=0.003)
    tables = json.loads(table.PUBLISHED.read_text())["tasks"]
    assert [row["method"] for row in result["rows"]] == list(tables["manywell"]["rows"])
    assert {row["verdict"] for row in result["rows"]} == {"not run"}
    shown = [row["method"] for row in result["rows"] if row["reason"] != "none"]
    assert shown == ["SMC", "GGNS"]
    assert result["rows"][0]["reason"] == "explained: shown as published only"


def test_the_committed_files_are_what_report_makes_of_them():
    for task, result in report.read_committed().items():
        kept = [row | {"true_log_z": result["true_log_z"]} for row in result["rows"]]
        entries = reasons.read(ROOT / "reproduce/reasons.yaml").get(task)
        again = table.table(task, [row for row in kept if row["seeds"]], entries)
        assert again["rows"] == result["rows"]
        assert (report.FOLDER / f"{task}.csv").read_text() == export.as_csv(result)
        assert (report.FOLDER / f"{task}.svg").stat().st_size < 200_000


# ---------------------------------------------------------------- verdicts and reasons


def test_holm_by_hand():
    # 0.01 * 4, then 0.02 * 3, 0.03 * 2 = 0.06, and 0.04 raised to what came before it.
    adjusted = verdict.holm([0.04, 0.01, 0.03, 0.02])
    assert adjusted == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert verdict.holm([0.9, 0.8]) == [1.0, 1.0] and verdict.holm([]) == []


def judged(ours, paper, std=0.1, column="w2"):
    row = {"verdict": "compare", "reason": "open", "metrics": {column: cell(ours, std)}}
    row["paper"] = {column: {"mean": paper, "std": std}}
    verdict.judge([row])
    return row["verdict"], row["reason"], row["verdicts"][column]["verdict"]


def test_verdicts_turn_with_the_numbers():
    assert judged(1.0, 1.05) == ("matches", "none", "matches")
    assert judged(1.0, 2.0) == ("better", "open", "better")
    assert judged(2.0, 1.0) == ("worse", "open", "worse")
    assert judged(1.0, 1.05, std=0.001)[0] == "better"
    # A bound from below is the better the larger it is.
    row = {"verdict": "compare", "reason": "open", "metrics": {"paper_elbo": cell(400.0)}}
    row["paper"] = {"log_z": {"mean": 380.0, "std": 1.0}}
    verdict.judge([row])
    assert row["verdict"] == "better" and row["verdicts"]["log_z"]["metric"] == "paper_elbo"


def test_the_spread_test_is_the_textbook_one():
    # With 1 and 1 degrees of freedom F's distribution function is (2 / pi) atan(sqrt(F)).
    ours, paper = {"std": 3.0, "values": [0] * 2}, {"std": 1.0}
    expected = 2 * (1 - 2 / math.pi * math.atan(3.0))
    assert verdict.spread_test(ours, paper, 2) == pytest.approx(expected)
    assert verdict.spread_test(ours | {"std": 0.0}, paper) is None
    # Its false alarms are 5% at 5%: within 4 standard errors of 4,000 pairs of sets.
    noise = random.Random(0)
    draws = [[noise.gauss(0, 1) for _ in range(5)] for _ in range(8000)]
    spreads = [statistics.stdev(draw) for draw in draws]
    pairs = zip(spreads[::2], spreads[1::2], strict=True)
    found = [
        verdict.spread_test({"std": a, "values": [0] * 5}, {"std": b}) < 0.05 for a, b in pairs
    ]
    assert abs(statistics.fmean(found) - 0.05) < 4 * (0.05 * 0.95 / 4000) ** 0.5
    wide = [verdict.spread_test({"std": 20 * a, "values": [0] * 5}, {"std": b}) for a, b in
            zip(spreads[::2], spreads[1::2], strict=True)]  # fmt: skip
    assert statistics.fmean(p < 0.05 for p in wide) > 0.9


def test_a_mean_that_only_its_spread_lets_match_is_worse():
    wild = measured("TB", delta_log_z=cell(40.0, 100.0))
    calm = measured("TB+Expl", delta_log_z=cell(0.5, 0.3))
    rows = table.table("25gmm", [wild, calm])["rows"]
    found = {row["method"]: row["verdicts"]["delta_log_z"] for row in rows if row["seeds"]}
    assert found["TB"]["p"] > 0.05 and found["TB"]["wider"]
    assert (found["TB"]["verdict"], found["TB"]["reason"]) == ("worse", "open")
    assert found["TB+Expl"]["verdict"] == "matches" and not found["TB+Expl"]["wider"]


def test_welch_is_the_textbook_one():
    # Equal n and s: t = d / (s sqrt(2 / n)), here 2 with 8 degrees of freedom; p = 0.0805.
    ours = {"mean": 2 * (2 / 5) ** 0.5, "std": 1.0, "values": [0] * 5}
    p, (low, high) = verdict.welch(ours, {"mean": 0.0, "std": 1.0})
    assert p == pytest.approx(0.0805, abs=1e-4)
    # t(0.975, 8 degrees of freedom) = 2.306.
    assert (low + high) / 2 == pytest.approx(ours["mean"])
    assert (high - low) / 2 == pytest.approx(2.3060 * (2 / 5) ** 0.5, abs=1e-4)
    # Unequal spreads and sizes: as SciPy has it.
    few = {"mean": 1.0, "std": 0.3, "values": [0] * 3}
    p, (low, high) = verdict.welch(few, {"mean": 0.2, "std": 2.0})
    assert p == pytest.approx(ttest_ind_from_stats(1, 0.3, 3, 0.2, 2, 5, equal_var=False).pvalue)
    assert low < 0 < high
    assert verdict.welch(cell(1.0, 0), {"mean": 1.0, "std": 0}) == (1.0, None)


def test_p_is_at_its_level_where_the_interval_touches_zero():
    _, (low, high) = verdict.welch(cell(1.0, 0.3), {"mean": 0.5, "std": 0.2})
    edge = {"mean": 1.0 - (high - low) / 2, "std": 0.2}
    p, interval_of_edge = verdict.welch(cell(1.0, 0.3), edge)
    assert p == pytest.approx(verdict.LEVEL) and interval_of_edge[0] == pytest.approx(0, abs=1e-12)


def test_the_weighted_error_is_the_size_of_a_signed_mean():
    signs = [0.03, -0.02, 0.01, -0.04, -0.01]
    summary = {"mean": statistics.fmean(signs), "std": statistics.stdev(signs), "values": signs}
    row = measured(delta_log_z_rw=summary)
    name, shown = verdict.ours(row, "delta_log_z_rw")
    assert name == "delta_log_z_rw" and shown["mean"] == pytest.approx(0.006)
    assert shown["std"] == summary["std"] == pytest.approx(statistics.stdev(shown["values"]))
    assert statistics.fmean(shown["values"]) == pytest.approx(shown["mean"])
    # The twin: sizes have a mean and a deviation of their own.
    assert statistics.fmean(map(abs, signs)) != pytest.approx(shown["mean"], rel=0.1)
    for metric in ("delta_log_z", "elbo"):  # others stay as they are
        assert verdict.as_printed(metric, summary) is summary
    (judged,) = [r for r in table.table("25gmm", [row])["rows"] if r["seeds"]]
    assert judged["verdicts"]["delta_log_z_rw"]["verdict"] == "better"  # 0.006, not 1.071
    line = next(csv.DictReader(io.StringIO(export.as_csv({"task": "25gmm", "rows": [judged]}))))
    assert (line["metric"], float(line["mean"])) == ("delta_log_z_rw", pytest.approx(0.006))
    assert float(line["difference_low"]) < -1 < float(line["difference_high"]) < 0


def test_an_error_without_a_sign_is_not_compared():
    row = measured(delta_log_z=cell(1.176), delta_log_z_rw=cell(1.071))
    del row["metrics"]["paper_log_z_is"]
    found = next(r for r in table.table("25gmm", [row])["rows"] if r["seeds"])
    assert found["verdicts"]["delta_log_z_rw"]["verdict"] == "not comparable"
    assert "not its sign" in found["verdicts"]["delta_log_z_rw"]["reason"]
    assert found["verdict"] == "matches"  # by the other


def test_a_sign_that_a_file_can_tell_is_read_from_it(house):
    run = finish(runs(seeds=[0, 1])[0], delta_log_z_rw=0.5, true_log_z=1.0, paper_log_z_is=1.5)
    assert report.collect([])[0]["metrics"]["delta_log_z_rw"]["values"] == [-0.5, -0.5]
    finish(run, delta_log_z_rw=0.5, true_log_z=None, paper_log_z_is=1.5)
    assert report.collect([])[0]["metrics"]["delta_log_z_rw"]["values"] == [0.5, 0.5]


def test_what_is_compatible_with_much_says_so():
    paper = {"mean": 1.0, "std": 0.1}
    for half, wide in ((0.51, True), (0.49, False)):
        assert verdict.compatible_with_much({"difference": [-half, half]}, paper) == wide
        assert verdict.compatible_with_much({"difference": [1 - half, 1 + half]}, paper) == wide
    assert not verdict.compatible_with_much({"difference": None}, paper)


def test_every_published_cell_has_a_verdict_and_its_reason():
    far = {"delta_log_z": cell(1.176), "delta_log_z_rw": cell(3.0), "w2": None}
    result = table.table("25gmm", [measured(**far), measured(profile="quick", **far)])
    for row in result["rows"]:
        published = [name for name, paper in row["paper"].items() if paper]
        assert list(row["verdicts"]) == published
    found = {(row["method"], row["profile"]): row for row in result["rows"]}
    cells = found["TB", "full"]["verdicts"]
    assert cells["delta_log_z"]["verdict"] == "matches" and cells["delta_log_z"]["p"] > 0.05
    assert cells["delta_log_z"]["reason"] == "none"
    assert cells["delta_log_z_rw"]["verdict"] == "worse" and cells["delta_log_z_rw"]["p"] < 0.001
    assert cells["delta_log_z_rw"]["reason"] == "open"
    assert cells["w2"] == {
        "metric": "w2", "verdict": "not comparable", "p": None, "p_raw": None, "difference": None,
        "reason": "explained: not measured here", "wider": False,
    }  # fmt: skip
    # Holm's p is never below the raw one; the interval is of ours - paper, 1.176 of each.
    assert cells["delta_log_z"]["p_raw"] <= cells["delta_log_z"]["p"]
    low, high = cells["delta_log_z"]["difference"]
    assert low + high == pytest.approx(0, abs=1e-9) and 0 < high < 0.2
    assert (found["TB", "full"]["verdict"], found["TB", "full"]["reason"]) == ("worse", "open")
    quick = found["TB", "quick"]["verdicts"].values()
    assert {c["verdict"] for c in quick} == {"not comparable"}
    assert all("shorter schedule" in c["reason"] for c in quick)
    assert {c["verdict"] for c in found["PIS", "full"]["verdicts"].values()} == {"not run"}


def test_columns_that_compare_with_nothing_say_why():
    same = {"delta_log_z": cell(0.69, 0.018), "delta_log_z_rw": cell(0.24, 0.2), "w2": cell(90.0)}
    rows = table.table("funnel", [measured(**same) | {"task": "funnel"}])["rows"]
    tb = next(row for row in rows if row["method"] == "TB")
    assert tb["verdict"] == "matches" and tb["verdicts"]["w2"]["verdict"] == "not comparable"
    assert tb["verdicts"]["w2"]["reason"].startswith("explained: two sets of exact samples")
    mine = measured(elbo=cell(-95.0)) | {"task": "vae"}
    tb = next(row for row in table.table("vae", [mine])["rows"] if row["method"] == "TB")
    assert tb["verdict"] == "not comparable" and "decoder" in tb["reason"]


def test_rows_that_the_paper_has_not_are_not_compared():
    own = measured("TB+Expl+LV", delta_log_z=cell(0.01))
    row = table.table("25gmm", [own])["rows"][-1]
    assert row["method"] == "TB+Expl+LV" and row["verdicts"] == {}
    assert (row["verdict"], row["reason"]) == (
        "not comparable", "explained: the paper has no such row"
    )  # fmt: skip


FAR = {"delta_log_z": cell(0.1), "delta_log_z_rw": cell(3.0), "w2": cell(4.83)}


def test_a_reason_explains_the_cells_it_names_and_the_row_once_all_are_explained():
    def row(entries):
        rows = table.table("25gmm", [measured(**FAR)], {"TB": entries})["rows"]
        return next(row for row in rows if row["method"] == "TB")

    one = row({"delta_log_z": "explained: longer training"})
    assert one["verdicts"]["delta_log_z"]["reason"] == "explained: longer training"
    assert one["verdicts"]["delta_log_z_rw"]["reason"] == "open" == one["reason"]
    both = row({"delta_log_z": "explained: longer training", "row": "explained: a bias"})
    assert both["verdicts"]["delta_log_z"]["reason"] == "explained: longer training"
    assert both["verdicts"]["delta_log_z_rw"]["reason"] == "explained: a bias"
    assert both["verdicts"]["w2"]["reason"] == "none"
    assert both["reason"] == "explained: longer training; explained: a bias"
    assert both["verdict"] == "worse"
    assert row({"row": "open: not the seeds"})["reason"] == "open: not the seeds"


BAD_REASONS = {
    "task": ("26gmm: {TB: {w2: 'open: x'}}", "task '26gmm' has no results; allowed: 25gmm"),
    "row": ("25gmm: {TBB: {w2: 'open: x'}}", "25gmm has no row 'TBB'; allowed: SMC, GGNS"),
    "column": ("25gmm: {TB: {w3: 'open: x'}}", "no column 'w3'; allowed: row, delta_log_z"),
    "matching": ("25gmm: {TB: {w2: 'open: x'}}", "25gmm TB w2 does not differ from the paper"),
    "not run": ("25gmm: {PIS: {row: 'open: x'}}", "25gmm PIS row does not differ"),
    "kind": ("25gmm: {TB: {delta_log_z: luck}}", "'luck' must start with 'explained: ' or 'open"),
    "number": ("25gmm: {TB: {delta_log_z: 3}}", "25gmm TB delta_log_z: 3 must start with"),
    "list": ("25gmm: [TB]", "25gmm must be a mapping of names"),
    "not YAML": ("25gmm: {TB", "reasons.yaml line 2: not valid YAML|line 1: not valid"),
}


@pytest.mark.parametrize("text, message", BAD_REASONS.values(), ids=BAD_REASONS)
def test_a_reason_that_explains_nothing_is_refused_and_nothing_is_written(house, text, message):
    path = house / "reproduce/reasons.yaml"
    path.parent.mkdir()
    path.write_text(text + "\n")
    with pytest.raises(experiments.BadInput, match=message) as caught:
        report.write_committed([measured(**FAR)], [])
    assert "\n" not in str(caught.value) and not report.FOLDER.exists()


def test_reasons_change_the_results_without_a_run(house):
    path = house / "reproduce/reasons.yaml"
    report.write_committed([measured(**FAR)], [])
    path.write_text("25gmm:\n  TB:\n    row: 'explained: of old'\n")
    changed = report.write_committed([], [])
    assert [path.name for path in changed] == ["25gmm.json", "25gmm.csv"]
    assert changed[0].read_text().count("explained: of old") == 3  # two cells and their row
    path.write_text("# no reasons\n25gmm:\n")
    report.write_committed([], [])
    assert "of old" not in changed[0].read_text()


# ---------------------------------------------------------------- export and figures


def test_interval_by_hand():
    # t(0.975, 4 degrees of freedom) = 2.776.
    low, high = interval(cell(1.0, 0.5))
    assert high - 1 == pytest.approx(2.7764 * 0.5 / 5**0.5, abs=1e-4) and low + high == 2.0
    assert interval({"mean": 1.0, "std": 0.5}, 5) == pytest.approx((low, high))
    assert (
        interval(None) is interval(cell(1.0, 0.5, 1)) is interval({"mean": 1, "std": None}) is None
    )


def hostile():
    name = 'T|B & $\\frac{1}_<b>"\n\\end{tabular}, 100%#~^*`[x](y)'
    far = {"delta_log_z": cell(0.1), "w2": cell(4.83)}
    return name, table.table("25gmm", [measured(**FAR), measured(name, **far)])


def test_csv_holds_every_number_and_any_name():
    name, result = hostile()
    lines = list(csv.DictReader(io.StringIO(export.as_csv(result))))
    assert list(lines[0]) == export.FIELDS
    found = {(line["method"], line["profile"], line["metric"]): line for line in lines}
    assert len(found) == len(lines) and (name, "full", "w2") in found
    line = found["TB", "full", "delta_log_z"]
    low, high = interval(FAR["delta_log_z"])
    assert float(line["mean"]) == pytest.approx(0.1) and float(line["std"]) == pytest.approx(0.1)
    assert (float(line["low"]), float(line["high"])) == pytest.approx((low, high))
    assert (line["n"], line["seeds"], line["verdict"], line["reason"]) == (
        "5", "0 1 2 3 4", "better", "open"
    )  # fmt: skip
    assert (line["paper_mean"], line["paper_std"]) == ("1.176", "0.109")
    assert (line["run"], line["commit"], line["device"]) == ("25gmm-TB-full", "0123abc", "cpu")
    blank = found["PIS", "full", "w2"]
    assert (blank["mean"], blank["paper_mean"], blank["verdict"]) == ("", "6.37", "not run")


def test_several_results_are_one_text():
    results = [table.table(task, []) for task in ("25gmm", "lgcp")]
    lines = list(csv.DictReader(io.StringIO(export.text(results, "csv"))))
    assert {line["task"] for line in lines} == {"25gmm", "lgcp"}
    assert export.text(results, "latex").count(r"\begin{tabular}") == 2
    assert "## lgcp" in export.text(results, "markdown")
    with pytest.raises(experiments.BadInput, match="format='pdf' is unknown; allowed: csv, mark"):
        export.text(results, "pdf")


def test_markdown_is_one_table_whatever_the_names_are():
    _, result = hostile()
    text = export.markdown(result)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == len(result["rows"]) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {11}
    assert "<b>" not in text and r"T\|B &amp; \$\\frac" in text
    assert re.search(r"TB \| full, 5 seeds \| 1.176 ± 0.109 \| 0.100 .* better \|", text)


def test_latex_is_one_table_whatever_the_names_are():
    _, result = hostile()
    text = export.latex(result)
    assert text.count(r"\end{tabular}") == 1 == text.count(r"\toprule")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == len(result["rows"]) + 2
    plain = [re.sub(r"\\textbackslash\{\}|\\[&%$#_{}]", "", line) for line in rows]
    assert {line.count("&") for line in plain[1:]} == {8}
    assert {line.count("{") - line.count("}") for line in plain} == {0}
    assert r"T\textbar{}B \& \$\textbackslash{}frac\{1\}\_\textless{}b\textgreater{}" in text
    assert r"1.176 $\pm$ 0.109 & 0.100 {[}-0.024, 0.224{]}+ &" in text


@pytest.mark.parametrize("task", ["25gmm", "lgcp", "vae"])
def test_the_figure_is_the_same_for_the_same_results_and_survives_any_name(task):
    name, result = hostile()
    if task != "25gmm":
        result = table.table(task, [])
    picture = forest.svg(result)
    assert picture == forest.svg(result) and len(picture) < 100_000
    texts = [element.text for element in ElementTree.fromstring(picture).iter() if element.text]
    assert {"paper", "TB+Expl"} <= set(texts)
    assert ("T|B" in " ".join(texts)) == (task == "25gmm") == ("floor" in texts)


def test_a_mean_that_is_far_off_is_an_arrow_and_squeezes_no_other():
    from matplotlib.figure import Figure

    from gfnlite.forest import forest as lines

    near = [
        (name, {"mean": m, "std": 0.5}, None) for name, m in zip("abcd", (4, 5, 6, 8), strict=True)
    ]
    for mean, std, said in (
        (4037.0, 6975.0, ["4,037 →"]),
        (-300.0, 9.0, ["← -300"]),
        (9.0, 1.0, []),
    ):
        ours = {"mean": mean, "std": std, "values": [mean - std, mean + std]}
        ax = lines([*near, ("e", None, ours)], ax=Figure().subplots())
        low, high = ax.get_xlim()
        assert [text.get_text() for text in ax.texts] == said
        assert low < 4 and 8 < high and high - low < (20 if said else 30)


def test_the_figure_shows_each_value_where_it_is():
    _, result = hostile()
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    rows = [row for row in result["rows"] if row["method"] in ("SMC", "TB")]
    forest.panel(result, "delta_log_z", rows, ax)
    paper, ours = (container[0] for container in ax.containers)
    assert list(paper.get_xdata()) == [0.569, 1.176] and list(ours.get_xdata()) == [
        cell(0.1)["mean"]
    ]
    assert list(paper.get_ydata()) == pytest.approx([1.14, 0.14])
    seeds = next(c for c in ax.collections if len(c.get_offsets()) > 1).get_offsets()[:, 0].tolist()
    assert sorted(seeds) == pytest.approx(sorted(FAR["delta_log_z"]["values"]))
    verticals = {line.get_label(): line.get_xdata()[0] for line in ax.lines}
    assert verticals["truth"] == 0
    # The floor is beside trained TB alone, and not beside SMC.
    (floor,) = (lines for lines in ax.collections if lines.get_label() == "floor")
    (segment,) = floor.get_segments()
    assert segment.tolist() == [[result["floor"]["delta_log_z"], y] for y in (-0.5, 0.5)]


# ---------------------------------------------------------------- drift


def noisy(rng, names, n=5, shift=0.0):
    """A row of metrics that are independent standard normals over n seeds."""
    metrics = {}
    for name in names:
        values = [rng.gauss(shift, 1) for _ in range(n)]
        spread = statistics.stdev(values) if n > 1 else None
        metrics[name] = {"mean": statistics.fmean(values), "std": spread, "values": values}
    return measured(n=n, **metrics) | {"seeds": [rng.random() for _ in range(n)]}


def found_drift(fresh, committed, **kwargs):
    findings = drift.drift([fresh], {"25gmm": {"rows": [committed]}}, **kwargs)
    return {finding.metric: finding.verdict for finding in findings}


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("level, metrics", [(0.01, drift.METRICS), (0.2, ["elbo"])])
def test_seed_noise_alone_raises_no_more_alarms_than_stated(n, level, metrics):
    rng, pairs = random.Random(n), 400
    alarms = 0
    for _ in range(pairs):
        pair = noisy(rng, metrics, n), noisy(rng, metrics)
        alarms += drift.DRIFT in found_drift(*pair, level=level).values()
    low, high = binom.interval(0.998, pairs, level)
    assert alarms <= high
    if len(metrics) == 1:  # with a single metric the level is what happens, not only a bound
        assert alarms >= low


@pytest.mark.parametrize("n, names, often", [(5, drift.METRICS, 1.0), (5, ["w2"], 0.85),
                                             (1, drift.METRICS, 0.6)])  # fmt: skip
def test_a_shift_of_five_deviations_is_found(n, names, often):
    rng, pairs, found = random.Random(0), 200, 0
    for _ in range(pairs):
        committed, fresh = noisy(rng, drift.METRICS), noisy(rng, drift.METRICS, n)
        fresh["metrics"] |= noisy(rng, names, n, shift=5)["metrics"]
        words = found_drift(fresh, committed)
        found += drift.DRIFT in [words[name] for name in names]
    assert found >= often * pairs


def test_trainings_that_differ_in_their_seed_raise_few_false_alarms():
    found = json.loads(false_alarms.RESULTS.read_text())
    assert found["level"] == drift.LEVEL and found["pairs"] == 20 and found["metrics"] == 8
    assert found["false_alarms"] <= binom.ppf(0.999, 20, drift.LEVEL)
    assert found["shuffled_false_alarms"] <= drift.LEVEL * found["shuffled_pairs"]

    rng = random.Random(0)  # the twin: every second set of seeds has been made otherwise
    seeds = [
        {name: rng.gauss(10 * (i // 5 % 2), 1) for name in drift.METRICS} | {"seed": i}
        for i in range(100)
    ]
    assert false_alarms.alarms(seeds) == (10, 10)


def test_a_prediction_interval_by_hand():
    # One fresh seed at mean + t s sqrt(1 + 1/5); t(0.995, 4 degrees of freedom) = 4.6041.
    edge = 4.6041 * math.sqrt(1.2)
    for factor, word in ((0.99, drift.WITHIN), (1.01, drift.DRIFT)):
        fresh = measured(n=1, elbo=cell(factor * edge, 0, 1)) | {"seeds": [9]}
        assert found_drift(fresh, measured(elbo=cell(0.0, 1.0))) == {"elbo": word}


def test_what_never_varied_and_what_got_lost_is_a_drift():
    committed = measured(modes=cell(25.0, 0), elbo=cell(0.0), w2=None)
    fresh = measured(modes=cell(25.0, 0), elbo=None, w2=cell(1.0)) | {"seeds": [5, 6, 7, 8, 9]}
    assert found_drift(fresh, committed) == {"elbo": drift.DRIFT, "modes": drift.WITHIN}
    for n in (1, 5):
        other = measured(n=n, modes=cell(24.0, 0, n)) | {"seeds": list(range(10, 10 + n))}
        assert found_drift(other, committed)["modes"] == drift.DRIFT


def test_equal_numbers_of_the_same_seeds_are_said_to_be_equal():
    committed = measured(elbo=cell(0.0), w2=cell(1.0, 0))
    assert set(found_drift(committed, committed).values()) == {drift.EQUAL}
    part = dict(committed, seeds=[1], metrics={"elbo": cell(0.0) | {"values": [0.0]}})
    part["metrics"]["elbo"]["values"] = [committed["metrics"]["elbo"]["values"][1]]
    assert found_drift(part, committed)["elbo"] == drift.EQUAL
    single = measured(n=1, elbo=cell(0.0, 0, 1))
    other = measured(n=1, elbo=cell(0.1, 0, 1))
    assert found_drift(other, single) == {"elbo": drift.UNKNOWN}


def test_drift_compares_like_with_like(house):
    assert drift.check() == (
        "nothing to compare: no finished run here has a committed row of its profile", 2
    )  # fmt: skip
    done_runs(seeds=[0, 1, 2])
    report.write_committed(report.collect([]), [])
    text, code = drift.check()
    assert code == 0 and "0 of 16 metrics beyond seed noise at the 1% level, 16 equal" in text

    # Nothing of another profile is compared with it, however different.
    shutil.rmtree(experiments.RUNS)
    for run in runs("full", seeds=[0, 1]):
        finish(run, shift=50)
    assert drift.check()[1] == 2
    for run in runs(seeds=[3, 4, 5]):
        finish(run, shift=50 if run.method == "TB" else -3)
    text, code = drift.check()
    assert code == 1 and "7 of 16 metrics beyond" in text
    assert drift.check(["method=TB+Expl"])[1] == 0
    with pytest.raises(experiments.BadInput, match="no such method; allowed: TB, TB"):
        drift.check(["method=PIS"])


@pytest.mark.parametrize("fresh_seeds", [1, 3])
def test_a_prediction_interval_holds_19_of_20_fresh_means(fresh_seeds):
    rng, inside = random.Random(5), 0
    for _ in range(2000):
        old, new = (noisy(rng, ["elbo"], n) for n in (5, fresh_seeds))
        (finding,) = drift.drift([new], {"25gmm": {"rows": [old]}})
        low, high = finding.interval
        inside += low <= new["metrics"]["elbo"]["mean"] <= high
    assert abs(inside / 2000 - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def test_drift_keeps_what_it_finds(house):
    done_runs("full", seeds=[0, 1])
    report.write_committed(report.collect([]), [])
    drift.check(["method=TB"], house / "again.json")
    told = json.loads((house / "again.json").read_text())["findings"]
    found = {entry["metric"]: entry for entry in told}
    assert found["elbo"]["verdict"] == drift.EQUAL and found["elbo"]["fresh"]["mean"] == 1.5
    low, high = found["elbo"]["interval"]
    assert low < 1.5 < high and found["elbo"]["method"] == "TB"


def test_drift_of_one_seed_against_another_says_why_it_compares_nothing(house):
    finish(runs(seeds=[0])[0])
    report.write_committed(report.collect([]), [])
    finish(runs(seeds=[1])[0])
    shutil.rmtree(runs()[0].folder / "seed-0")
    text, code = drift.check()
    assert code == 2 and text.endswith("one seed here and one committed have " + drift.UNKNOWN)
    assert "no finished run here has" not in text


# ---------------------------------------------------------------- what is committed


def test_committed_results_are_what_the_prose_says():
    rows = json.loads((ROOT / "reproduce/results/25gmm.json").read_text())["rows"]
    quick = {row["method"]: row["metrics"] for row in rows if row["profile"] == "quick"}
    full = next(row["metrics"] for row in rows if (row["method"], row["profile"]) == ("TB", "full"))
    # book/intro.md: sixteen modes are not known, which is most of the error; with exploration none.
    assert set(full["modes"]["values"]) == {9} and quick["TB+Expl"]["modes"]["values"] == [25] * 3
    assert 0 < full["delta_log_z"]["mean"] - math.log(25 / 9) < 0.2 * full["delta_log_z"]["mean"]
    # README.md: under a minute
    assert quick["TB+Expl"]["seconds"]["mean"] < 60
