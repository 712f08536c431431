"""Questions that the tables raise: read, checked, run again by their commands, and answered."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image
from scipy.stats import ttest_ind_from_stats
from test_report import finish, house  # noqa: F401 (a fixture)

import gfnlite as gl
from reproduce import cli, experiments, investigations, pictures, report

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "reproduce" / "investigations.yaml"
ENTRY = {
    "name": "n", "question": "Q?", "task": "25gmm", "against": "TB+Expl", "answer": "open: so far",
    "rows": [
        {"what": "as the paper says", "method": "TB+Expl"},
        {"what": "more", "method": "TB+Expl", "set": {"exploration": 16.0}, "seeds": [0, 1]},
    ],
}  # fmt: skip


def written(folder, *entries):
    path = folder / "investigations.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


def test_a_file_that_is_missing_or_empty_asks_nothing(tmp_path):
    assert investigations.read(tmp_path / "none.yaml") == []
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert investigations.read(tmp_path / "empty.yaml") == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rows": [{"method": "TB"}]}, "the key 'what' is missing"),
        ({"rows": ["TB"]}, "must be a list of mappings"),
        ({"rows": [{"what": "w", "method": "TBX"}]}, "method=TBX: no such method"),
        ({"rows": [{"what": "w", "method": "TB", "set": {"sigma2": -1.0}}]}, "sigma2=-1.0"),
        ({"rows": [{"what": "w", "method": "TB", "seeds": [0, 0]}]}, "different integers"),
        ({"rows": [{"what": "w", "method": "TB", "lr": 1}]}, "unknown key 'lr'"),
        ({"answer": "because"}, "answer must start with"),
        ({"against": "TB+Magic"}, "is no row of the paper's table"),
        ({"task": "rings"}, "against="),
        ({"question": 3}, "question=3 must be a str"),
        ({"else": 1}, "unknown key 'else'"),
    ],
)
def test_what_could_not_be_run_as_meant_is_one_line(tmp_path, change, complaint):
    with pytest.raises(experiments.BadInput) as caught:
        investigations.read(written(tmp_path, ENTRY | change))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_two_questions_of_one_name_are_refused(tmp_path):
    with pytest.raises(experiments.BadInput, match="same name"):
        investigations.read(written(tmp_path, ENTRY, ENTRY))


def means(command):
    """The one run that a command names."""
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "reproduce", "run"]
    options, key = {}, None
    for word in words[4:]:
        if word.startswith("--"):
            key = word
        else:
            options.setdefault(key, []).append(word)
    seeds = [int(s) for s in options["--seeds"][0].split(",")] if "--seeds" in options else None
    (run,) = cli.chosen(options["--only"], options["--profile"][0], seeds, options.get("--set", ()))
    return run


@pytest.mark.parametrize(
    "result", report.read_committed().values(), ids=lambda result: result["task"]
)
def test_each_row_of_the_tables_is_made_again_by_its_command(result):
    commanded = 0
    for row in result["rows"]:
        if row["command"] is None:
            assert row["verdict"] == "not run"  # another paper's method
            continue
        run = means(row["command"])
        cell = run.task, run.method, run.profile
        assert cell == (result["task"], row["method"], row["profile"])
        if row["seeds"]:
            assert list(run.seeds) == row["seeds"] and [run.name] == row["runs"]
        else:
            assert row["estimate"] or result["task"] == "lgcp"
        commanded += 1
    assert commanded


@pytest.mark.parametrize("name", investigations.FILES)
def test_each_row_of_the_investigations_is_made_again_by_its_command(name):
    committed = json.loads((ROOT / f"reproduce/results/{name}.json").read_text())
    path = COMMITTED.with_stem(name)
    asked = {entry["name"]: entry["rows"] for entry in investigations.read(path)}
    assert asked.keys() == {entry["name"] for entry in committed["investigations"]}
    for entry in committed["investigations"]:
        for told, row in zip(entry["rows"], asked[entry["name"]], strict=True):
            run = means(told["command"])
            assert (run.name, run.seeds) == (row["run"].name, row["run"].seeds)


def test_runs_that_were_asked_for_are_told_with_their_p_values(house):  # noqa: F811
    path = written(house / "reproduce", ENTRY)
    asked = investigations.read(path)[0]["rows"]
    stranger = experiments.load("full", [0], {"exploration": 9.0}, ["task=25gmm", "method=TB+Expl"])
    for run in (asked[0]["run"], asked[1]["run"], *stranger):
        finish(run, paper_log_z_is=0.0)
    notes = []
    report.write_committed(report.collect(notes), notes)
    told = json.loads((report.FOLDER / "investigations.json").read_text())["investigations"]
    assert [entry["name"] for entry in told] == ["n"]
    first, second = told[0]["rows"]
    assert first["seeds"] == [0, 1, 2, 3, 4] and second["seeds"] == [0, 1]
    assert second["settings"] == {"exploration": 16.0} and second["commit"] == "0123abc"
    paper = {"mean": 0.56, "std": 0.302}  # as published
    moments = (1.5, 0.5**0.5, 2, paper["mean"], paper["std"], 5)
    expected = ttest_ind_from_stats(*moments, equal_var=False).pvalue
    assert second["p"]["delta_log_z"] == pytest.approx(expected)
    # The run may go: what is committed stays. Another setting is another run, not yet made.
    shutil.rmtree(experiments.RUNS)
    report.write_committed([], [])
    again = json.loads((report.FOLDER / "investigations.json").read_text())["investigations"]
    assert again == told
    finish(
        experiments.load("full", [0], {"exploration": 16.0}, ["task=25gmm", "method=TB+Expl"])[0]
    )
    report.write_committed(report.collect([]), [])  # of fewer seeds
    again = json.loads((report.FOLDER / "investigations.json").read_text())["investigations"]
    assert again == told
    written(house / "reproduce", ENTRY | {"rows": [ENTRY["rows"][1] | {"set": {"lr": 0.1}}]})
    report.write_committed([], [])
    other = json.loads((report.FOLDER / "investigations.json").read_text())["investigations"]
    assert other[0]["rows"][0]["seeds"] == [] and other[0]["rows"][0]["p"] == {}


def test_a_single_seed_has_no_p_value():
    row = {"metrics": {"delta_log_z": {"mean": 1.0, "std": None, "values": [1.0]}}}
    assert investigations._p(row, {"delta_log_z": {"mean": 1.0, "std": 0.1}}) == {}


def test_what_is_said_to_be_explained_has_been_run():
    committed = json.loads((ROOT / "reproduce/results/investigations.json").read_text())
    for entry in committed["investigations"]:
        if entry["answer"].startswith("explained"):
            missing = [row["command"] for row in entry["rows"] if not row["seeds"]]
            assert not missing, entry["name"]
    asked = {entry["name"]: entry["answer"] for entry in investigations.read(COMMITTED)}
    assert asked == {e["name"]: e["answer"] for e in committed["investigations"]}, "run `report`"


def test_the_mode_error_is_a_total_variation():
    gaussians, wells = gl.gmm25.mode_mass.tolist(), gl.ManyWell(32).mode_mass.tolist()
    assert report._mode_error(gaussians, gaussians) == pytest.approx(0)
    nine = [1 / 9] * 9 + [0.0] * 16  # blind to 16 of 25
    assert report._mode_error(nine, gaussians) == pytest.approx(16 / 25)
    # No left well at all: the left share is lost; and as many on either side.
    assert report._mode_error([0.0, 1.0] * 16, wells) == pytest.approx(wells[0], rel=1e-4)
    assert report._mode_error([0.5, 0.5] * 16, wells) == pytest.approx(0.5 - wells[0], rel=1e-4)


def test_pictures_are_small_and_always_the_same(tmp_path):
    path = tmp_path / "samples.png"
    Image.radial_gradient("L").resize((1440, 700)).save(path)
    made = pictures.small(path)
    assert made == pictures.small(path) and len(made) < 40_000
    (tmp_path / "small.webp").write_bytes(made)
    with Image.open(tmp_path / "small.webp") as picture:
        assert picture.size == (720, 350)


def test_a_damaged_picture_is_noted_and_stops_nothing(house):  # noqa: F811
    (run,) = experiments.load("full", None, None, ["task=25gmm", "method=TB"])
    finish(run, paper_log_z_is=0.0)  # whose picture is no picture
    notes = []
    report.write_committed(report.collect(notes), notes)
    assert any("samples.png cannot be read" in note for note in notes)
    assert (report.FOLDER / "25gmm.json").exists()


def test_each_full_row_has_its_picture_and_no_other_is_kept():
    rows = [row for result in report.read_committed().values() for row in result["rows"]]
    full = {row["runs"][0] for row in rows if row["seeds"] and row["profile"] == "full"}
    there = {path.stem for path in (report.FOLDER / "pictures").glob("*.webp")}
    assert there <= full
    without = {name for name in full - there if not name.startswith("vae")}
    assert not without
