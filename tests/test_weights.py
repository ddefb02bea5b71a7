"""The detectors that come with the package load by name and are what their cards say."""

import json
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import lesson_lib
from lesson_lib import cli, weights
from lesson_lib.data import catalog
from lesson_lib.data.smears import Smears, draw_smear
from lesson_lib.evaluation import coco_evaluate
from lesson_lib.training import runs
from lesson_lib.training.fields import config_fields, read_config, read_recipe
from lesson_lib.training.loop import ground_truth
from lesson_lib.training.recipes import MODELS, NAMED, find_recipe
from lesson_lib.training.trained import load

NAMES = weights.names()
LIMIT = 12_000_000  # bytes of all files together
SMEARS = [name for name in NAMES if name.endswith("-smears")]


def test_those_that_the_lessons_need_are_there_and_small():
    wanted = {f"{m}-tiny-{d}" for m in ("ssd", "retinanet") for d in ("bccd", "smears")}
    assert wanted <= set(NAMES)
    assert sum(path.stat().st_size for path in weights.FOLDER.iterdir() if path.is_file()) <= LIMIT


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_file_says(name):
    text = (weights.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    about, _ = weights.read(weights.file(name))
    assert text == weights.card(about), "run tools/ship.py cards"
    assert about["name"] == name and f"{about['model']}-{about['data']}" == name
    assert (
        re.search(r"--(budget|recipe) [a-z-]*laptop", about["command"])
        and f"--seed {about['recipe']['seed']}" in text
    )
    assert f"| all classes | {about['figures']['AP']:.3f} |" in text
    for word in ("machine", "date", "licence", "training"):
        assert re.search(rf"\| {word}[^|]*\| [^|]{{3,}} \|", text), word
    if about["data"] != "smears":
        assert catalog.facts(about["data"])["licence"] in text


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_halves_that_lost_nothing_to_speak_of(name):
    with safe_open(weights.file(name), "pt") as stored:
        kinds = {stored.get_tensor(key).dtype for key in stored.keys()}  # noqa: SIM118
    assert kinds <= {torch.float16, torch.int64}
    about, _ = weights.read(weights.file(name))
    assert abs(about["figures"]["AP"] - about["figures_float32"]["AP"]) < 0.005


@pytest.mark.parametrize("name", NAMES)
def test_a_detector_is_that_of_its_command(name):
    detector = load(name)
    about = detector.about
    command = cli_options(about["command"])
    named = command.get("--recipe")
    made_by = named or find_recipe(command["--data"], command["--budget"], command["--model"])
    recipe = read_recipe(about["recipe"], weights.file(name))
    assert recipe == replace(NAMED[made_by].recipe, seed=recipe.seed)  # also today
    assert about["data"] == command["--data"] and about["model"] == command["--model"]
    assert type(detector.model.config) is type(MODELS[about["model"]]), made_by
    assert detector.classes == ("RBC", "WBC", "Platelets") and not detector.model.training
    assert detector.size == recipe.size
    assert config_fields(read_config(about["config"], weights.file(name))) == config_fields(
        detector.model.config
    )
    assert all(p.dtype == torch.float32 for p in detector.model.parameters())


def cli_options(command: str) -> dict[str, str]:
    words = command.split()[1:]
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("name", SMEARS)
def test_on_fresh_smears_it_is_as_good_as_its_card_says(name):
    """Each seed draws other pictures. The bound stands well below the worst of them."""
    detector = load(name)
    fresh = detector.about["fresh"]
    for seed in list(fresh["AP"])[:3]:
        smears = Smears("test", fresh["pictures"], seed=int(seed))
        found = detector.predict(smears)
        figures = coco_evaluate(found, ground_truth(smears), len(detector.classes))
        assert figures["AP"] == pytest.approx(fresh["AP"][seed], abs=0.01)
        assert figures["AP"] > 0.6 and figures["AP50"] > 0.9


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMEARS])
def test_on_its_test_split_it_is_as_good_as_its_card_says(name, real_datasets):
    detector = load(name)
    real_datasets(detector.about["data"])
    test = catalog.open_dataset(detector.about["data"], "test")
    figures = coco_evaluate(detector.predict(test), ground_truth(test), len(detector.classes))
    for figure in ("AP", "AP50"):
        assert figures[figure] == pytest.approx(detector.about["figures"][figure], abs=0.01)


def test_files_and_samples_are_predicted_alike(tmp_path):
    assert lesson_lib.load is load
    detector, smear = load("ssd-tiny-smears"), draw_smear(3, 0, "test")
    file = tmp_path / "blood.png"
    Image.fromarray(smear.image.permute(1, 2, 0).numpy()).save(file)
    ((one, two),) = [detector.predict([smear, file])]
    assert torch.equal(one["boxes"], two["boxes"]) and (one["scores"] > 0.5).sum() > 5
    sure = detector.predict([smear], score_threshold=0.5)[0]
    assert sure["scores"].min() > 0.5 and 0 < len(sure["scores"]) < len(one["scores"])


def test_predict_and_evaluate_take_the_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    smear = draw_smear(3, 0, "test")
    Image.fromarray(smear.image.permute(1, 2, 0).numpy()).save("blood.png")
    assert cli.main(["predict", "ssd-tiny-bccd", "blood.png", "--out", "found"]) == 0
    found = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert [c["name"] for c in found["categories"]] == ["RBC", "WBC", "Platelets"]
    assert len(found["annotations"]) > 3
    few = Smears("test", 4)
    monkeypatch.setattr(catalog, "Smears", lambda *_, **__: few)
    assert cli.main(["evaluate", "ssd-tiny-smears", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["AP50"] > 0.8


def test_an_unknown_name_is_told_with_all_that_there_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="did you mean 'ssd-tiny-bccd'") as told:
        load("ssd-tiny-bcd")
    assert all(name in str(told.value) for name in NAMES)
    assert cli.main(["predict", "ssd-tiny-bcd", "x.png", "--out", "found"]) == 1
    told_there = capsys.readouterr().err
    assert all(name in told_there for name in NAMES)


def test_a_folder_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ssd-tiny-bccd").mkdir()
    with pytest.raises(ValueError, match="is no run"):
        runs.load("ssd-tiny-bccd")


def test_a_broken_file_is_told(tmp_path):
    whole = weights.file("ssd-tiny-smears").read_bytes()
    for data in (b"", b"no weights", whole[:5000], whole[:-7]):
        (tmp_path / "x.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="x.safetensors holds no weights of this package"):
            weights.read(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no weights"):
        weights.read(tmp_path / "none.safetensors")


def test_weights_go_in_and_come_back(tmp_path):
    state = {"a": torch.tensor([1.5, -0.25]), "n": torch.tensor(3)}
    (tmp_path / "x.safetensors").write_bytes(weights.packed({"name": "é"}, state))
    about, again = weights.read(tmp_path / "x.safetensors")
    assert about == {"name": "é"} and again.keys() == state.keys()
    assert all(torch.equal(again[k], state[k]) and again[k].dtype == state[k].dtype for k in state)
    with pytest.raises(ValueError, match="a holds numbers that are too large for half precision"):
        weights.packed({}, {"a": torch.tensor([1e6])})
