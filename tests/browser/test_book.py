"""The book in a browser: every slider of every page is found, moved, and shows the frame that
Python drew; predictions are answered and scored; nothing is asked of another host.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, TimeoutError
from reading_book import Asked, check_figures, check_predictions, questions, replaced
from serving import served
from torch import Tensor

import lab
import lesson_lib
from lesson_lib.anchors import SSD300_SCALES, default_boxes
from lesson_lib.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from lesson_lib.coding import decode, encode
from lesson_lib.course import predictions
from lesson_lib.data.smears import Smears
from lesson_lib.evaluation import average_precision
from lesson_lib.matching import POSITIVE, match_retinanet, match_ssd
from lesson_lib.mining import hard_negative_mask
from lesson_lib.nms import class_aware_nms, greedy_nms
from tools import book

PAGES = [path.stem for path in lab.lessons()]


def first_page(wanted: Callable[[list[Asked], list[dict]], bool]) -> str:
    """The first page whose questions and figures are as wanted, whatever the lessons ask today."""
    return next(
        stem
        for stem in PAGES
        if wanted(questions(stem), list(book.stored_frames(stem[:2]).values()))
    )


#: A page that asks for a choice, one that asks for a number, and one that has everything that can
#: break: both kinds of questions, a slider, boxes to drag.
CHOICE = first_page(lambda asked, _: any(one.choices for one in asked))
NUMBER = first_page(lambda asked, _: not asked[0].choices)
WHOLE = first_page(
    lambda asked, figures: (
        len({bool(one.choices) for one in asked}) == 2
        and len({"frames" in figure for figure in figures}) == 2
    )
)


@pytest.mark.parametrize("stem", PAGES)
def test_all_that_moves_on_a_page_is_found_moved_and_right(page: Page, site, faults, stem):
    page.goto(f"{site}/notebooks/{stem}.html")
    check_figures(page, stem)
    check_predictions(page, stem)
    assert faults == []


def test_a_wrong_guess_is_told_and_scored(page: Page, site, faults):
    page.goto(f"{site}/notebooks/{NUMBER}.html")
    field = page.locator(".predict input").first
    field.fill("987654321")
    field.press("Enter")
    asked = page.locator(".predict").first
    assert asked.locator("output").text_content().endswith(("times too large.", " off."))
    name = asked.get_attribute("data-predict")
    assert page.locator(f".reveal[data-predict='{name}'][open]").is_visible()
    count = page.locator(".predict").count()
    said = page.locator(".lesson-score").text_content()
    assert said == f"Your predictions on this page: 0 hits of 1 guess, {count} asked."
    assert faults == []


def test_a_wrong_choice_is_told_and_the_first_one_counts(page: Page, site, faults):
    page.goto(f"{site}/notebooks/{CHOICE}.html")
    question = next(one for one in questions(CHOICE) if one.choices)
    asked = page.locator(f".predict[data-predict='{question.name}']")
    wrong = next(choice for choice in question.choices if choice != question.answer)
    for choice in (wrong, question.answer):
        asked.get_by_role("button", name=choice, exact=True).click()
        assert asked.locator("[aria-pressed='true']").all_inner_texts() == [choice]
        said = f"You said {wrong}; it is {question.answer}."
        right = f"You said {question.answer}: right."
        assert asked.locator("output").inner_text() == (said if choice == wrong else right)
        assert "0 hits of 1 guess" in page.locator(".lesson-score").inner_text()
    assert faults == []


def test_who_wants_no_guess_sees_what_answers_it(page: Page, site, faults):
    stem = first_page(lambda asked, _: len({one.cell for one in asked}) < len(asked))
    page.goto(f"{site}/notebooks/{stem}.html")
    several = [one.cell for one in questions(stem)]
    cell = next(cell for cell in several if several.count(cell) > 1)
    names = [one.name for one in questions(stem) if one.cell == cell]
    shows = page.locator(".cell", has=page.locator(f".reveal[data-predict='{names[0]}']"))
    assert not shows.locator(".cell_output").is_visible()
    shows.get_by_role("button", name="Show it without a guess").click()
    assert shows.locator(".cell_output").is_visible()
    assert shows.locator(".reveal[open]").count() == len(names) > 1
    for name in names:
        asked = page.locator(f".predict[data-predict='{name}']")
        assert asked.locator("output").inner_text() == "Shown without a guess."
        assert not asked.get_by_role("button").count()
    assert " 0 hits of 0 guesses" in page.locator(".lesson-score").inner_text()
    assert faults == []


def test_guesses_are_kept_in_the_browser_until_they_are_forgotten(page: Page, site, faults):
    """Said, chosen or not wanted: all of it is there again after another page."""
    page.goto(f"{site}/notebooks/{WHOLE}.html")
    asked = questions(WHOLE)
    number = next(one for one in asked if not one.choices)
    choice = next(one for one in asked if one.choices and one.cell != number.cell)
    shown = next(one for one in asked if one.cell not in (number.cell, choice.cell))

    def told() -> list[str]:
        places = [f".predict[data-predict='{one.name}'] output" for one in (number, choice, shown)]
        return [page.locator(place).inner_text() for place in places]

    page.locator(f".predict[data-predict='{number.name}'] input").fill("1,234,567")
    page.locator(f".predict[data-predict='{number.name}'] button").click()
    wrong = next(one for one in choice.choices if one != choice.answer)
    buttons = page.locator(f".predict[data-predict='{choice.name}'] button")
    buttons.nth(choice.choices.index(wrong)).click()
    cell = page.locator(".cell", has=page.locator(f".reveal[data-predict='{shown.name}']"))
    cell.get_by_role("button", name="Show it without a guess").click()
    said, score = told(), page.locator(".lesson-score").inner_text()
    assert "1,234,567" in said[0] and wrong in said[1] and said[2] == "Shown without a guess."
    assert f"0 hits of 2 guesses, {len(asked)} asked, 1 shown without a guess." in score
    page.goto(f"{site}/notebooks/{PAGES[0]}.html")
    page.goto(f"{site}/notebooks/{WHOLE}.html")
    assert told() == said and page.locator(".lesson-score").inner_text() == score
    assert page.locator(".lesson-veil").count() == len({one.cell for one in asked}) - 3
    with page.expect_navigation():
        page.get_by_role("button", name="Forget those of this page").click()
    assert told() == ["", "", ""] and not page.locator(".lesson-forget").count()
    assert faults == []


def test_a_page_that_was_opened_as_a_file_says_how_to_serve_it(page: Page, site, faults):
    page.goto(f"{site}/notebooks/{PAGES[0]}.html")
    assert not page.locator(".lesson-served").count() and faults == []
    page.goto((book.SITE / "notebooks" / f"{PAGES[0]}.html").as_uri())
    assert "python3 -m http.server" in page.locator(".lesson-served").inner_text()


def test_a_picture_of_the_answer_waits_with_it(page: Page, site, faults):
    """A cell right below an answer shows itself with the answer, and not before."""
    page.goto(f"{site}/notebooks/{PAGES[6]}.html")
    answer = page.locator(".cell", has=page.locator(".reveal[data-predict='06.eleven']"))
    below = answer.locator("xpath=following-sibling::div[1]")
    assert below.locator("img").count() == 1 and not below.is_visible()
    answer.get_by_role("button", name="Show it without a guess").click()
    assert below.is_visible()
    assert faults == []


JUDGED = """async ([address, cases]) => {
    const { judged, numberOf } = await import(address);
    return cases.map(([text, answer, within, digits]) => {
        const guess = numberOf(text);
        return Number.isFinite(guess) ? judged(guess, answer, within, digits) : null;
    });
}"""
GUESSES = [
    "0",
    "13",
    "14",
    "14.9",
    "1,400",
    "-3",
    "0.013",
    "1e3",
    "98 %",
    "0.5",
    "7",
    "28",
    "",
    "a",
    "3a",
]


def test_a_guess_is_judged_as_in_jupyterlab(page: Page, site, faults):
    """Every answer of every lesson, with many guesses, under loose and strict rules."""
    answers = {one.answer for stem in PAGES for one in questions(stem) if not one.choices}
    cases = [
        (guess, answer, within, digits)
        for answer in sorted(answers)
        for guess in (*GUESSES, answer.split()[0])
        for within, digits in ((0.1, 3), (0, 3), (0.3, 5))
    ]
    page.goto(site)
    found = page.evaluate(JUDGED, [f"{site}/_static/predictions.js", cases])
    assert len(answers) > 20
    for (text, answer, within, digits), ours in zip(cases, found, strict=True):
        guess = predictions.number(text)
        value, _, unit = answer.partition(" ")
        expected = guess is not None and predictions.judged(
            guess, predictions.number(value), unit, within, digits
        )
        assert (tuple(ours) if ours else False) == expected, (text, answer, within)
    assert faults == []


def test_a_page_judges_each_number_by_the_lessons_rule(page: Page, site, faults):
    """A twentieth more than the answer: a hit where a lesson is lenient, else a miss."""
    stem, seen = PAGES[0], {}
    page.goto(f"{site}/notebooks/{stem}.html")
    for question in questions(stem):
        box = page.locator(f".predict[data-predict='{question.name}']")
        value = predictions.number(question.answer)
        box.locator("input").fill(f"{1.05 * value}")
        box.get_by_role("button").click()
        seen[question.name] = box.get_attribute("data-guessed")
    assert seen == {"00.strict": "true", "00.background": "true", "00.outputs": "false"}
    assert faults == []


def dead_slider(static: Path) -> None:
    replaced(static / "controls.js", "moved(Number(input.value)); });", "});")


def wrong_frame(static: Path) -> None:
    """One slider shows at its end what belongs to its start."""
    kept = book.stored_frames(WHOLE[:2])
    figure = next(one for one in kept.values() if "frames" in one)
    figure["frames"][-1] = figure["frames"][0]
    script = f"lessonFrames({json.dumps(WHOLE[:2])}, {json.dumps(kept)});"
    (static / "frames" / f"{WHOLE[:2]}.js").write_text(script, encoding="utf-8")


def missing_script(static: Path) -> None:
    (static / "drags.js").unlink()


def missing_frames(static: Path) -> None:
    (static / "frames" / f"{WHOLE[:2]}.js").unlink()


def deaf_prediction(static: Path) -> None:
    replaced(static / "predictions.js", "guess === answer ?", "guess !== answer ?")


def swapped_hits(static: Path) -> None:
    replaced(static / "predictions.js", "Math.abs(guess - value) <= within", "value < within")


def choices_asked_as_a_number(static: Path) -> None:
    replaced(static / "predictions.js", '".lesson-choices"', '".none"')


def answers_in_sight(static: Path) -> None:
    replaced(static / "predictions.js", 'node.classList.add("lesson-veiled")', "void node")


def answers_never_shown(static: Path) -> None:
    replaced(static / "predictions.js", 'classList.remove("lesson-veiled")', "normalize()")


def unscored_choices(static: Path) -> None:
    replaced(static / "predictions.js", "    counted(hit);", "    if (!choices) counted(hit);")


FAULTS = {
    "none": None,
    "dead slider": dead_slider,
    "wrong frame": wrong_frame,
    "missing script": missing_script,
    "missing frames": missing_frames,
    "choice judged wrongly": deaf_prediction,
    "number judged wrongly": swapped_hits,
    "choices asked as a number": choices_asked_as_a_number,
    "choices not scored": unscored_choices,
    "answers in sight": answers_in_sight,
    "answers never shown": answers_never_shown,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(page: Page, copy_of, name):
    """The check that every page passes fails on a broken page; unbroken, the copy passes."""
    copied = copy_of(WHOLE)
    if FAULTS[name]:
        FAULTS[name](copied / "_static")
    page.set_default_timeout(5_000 if FAULTS[name] else 60_000)
    caught = pytest.raises((AssertionError, TimeoutError)) if FAULTS[name] else nullcontext()
    with served(copied) as address, caught:
        page.goto(f"{address}/notebooks/{WHOLE}.html")
        check_figures(page, WHOLE)
        check_predictions(page, WHOLE)


COMPUTED = """async ([address, name, scenes]) => {
    const boxes = await import(address);
    const told = {
        matchSSD: ({ index }) => index,
        matchRetinaNet: ({ index, label }) => [...index, ...label],
    };
    return scenes.map((scene) => (told[name] ?? ((x) => x))(boxes[name](...scene)));
}"""


def scenes_of(name: str) -> Iterator[tuple[list, Any]]:
    """A thousand random scenes, float32 as in the lessons: what the JavaScript function is given,
    and what Python answers."""
    draw = torch.Generator().manual_seed(sum(map(ord, name)))

    def boxes(count: int) -> Tensor:
        low = 250 * torch.rand(count, 2, generator=draw)
        side = 5 + 100 * torch.rand(count, 2, generator=draw)
        return torch.cat((low, low + side), 1)

    def number(high: int) -> int:
        return int(torch.randint(high, (), generator=draw))

    for _ in range(1000):
        yield ANSWERS[name](boxes, number, draw)


def _overlap(boxes, number, draw):
    a, b = boxes(1), boxes(1)
    return [a[0].tolist(), b[0].tolist()], pairwise_iou(a, b).item()


def _encode(boxes, number, draw):
    a, b = boxes(1), boxes(1)
    offsets = encode(xyxy_to_cxcywh(a), xyxy_to_cxcywh(b))
    return [a[0].tolist(), b[0].tolist()], offsets[0].tolist()


def _decode(boxes, number, draw):
    offsets, anchor = torch.randn(1, 4, generator=draw, dtype=torch.float64), boxes(1)
    box = cxcywh_to_xyxy(decode(offsets, xyxy_to_cxcywh(anchor)))
    return [offsets[0].tolist(), anchor[0].tolist()], box[0].tolist()


def _match_ssd(boxes, number, draw):
    objects, anchors = boxes(number(6)), boxes(60)
    return [objects.tolist(), anchors.tolist()], match_ssd(objects, anchors).gt_index.tolist()


def _match_retinanet(boxes, number, draw):
    objects, anchors = boxes(number(6)), boxes(60)
    match = match_retinanet(objects, anchors)
    positive = match.label == POSITIVE
    index = torch.where(positive, match.gt_index, -1)
    return [objects.tolist(), anchors.tolist()], index.tolist() + match.label.tolist()


def _mine(boxes, number, draw):
    loss = (20 * torch.rand(1, 50, generator=draw, dtype=torch.float64)).round() / 4  # with equals
    positive = torch.rand(1, 50, generator=draw) < 0.08
    negative = ~positive & (torch.rand(1, 50, generator=draw) < 0.8)
    chosen = hard_negative_mask(loss, positive, negative)
    scene = [loss[0].tolist(), positive[0].tolist(), negative[0].tolist()]
    return scene, chosen[0].tolist()


def _nms(boxes, number, draw):
    theirs, scores = boxes(40), torch.rand(40, generator=draw, dtype=torch.float64)
    return [theirs.tolist(), scores.tolist(), 0.3], greedy_nms(theirs, scores, 0.3).tolist()


def _nms_by_class(boxes, number, draw):
    theirs, scores = boxes(40), torch.rand(40, generator=draw, dtype=torch.float64)
    labels = torch.randint(3, (40,), generator=draw)
    kept = class_aware_nms(theirs, scores, labels, 0.3)
    return [theirs.tolist(), scores.tolist(), labels.tolist(), 0.3], kept.tolist()


def _average_precision(boxes, number, draw):
    hits = torch.rand(1 + number(30), generator=draw) < 0.6
    objects = int(hits.sum()) + number(5) + 1
    method = ("coco101", "voc11", "voc-all")[number(3)]
    found = hits.double().cumsum(0).numpy()
    precision = found / np.arange(1, len(hits) + 1)
    return [hits.tolist(), objects, method], average_precision(found / objects, precision, method)


ANSWERS = {
    "iou": _overlap,
    "encode": _encode,
    "decode": _decode,
    "matchSSD": _match_ssd,
    "matchRetinaNet": _match_retinanet,
    "hardNegatives": _mine,
    "nms": _nms,
    "nmsByClass": _nms_by_class,
    "averagePrecision": _average_precision,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_javascript_computes_what_python_computes(page: Page, site, faults, name):
    page.goto(site)
    scenes, expected = zip(*scenes_of(name), strict=True)
    found = page.evaluate(COMPUTED, [f"{site}/_static/boxes.js", name, list(scenes)])
    assert len(found) == len(expected) == 1000
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert faults == []


@pytest.mark.parametrize("spec", SSD300_SCALES.values(), ids=SSD300_SCALES)
def test_javascript_lays_the_same_default_boxes(page: Page, site, spec):
    if spec.clip:
        pytest.skip("torchvision's clipping of widths is no part of the pages")
    page.goto(site)
    given = {
        "size": [300, 300],
        "grids": spec.grids_for(300),
        "scales": spec.scales,
        "ratios": spec.aspect_ratios,
        "strides": spec.strides,
    }
    found = page.evaluate(
        "async ([address, given]) => (await import(address)).defaultBoxes(given)",
        [f"{site}/_static/boxes.js", given],
    )
    assert torch.allclose(torch.tensor(found), default_boxes(spec), atol=1e-4)


def test_the_detector_looks_at_the_readers_own_picture(page: Page, site, faults, tmp_path):
    """One that is no square is squeezed, and that is said; then the same smear can be had again."""
    page.goto(site)
    place = page.locator("[data-detector]")
    place.scroll_into_view_if_needed()
    page.wait_for_selector("[data-detector][data-ready='1']", timeout=120_000)
    smear = place.locator("output").last.inner_text()
    assert "squeezed" not in smear
    Image.new("RGB", (64, 40), "pink").save(tmp_path / "own.png")
    page.locator("#detector-file").set_input_files(tmp_path / "own.png")
    page.wait_for_selector("[data-detector][data-ready='2']", timeout=120_000)
    assert "Your 64 × 40 px were squeezed" in place.locator("output").last.inner_text()
    assert page.locator("#detector-smear").evaluate("(node) => node.selectedIndex") == -1
    page.locator("#detector-smear").select_option(index=0)
    page.wait_for_selector("[data-detector][data-ready='3']", timeout=120_000)
    assert place.locator("output").last.inner_text() == smear
    lines = place.locator(".detector-legend path")
    assert len(set(lines.evaluate_all("(all) => all.map((one) => one.outerHTML)"))) == 3
    assert faults == []


def test_the_detector_in_the_page_finds_what_predict_finds(page: Page, site, faults):
    page.goto(site)
    place = page.locator("[data-detector]")
    place.scroll_into_view_if_needed()
    model = lesson_lib.load(book.DETECTOR)
    size = json.loads((book.SOURCE / "static" / "detector.json").read_text())["size"]
    for number, sample in enumerate(Smears("test", book.SMEARS, size, cache=False)):
        if number:
            page.locator("#detector-smear").select_option(index=number)
        page.wait_for_selector(f"[data-detector][data-ready='{number + 1}']", timeout=120_000)
        found = json.loads(place.get_attribute("data-found"))
        expected = model.predict([sample], score_threshold=0.4)[0]
        assert len(found) == len(expected["scores"]) > 5
        boxes = torch.tensor([one["box"] for one in found])
        assert [one["label"] for one in found] == expected["labels"].tolist()
        assert torch.allclose(boxes, expected["boxes"], atol=0.1)
        scores = torch.tensor([one["score"] for one in found])
        assert torch.allclose(scores, expected["scores"], atol=1e-3)
    assert faults == []
