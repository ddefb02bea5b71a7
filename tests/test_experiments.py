"""The ablations: settings differ in what they say, a run is recorded whole, the command goes on
where it stopped.
"""

import json
import re
from dataclasses import fields

import matplotlib
import pytest
import torch

from lesson_lib import files
from lesson_lib.config import CELL_CLASSES, REPOSITORY
from lesson_lib.course import experiments
from lesson_lib.course.experiments import (
    QUESTIONS,
    SETTINGS,
    TABLES,
    build,
    labelled,
    main,
    missing,
)
from lesson_lib.course.paired import paired
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.criterion import Outputs, retinanet_criterion

# as in the papers: {(gamma, alpha): AP} of FL table 1a and 1b, {(scales, ratios): AP} of 1c
PRINTED = {
    "loss": {
        (0, 0.10): 0.0,
        (0, 0.50): 30.2,
        (0, 0.75): 31.1,
        (0, 0.99): 28.7,
        (0.5, 0.50): 32.9,
        (2, 0.25): 34.0,
        (5, 0.25): 32.2,
    },
    "anchors": {(1, 1): 30.3, (3, 1): 31.8, (1, 3): 32.4, (3, 3): 34.0},
    "ratios": {1: 71.6, 3: 73.7, 5: 74.3},  # SSD table 2
    "augment": {"mirror": 65.5, "ssd": 77.2},  # SSD table 2 and section 3.6
}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(experiments.SIZES, "ci", (64, 8, 8, 2, 2))


def test_tables_and_questions_use_every_setting_and_no_other():
    asked = {setting for rows in QUESTIONS.values() for _, setting in rows}
    assert experiments.IN_TABLES | asked | {"ce-.10-again"} == set(SETTINGS)
    assert SETTINGS["ce-.10-again"] == SETTINGS["ce-.10"]
    assert all(
        3 <= len(table.rows) <= 4 and re.match(r"(FL|SSD) table \d", table.source)
        for table in TABLES.values()
    )


def test_the_papers_numbers_stand_beside_the_right_settings():
    for name in ("ce-alpha", "focal-gamma"):
        for _, setting, paper in TABLES[name].rows:
            options = {"gamma": 2, "alpha": 0.25} | SETTINGS[setting].criterion
            assert PRINTED["loss"][options["gamma"], options["alpha"]] == paper
    for _, setting, paper in TABLES["anchors"].rows:
        assert PRINTED["anchors"][SETTINGS[setting].scales, SETTINGS[setting].ratios] == paper
    for _, setting, paper in TABLES["ssd-augment"].rows:
        assert paper == PRINTED["augment"].get(SETTINGS[setting].augment)
    for _, setting, paper in TABLES["ssd-ratios"].rows:
        assert paper == PRINTED["ratios"][SETTINGS[setting].ratios]
    assert [row[2] for row in TABLES["ohem"].rows] == [31.1, 32.8, 31.1, 36.0]


@pytest.mark.parametrize(
    "setting, per_position",
    [("fl-2-.25", 9), ("anchors-1x1", 1), ("anchors-3x1", 3), ("anchors-1x3", 3)],
)
def test_anchors_of_a_cell(setting, per_position):
    assert len(build(SETTINGS[setting], 96).anchors(96)) == per_position * (
        12**2 + 6**2 + 3**2 + 2**2 + 1
    )


def test_ratios_of_ssd():
    per_position = [
        build(SETTINGS[name], 96).spec.per_position
        for name in ("ssd-ratios-1", "ssd-ratios-3", "ssd-full")
    ]
    assert (
        set(per_position[0]) == {2}
        and set(per_position[1]) == {4}
        and set(per_position[2]) == {4, 6}
    )


def test_each_question_changes_one_thing():
    def changed(one, other):
        return {
            field.name
            for field in fields(one)
            if getattr(one, field.name) != getattr(other, field.name)
        }

    plain = SETTINGS["fl-2-.25"]
    assert not changed(plain, SETTINGS["fl-2-.25-again"])
    assert changed(plain, SETTINGS["no-way-down"]) == {"way_down"}
    assert changed(plain, SETTINGS["labels-few"]) == {"labels"}
    assert changed(SETTINGS["labels-few"], SETTINGS["labels-missing"]) == {"labels"}
    rare = [SETTINGS[name] for name in experiments.RARE]
    assert all(changed(rare[0], one) <= {"criterion", "lr"} for one in rare) and len(rare) == 8
    assert {tuple(one.criterion.items()) for one in rare} == {
        (("gamma", 0), ("alpha", 0.75)),
        (("gamma", 2.0), ("alpha", 0.25)),
    }


def test_without_the_way_down_each_level_answers_from_its_own_map():
    """The same weights; a coarse map that is changed reaches no finer level."""
    whole, alone = (build(SETTINGS[name], 96).eval() for name in ("fl-2-.25", "no-way-down"))
    alone.load_state_dict(whole.state_dict())
    maps = [torch.randn(1, c, n, n) for c, n in zip(whole.backbone.channels, (12, 6, 3))]
    other = [*maps[:2], maps[2] + 1]

    def levels(model, backbone_gives):
        model.backbone.forward = lambda images: backbone_gives
        return model.features(torch.zeros(1, 3, 96, 96))

    before, after = levels(alone, maps), levels(alone, other)
    assert [torch.equal(a, b) for a, b in zip(before, after)] == [True, True, False, False, False]
    assert not torch.equal(levels(whole, maps)[0], levels(whole, other)[0])
    for mine, theirs in zip(levels(alone, maps)[2:], levels(whole, maps)[2:]):
        assert torch.equal(mine, theirs)  # the coarsest map has none above it


def test_half_of_the_labels_in_two_ways():
    smears = list(Smears("train", 8, 96))
    few, gaps = labelled(smears, "few"), labelled(smears, "missing")
    assert [s.id for s in few] == [s.id for s in smears[::2]]
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(few, smears[::2]))
    assert [s.id for s in gaps] == [s.id for s in smears]
    every = torch.cat([s.boxes for s in smears])
    assert torch.equal(torch.cat([s.boxes for s in gaps]), every[::2])


def test_only_the_asked_classes_are_labelled():
    smears = list(Smears("train", 8, 96))
    white = labelled(smears, only=(1,))
    assert len(white) == 8 and {int(x) for s in white for x in s.labels} == {1}
    assert sum(len(s.boxes) for s in white) == sum(int((s.labels == 1).sum()) for s in smears)
    assert all(torch.equal(a.image, b.image) for a, b in zip(white, smears))


def test_a_larger_picture_and_a_smaller_batch(monkeypatch):
    monkeypatch.setitem(experiments.SIZES, "ci", (48, 4, 4, 2, 2))
    record = experiments.run("rare-fl-0.004", 0, "ci")
    assert record["steps"] == 2 and record["per_class"][0] is None  # red cells are not asked for


def batch():
    torch.manual_seed(0)
    model = build(SETTINGS["ohem-.7"], 96)
    anchors = model.anchors(96)
    outputs = Outputs(
        torch.randn(2, len(anchors), 3, requires_grad=True), torch.randn(2, len(anchors), 4)
    )
    targets = [{"boxes": s.boxes, "labels": s.labels} for s in Smears("train", 2, 96)]
    return model, outputs, anchors, targets


def test_ohem_that_keeps_all_is_cross_entropy_of_all():
    model, outputs, anchors, targets = batch()
    mined = model.criterion(outputs, anchors, targets, keep=len(anchors))
    plain = retinanet_criterion(outputs, anchors, targets, alpha=None, gamma=0)
    assert all(torch.allclose(mined[name], plain[name]) for name in ("cls", "box"))


@pytest.mark.parametrize(
    "options",
    [{"nms_threshold": 0.7}, {"nms_threshold": 0.5}, {"nms_threshold": 0.5, "ratio": 3.0}],
)
def test_ohem_teaches_at_most_as_many_anchors_as_it_keeps(options):
    model, outputs, anchors, targets = batch()
    model.criterion(outputs, anchors, targets, keep=16, **options)["cls"].backward()
    taught = (outputs.cls_logits.grad != 0).any(-1).sum(1)
    assert (taught > 0).all() and (taught <= 16).all()


def test_a_run_is_recorded_whole_and_comes_out_again(small):
    record, again = (experiments.run("ssd-full", 3, "ci") for _ in range(2))
    assert {
        "setting",
        "seed",
        "AP",
        "AP50",
        "loss",
        "steps",
        "seconds",
        "machine",
        "date",
        "command",
    } <= set(record)
    json.dumps(record, allow_nan=False)  # a class without objects is null, not NaN
    assert (
        record | {"seconds": 0} == again | {"seconds": 0}
        and record["steps"] == 2
        and len(record["loss"]) == 2
    )
    assert record["loss"] != experiments.run("ssd-full", 4, "ci")["loss"]


def test_the_command_goes_on_where_it_stopped(small, tmp_path, capsys):
    file = tmp_path / "results.json"
    command = ["run", "--budget", "ci", "--only", "ssd-ratios", "--seeds", "2", "--out", str(file)]
    assert main([*command, "--most", "2"]) == 0
    assert [(r["setting"], r["seed"]) for r in experiments.read(file)] == [
        ("ssd-ratios-1", 0),
        ("ssd-ratios-3", 0),
    ]
    assert main([*command, "--most", "1"]) == 0
    assert missing("ci", "ssd-ratios", 2, file) == [
        (n, 1) for n in ("ssd-ratios-1", "ssd-ratios-3", "ssd-full")
    ]
    assert missing("laptop", "labels", 1, file) == [
        (n, 0) for n in ("fl-2-.25-again", "labels-few", "labels-missing")
    ]
    assert missing("laptop", "ssd-ratios-1", 2, file, first=3) == [
        ("ssd-ratios-1", 3),
        ("ssd-ratios-1", 4),
    ]
    assert missing("laptop", "ssd-full", 1, file) == [
        ("ssd-full", 0)
    ]  # another budget is another run
    assert "1 of 6: ssd-ratios-1, seed 0" in capsys.readouterr().out


def test_the_command_says_that_the_runs_which_come_with_the_course_count_as_done(capsys):
    assert main(["run", "--only", "ce-alpha", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "Nothing to train" in out and "experiments.json" in out and "--out mine.json" in out


LESSON = REPOSITORY / "notebooks" / "12_experiments.ipynb"
READ = (
    "setup",
    "recorded",
    "noise-naive",
    "seeds-table",
    "pairs",
    "pairs-narrower",
    "tables",
    "same-seed",
    "verdicts",
    "own-answers",
    "own-reveal",
    "honest-why",
    "unplanned",
)


def test_seeds_added_on_a_second_machine_leave_the_lesson_s_cells_as_they_are(monkeypatch):
    read, shipped = experiments.read, experiments.read()
    more = [
        run | {"seed": run["seed"] + 3, "AP": 0.0, "machine": "another"}
        for run in shipped
        if run["budget"] == "laptop" and run["seed"] < 2 and run["setting"] in experiments.IN_TABLES
    ]
    added = {experiments.RESULTS: [*shipped, *more]}
    monkeypatch.setattr(
        experiments, "read", lambda file=experiments.RESULTS: added.get(file) or read(file)
    )
    cells = {cell["id"]: cell for cell in json.loads(LESSON.read_text("utf-8"))["cells"]}
    names = {}
    with matplotlib.rc_context():  # the setup cell sets the course's style
        for cell in READ:
            exec("".join(cells[cell]["source"]), names)  # their assertions hold
    assert len(names["tables"]) == 57 and {len(seeds) for seeds in names["here"].values()} == {3}


def test_the_lesson_tells_what_exercise_3_finds_in_the_recorded_answers():
    cells = {cell["id"]: cell for cell in json.loads(LESSON.read_text("utf-8"))["cells"]}
    names = {}
    with matplotlib.rc_context():
        for cell in (*READ[: READ.index("own-answers") + 1], "solution-decides"):
            exec("".join(cells[cell]["source"]), names)
    found = {name: names["how_many_solution"](d.by_seed) for name, d in names["answers"].items()}
    decided = [name for name, yes in names["decided"].items() if yes]
    assert [name for name, most in found.items() if most == 20] == decided and len(decided) == 7
    assert found["ssd-augment: all of it − mirrored"] == 8
    assert found["ssd-ratios: all − 1 only"] == 2
    assert sorted(most for most in found.values() if most < 20) == [0, 0, 2, 8]
    text = "".join(cells["exercise-decides-text"]["source"])
    assert "The seven that are decided reach 20" in text
    assert "as one of 8" in text and "as one of 2;" in text


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    experiments.append({"setting": "a"}, file)

    def torn(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", torn)
    with pytest.raises(KeyboardInterrupt):
        experiments.append({"setting": "b"}, file)
    assert experiments.read(file) == [{"setting": "a"}]


def test_an_unknown_name_is_told_with_those_that_exist(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--only", "gamma"])
    assert stop.value.code == 1 and "focal-gamma" in capsys.readouterr().err


def test_percent_by_seed():
    runs = [
        {"setting": "a", "seed": s, "budget": b, "AP": x, "AP50": 2 * x}
        for s, b, x in ((1, "laptop", 0.2), (0, "laptop", 0.1), (0, "ci", 0.9))
    ]
    assert experiments.aps(runs, "laptop") == {"a": [10.0, 20.0]}
    assert experiments.aps(runs, "ci", "AP50") == {"a": [180.0]}
    assert experiments.by_seed(runs, "laptop") == {"a": {0: 10.0, 1: 20.0}}


def test_what_was_recorded_on_two_machines_is_not_paired():
    runs = [
        {"setting": s, "seed": seed, "budget": "ci", "AP": 0.1 * seed, "machine": machine}
        for s, seed, machine in (("a", 0, "x"), ("a", 1, "x"), ("b", 0, "x"), ("b", 1, "y"))
    ]
    seeds = experiments.by_seed(runs, "ci")
    assert seeds["a"].recording == "x" and seeds["b"].recording == "x and y"
    with pytest.raises(ValueError, match="ran on x, the other on x and y"):
        paired(seeds["a"], seeds["b"])


def test_ten_new_seeds_of_every_setting_were_recorded_on_one_machine_and_had_no_vote_before():
    new, old = (experiments.read(file) for file in (experiments.NEW_SEEDS, experiments.RESULTS))
    seeds = experiments.by_seed(new, "laptop")
    earlier = experiments.by_seed(old, "laptop")
    asked = {*experiments.IN_TABLES, "no-way-down", "labels-few", "labels-missing"}
    chosen = {experiments.rate_chosen(earlier, loss) for loss in ("ce", "fl")}
    assert set(seeds) == asked | chosen and len(new) == 10 * len(seeds)
    assert len({side.recording for side in seeds.values()}) == 1
    for name, side in seeds.items():
        assert len(side) == 10 and not side.keys() & earlier[name].keys()
    assert not re.search(r"[/\\](home|root|tmp|work|Users)|\.venv", json.dumps(new))


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_of_our_own_was_recorded_on_one_machine(question):
    seeds = experiments.by_seed(experiments.read(), "laptop")
    assert len({seeds[name].recording for _, name in QUESTIONS[question]}) == 1


def test_a_rate_is_chosen_on_seed_0_alone():
    seeds = {name: {0: float(i), 1: -float(i)} for i, name in enumerate(experiments.RARE)}
    ce, fl = (experiments.rate_chosen(seeds, loss) for loss in ("ce", "fl"))
    assert ce == list(experiments.RARE)[3] and fl == list(experiments.RARE)[7]
    assert SETTINGS[ce].criterion["gamma"] == 0 and SETTINGS[fl].criterion["gamma"] == 2


def test_what_is_recorded_is_complete_and_names_no_folder():
    runs = experiments.read()
    keys = [(run["setting"], run["seed"], run["budget"]) for run in runs]
    seeds = experiments.by_seed(runs, "laptop")
    asked = {setting for name in ("pyramid", "labels") for _, setting in QUESTIONS[name]}
    wanted = {(n, s) for n in experiments.IN_TABLES | asked for s in range(3)}
    wanted |= {(n, 0) for n in experiments.RARE}
    wanted |= {(experiments.rate_chosen(seeds, x), s) for x in ("ce", "fl") for s in range(3)}
    assert len(set(keys)) == len(keys) and {(n, s, "laptop") for n, s in wanted} <= set(keys)
    assert all(
        0 <= run["AP"] <= run["AP50"] <= 1 and len(run["per_class"]) == len(CELL_CLASSES)
        for run in runs
    )
    assert not re.search(r"[/\\](home|root|tmp|work|Users)|\.venv", json.dumps(runs))
