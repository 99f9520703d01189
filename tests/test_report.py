"""What is made of a run folder: the page, its plots, means by edit type and condition, the comparison of two runs."""

from __future__ import annotations

import itertools
import math
import shutil
import statistics
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import status_of
from PIL import Image

from unireal.evaluation import compare, html, plots
from unireal.evaluation.breakdown import OTHER, breakdown, by_system, conditions, edit_types
from unireal.evaluation.results import ItemResult, RunFolder, SummaryRow

RNG = np.random.default_rng(0)
EVIL = "Make </script><script>alert('x')</script> & \"<b>green</b>\"."


def _folder(path, scores, *, metric="PSNR", better="higher", instruction="Make it green.", backbone="none"):
    """A run whose items have these scores, with pictures."""
    run, items = RunFolder(path), []
    for number, score in enumerate(scores):
        name = f"item{number}"
        source, output = run.input(name), run.image(name)
        for file in (source, output, run.input(name, "truth")):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
        items.append(
            ItemResult(
                name, "edit", instruction, "c", ("color change", "object removal", None)[number % 3],
                [f"inputs/{name}_0.png"], f"inputs/{name}_truth.png", f"images/{name}_0.png",
                conditions=["text", "mask"] if number % 2 else ["text"], scores={metric: score},
                baselines={"copy": {metric: None if score is None else score - 1}},
                failure="no picture came out" if score is None else None,
            )
        )  # fmt: skip
    run.write_items(items)
    known = [score for score in scores if score is not None]
    value = statistics.fmean(known) if known else None
    row = SummaryRow("mine", metric, value, len(known), len(scores) - len(known), backbone, better=better)
    run.write_summary([row, replace(row, system="copy", value=None if value is None else value - 1)])
    run.write_settings({"benchmark": "mine", "model": "unireal-tiny"})
    return run


# Means by tag


def test_breakdown_against_an_independent_computation(tmp_path):
    scores = [1.0, 2.0, None, 4.5, 8.0, 16.0, 32.0]
    found = breakdown(_folder(tmp_path, scores).items(), edit_types)["PSNR"]
    assert list(found) == ["object removal", "color change", OTHER]
    colour = [1.0, 4.5, 32.0]
    mean = found["color change"]["model"]
    assert mean.value == pytest.approx(statistics.fmean(colour))
    assert mean.error == pytest.approx(statistics.stdev(colour) / math.sqrt(3))
    assert (mean.n, mean.missing, found["color change"]["copy"].value) == (3, 0, pytest.approx(mean.value - 1))
    assert (found[OTHER]["model"].n, found[OTHER]["model"].missing, found[OTHER]["model"].value) == (1, 1, 16.0)
    assert list(by_system(found["color change"])) == ["model", "copy"]
    some = [replace(item, baselines={}) if item.id == "item3" else item for item in RunFolder(tmp_path).items()]
    assert list(by_system(breakdown(some, edit_types)["PSNR"]["color change"])) == ["model"]  # the copy's are others
    failed = [replace(item, baselines={"copy": {"PSNR": 100.0}}) if item.failure else item for item in some]
    assert breakdown(failed, edit_types)["PSNR"][OTHER]["copy"].n == 1  # not of what the model failed at
    by_condition = breakdown(RunFolder(tmp_path).items(), conditions)["PSNR"]
    assert by_condition["text"]["model"].n == 6 and by_condition["mask"]["model"].n == 3


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("edit", ("text",)),
        ("inpaint", ("text", "mask")),
        ("insert", ("text", "reference image")),
        ("control", ("text",)),  # of which kind is not known
        ("a task of another program", ("text",)),
    ],
)
def test_conditions_of_untagged_items(task, expected):
    assert conditions(ItemResult("a", task, "x")) == expected
    assert conditions(ItemResult("a", task, "x", conditions=["text", "pose"])) == ("text", "pose")


# Plots

_SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_their_values():
    svg = ET.fromstring(
        plots.bars({"a & <b>": {"model": (2.0, 0.5), "copy": (-1.0, None)}, "b": {"model": (4.0, 0.0)}})
    )
    widths = [float(r.get("width")) for r in svg.iter(f"{_SVG}rect") if r.find(f"{_SVG}title") is not None]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.01) and widths[2] / widths[0] == pytest.approx(2, rel=0.01)
    (whisker,) = svg.iter(f"{_SVG}line")
    spread = float(whisker.get("x2")) - float(whisker.get("x1"))
    assert spread / widths[0] == pytest.approx(2 * 1.96 * 0.5 / 2, rel=0.02)
    assert "a & <b>" in [text.text for text in svg.iter(f"{_SVG}text")]


def test_histogram_marks_the_mean():
    values = RNG.normal(5, 1, 200).tolist()
    svg = ET.fromstring(plots.histogram({"model": values, "copy": [0.0]}))
    mean = next(line for line in svg.iter(f"{_SVG}line") if line.get("stroke-dasharray"))
    share = (float(mean.get("x1")) - 30) / 500
    assert share == pytest.approx(statistics.fmean(values) / max(values), abs=0.01)
    assert len(list(svg.iter(f"{_SVG}path"))) == 2


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, 1.0]])
def test_plots_refuse_undefined_values(values):
    with pytest.raises(ValueError, match="finite values"):
        plots.histogram({"model": values})


def test_plots_of_one_value():
    assert ET.fromstring(plots.histogram({"model": [3.0, 3.0]})) is not None
    assert ET.fromstring(plots.bars({"a": {"model": (0.0, None)}})) is not None


# The page


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.pictures, self.cards, self.scripts = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "img":
            self.pictures.append(unquote(given["src"]))
        if given.get("class") == "item":
            self.cards.append(given)
        self.scripts += tag == "script"


def test_the_page_shows_every_item_with_its_pictures(tmp_path):
    run = _folder(tmp_path, [1.0, None, 3.0])
    path = html.write(tmp_path)
    page = _Page(path.read_text())
    assert [card["id"] for card in page.cards] == ["item0", "item1", "item2"]
    assert len(page.pictures) == 9 and all((tmp_path / picture).is_file() for picture in page.pictures)
    assert [card["data-failed"] for card in page.cards] == ["0", "1", "0"]
    assert '"PSNR": null' in page.cards[1]["data-scores"]
    text = path.read_text()
    assert "no picture came out" in text and "unireal-tiny" in text and text.count("<svg") == 3
    assert "| PSNR | color change | model | 1 | - | 1 | 0 |" in (tmp_path / "breakdown.md").read_text()
    moved = shutil.move(tmp_path, tmp_path.with_name("moved"))
    assert all((moved / picture).is_file() for picture in page.pictures), run


def test_texts_of_a_data_set_cannot_break_the_page(tmp_path):
    _folder(tmp_path, [1.0, 2.0], metric='a"<i>', instruction=EVIL)
    text = html.write(tmp_path).read_text()
    assert _Page(text).scripts == 1 and EVIL not in text
    assert "&lt;b&gt;green" in text


def test_frames_of_a_video_are_sampled(tmp_path):
    run = _folder(tmp_path, [1.0])
    (item,) = run.items()
    for k in range(32):
        shutil.copy(run.image("item0", 0), run.image("item0", k)) if k else None
    run.write_items([replace(item, frames=32)])
    shown = [p for p in _Page(html.write(tmp_path).read_text()).pictures if p.startswith("images/")]
    assert len(shown) == html.MAX_FRAMES and shown[0].endswith("_0.png") and shown[-1].endswith("_31.png")


def test_a_run_that_is_not_scored_yet(tmp_path):
    run = RunFolder(tmp_path)
    run.write_items([ItemResult("a", "edit", "x")])
    assert "Not scored yet" in html.write(tmp_path).read_text()


def test_page_of_a_folder_that_is_no_run(tmp_path, capsys):
    assert html.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} holds no items.jsonl; score it first\n"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        options = {"executable_path": path} if (path := shutil.which("chromium")) else {}
        try:
            browser = playwright.chromium.launch(**options)
        except api.Error as error:
            pytest.skip(f"no chromium here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


def test_the_page_sorts_and_filters(tmp_path, browser):
    _folder(tmp_path, [3.0, 1.0, None, 2.0])
    page = browser.new_page()
    page.goto(html.write(tmp_path).as_uri())

    def shown():
        return page.eval_on_selector_all(".item:not([hidden])", "cards => cards.map(card => card.id)")

    assert shown() == ["item0", "item1", "item2", "item3"]
    page.select_option("#sort", "PSNR")
    assert shown() == ["item1", "item3", "item0", "item2"]  # those without a score come last
    page.uncheck("#worst")
    assert shown() == ["item0", "item3", "item1", "item2"]
    page.select_option("#type", "color change")
    assert shown() == ["item0", "item3"]
    page.select_option("#condition", "mask")
    assert shown() == ["item3"]
    page.check("#failed")
    assert shown() == []


# Comparisons


def test_intervals_are_those_of_the_normal_approximation():
    differences = RNG.normal(0.3, 1.0, 400)
    low, high = compare.interval(differences)
    error = differences.std(ddof=1) / 20
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.02)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.02)
    assert compare.interval(differences, confidence=0.5)[0] > low


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = 0
    for seed in range(100):
        low, high = compare.interval(np.random.default_rng(seed).exponential(1.0, 40) - 1.0, resamples=300)
        held += low <= 0 <= high
    assert 86 <= held <= 99


def test_pairing_finds_what_the_spread_hides(tmp_path):
    scores = RNG.normal(20, 5, 60)
    a, b = _folder(tmp_path / "a", scores), _folder(tmp_path / "b", scores + 0.5 + RNG.normal(0, 0.2, 60))
    rows, notes = compare.compare(a, b)
    everything = next(row for row in rows if row.group == "all")
    assert everything.verdict == "B better" and 0.4 < everything.low < 0.5 < everything.high < 0.6
    assert everything.difference == pytest.approx(everything.b - everything.a) and not notes
    assert {row.group for row in rows} == {"all", "color change", "object removal"}
    assert compare.compare(b, a)[0][0].verdict == "A better"
    assert compare.compare(a, b)[0] == rows  # the same seed


def test_where_less_is_better(tmp_path):
    a, b = (_folder(tmp_path / name, [s + i / 9 for i in range(9)], better="lower") for name, s in (("a", 1), ("b", 2)))
    assert compare.compare(a, b)[0][0].verdict == "A better"


def test_equal_runs_differ_in_nothing(tmp_path):
    a, b = (_folder(tmp_path / name, [1.0, 2.0, 3.0] * 3) for name in "ab")
    row = compare.compare(a, b)[0][0]
    assert (row.difference, row.low, row.high, row.verdict) == (0, 0, 0, "no difference shown")


def test_items_without_a_score_are_left_out_and_counted(tmp_path):
    a = _folder(tmp_path / "a", [1.0, None, 3.0, None, 5.0, 9.0, 7.0])
    b = _folder(tmp_path / "b", [2.0, 2.0, None, None, 7.0, None])
    row = compare.compare(a, b)[0][0]
    assert (row.n, row.only_a, row.only_b, row.neither) == (2, 2, 1, 1)
    assert (row.a, row.b, row.difference) == (3.0, 4.5, 1.5)


@pytest.mark.parametrize("count", [1, 2, compare.MIN_ITEMS - 1])
def test_few_common_items_have_no_interval(count, tmp_path):
    a, b = (_folder(tmp_path / name, [score] * count) for name, score in (("a", 1.0), ("b", 2.0)))
    row = compare.compare(a, b)[0][0]
    assert (row.n, row.difference, row.low, row.verdict) == (count, 1.0, None, "too few items")


def test_command_line_of_compare(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        _folder(tmp_path / name, np.random.default_rng(seed).normal(0, 1, 12).tolist())
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert compare.main([*folders, "--output", str(tmp_path / "out"), "--metric", "PSNR"]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "compare.md").read_text() and "95% interval" in printed
    assert '"resamples": 9999' in (tmp_path / "out" / "compare.json").read_text()


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        ({"instruction": "Make it red."}, [], "item 'item0' is 'Make it green.' in"),
        ({"backbone": "clip-b32"}, [], "PSNR cannot be compared: the runs have backbone 'none' and 'clip-b32'"),
        ({"better": "lower"}, [], "better 'higher' and 'lower'"),
        ({"metric": "SSIM"}, [], "no metric in common"),
        ({}, ["--metric", "PSNT"], "did you mean 'PSNR'"),
        ({}, ["--confidence", "1"], "--confidence is above 0"),
        ({}, ["--resamples", "nine"], "--resamples"),
    ],
)
def test_what_cannot_be_compared(change, options, expected, tmp_path, capsys):
    _folder(tmp_path / "a", [1.0, 2.0])
    _folder(tmp_path / "b", [1.0, 2.0], **change)
    assert status_of(compare.main, [str(tmp_path / "a"), str(tmp_path / "b"), *options]) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1 and err.startswith("error: ")


def test_items_of_one_id_may_be_others(tmp_path):
    """As the turns of magicbrush and magicbrush_multi, and BrushBench's holes inside and outside."""
    a, b = (_folder(tmp_path / name, [1.0, 2.0]) for name in "ab")
    for run, split in ((a, "inside"), (b, "outside")):
        run.write_settings({"benchmark": "brushbench", "split": split, "model": run.path.name})
    assert compare.compare(a, b)[1] == [
        "the runs have split 'inside' and 'outside': what has the same id may be another item"
    ]
    b.write_settings({"benchmark": "mine"})
    with pytest.raises(ValueError, match="are runs of benchmark 'brushbench' and 'mine'"):
        compare.compare(a, b)


def test_runs_without_common_items(tmp_path):
    a, b = _folder(tmp_path / "a", [1.0]), _folder(tmp_path / "b", [1.0])
    b.write_items([replace(b.items()[0], id="other")])
    for one, other in itertools.permutations((a, b)):
        with pytest.raises(ValueError, match="no item in common"):
            compare.compare(one, other)
