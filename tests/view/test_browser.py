"""Pages in a real browser: playback, slider, no console messages and no network requests."""

import json
import shutil
import time
from dataclasses import replace

import pytest

from psptool.evaluation.api import evaluate
from psptool.formats.synthesis.recording import Faults
from psptool.formats.synthesis.writing import write_ntu
from psptool.schemas.run import RunConfig
from psptool.view.attention import with_attention
from psptool.view.report import report_page
from psptool.view.sources import find, predicted
from psptool.view.viewer import viewer_page
from tests.builtin import NTU120

from .test_attention import TEST, run  # noqa: F401
from .test_timeline import timelines, window

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --window-size=1200,1000
"""
CANVAS_IMAGE = "return document.querySelector('.stage canvas').toDataURL()"


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def frame(browser):
    return browser.execute_script("return psptool.players[0].frame")


def check_no_messages_and_requests(browser):
    """Check that the console is empty and all requests are for the file itself or data URLs."""
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # Requests of the browser's start page, before or after the file is opened, do not count.
    urls = [
        one["request"]["url"] for one in requests if not one["documentURL"].startswith(("chrome:", "chrome-"))
    ]
    urls = urls[urls.index(browser.current_url) :]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []


def wait_for_redraw(browser):
    """Wait until earlier changes are drawn."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
    )


def check_plays(browser):
    """Check that the first clip plays within 20 seconds."""
    at = "return psptool.players[0].at"
    before, end = browser.execute_script(at), time.monotonic() + 20
    while browser.execute_script(at) == before:
        assert time.monotonic() < end, "the clip does not play"
        time.sleep(0.05)


def test_viewer_plays_seeks_rotates_and_shows_attention(run, browser, tmp_path):  # noqa: F811
    found = find(run.parent / "u.h5", TEST)
    clips = with_attention(run, RunConfig.load(run / "config.json"), found.clips, found.settings)
    file = tmp_path / "view.html"
    file.write_text(viewer_page("clips", "", clips), encoding="utf-8")
    browser.get(file.as_uri())
    check_plays(browser)
    slider = browser.find_element("css selector", "input[type=range]")
    move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    pictures = []
    for wanted in (1, 4):
        browser.execute_script(move, slider, wanted)
        wait_for_redraw(browser)
        assert frame(browser) == wanted
        pictures.append(browser.execute_script(CANVAS_IMAGE))
    assert pictures[0] != pictures[1]
    canvas = browser.find_element("css selector", ".stage canvas")
    webdriver.ActionChains(browser).drag_and_drop_by_offset(canvas, 80, 10).perform()
    wait_for_redraw(browser)
    assert browser.execute_script(CANVAS_IMAGE) != pictures[1]
    assert frame(browser) == 4
    webdriver.ActionChains(browser).send_keys_to_element(
        browser.find_element("css selector", ".player"), "\ue012"
    ).perform()
    wait_for_redraw(browser)
    assert frame(browser) == 3
    assert len(browser.find_elements("css selector", ".attention")) == 2
    # Five body regions: 25 cells for each of the two clips.
    assert len(browser.find_elements("css selector", ".attention rect.cell")) == 2 * 25
    check_no_messages_and_requests(browser)


def test_raw_recordings_with_ghosts_and_gaps_play_in_both_coordinate_systems(browser, tmp_path):
    names = [f"S001C001P00{p}R001A0{a}" for p in (1, 2, 3) for a in ("07", "50")]
    write_ntu(tmp_path / "raw.zip", names, faults=Faults(gap=0.9, new_id=0.0, ghost=0.7, empty_start=0.5))
    found = find(tmp_path / "raw.zip")
    assert any(not all(clip.scenes[0].kept) for clip in found.clips)
    predictions = [replace(clip, top=(("falling down", 0.75), (clip.action, 0.25))) for clip in found.clips]
    file = tmp_path / "view.html"
    file.write_text(viewer_page("recordings", "", predictions), encoding="utf-8")
    browser.get(file.as_uri())
    check_plays(browser)
    # Draw every frame of every clip once.
    browser.execute_script("""
        for (const player of psptool.players)
          for (let frame = 0; frame < player.frames; frame++) {
            player.shown = true; player.seek(frame); player.advance(0);
          }
    """)
    titles = [title.text for title in browser.find_elements("css selector", ".stage .name")]
    assert titles == ["recorded", "normalized"] * len(names)
    check_no_messages_and_requests(browser)


def test_click_on_the_timeline_goes_to_that_time_and_the_cursor_follows(browser, tmp_path):
    windows = (window(0, 9, "carry"), window(5, 14, "throw"), window(10, 19))
    clips = predicted(timelines(tmp_path, *windows)).clips
    file = tmp_path / "timeline.html"
    file.write_text(viewer_page("long", "", clips), encoding="utf-8")
    browser.get(file.as_uri())
    check_plays(browser)
    browser.execute_script("psptool.players[0].toggle(false)")
    band = browser.find_element("css selector", ".band")
    assert len(band.find_elements("css selector", "i")) == 3
    frames = browser.execute_script("return psptool.players[0].frames")
    for share, text in ((-0.45, "carry 75 %"), (0.4, "no body")):
        webdriver.ActionChains(browser).move_to_element_with_offset(
            band, share * band.rect["width"], 0
        ).click().perform()
        wait_for_redraw(browser)
        assert abs(frame(browser) - (0.5 + share) * frames) <= 1
        assert text in browser.find_element("css selector", ".player .meta").text
        cursor = band.find_element("css selector", "b").rect
        assert abs(cursor["x"] - band.rect["x"] - (0.5 + share) * band.rect["width"]) < 20
    names = [name.text for name in browser.find_elements("css selector", ".player .legend span")]
    assert names == ["carry", "throw"]
    check_no_messages_and_requests(browser)


def test_report_plays_misclassified_clips(run, browser, tmp_path):  # noqa: F811
    evaluated = []
    scores = evaluate(run, report=lambda _, scores, clips: evaluated.append(clips) or "")
    (run / "report.html").write_text(report_page(run, scores, evaluated[0]), encoding="utf-8")
    browser.get((run / "report.html").as_uri())
    browser.execute_script("document.querySelector('.player').scrollIntoView()")
    wait_for_redraw(browser)
    check_plays(browser)
    check_no_messages_and_requests(browser)


@pytest.mark.parametrize("classes", [12, 60])
def test_confusion_matrix_needs_no_scroll_bar(browser, tmp_path, classes):
    import numpy as np
    from markupsafe import Markup

    from psptool.evaluation.confusion import confusion_svg

    from .test_page import viewer

    matrix = confusion_svg(np.eye(classes, dtype=int) + 1, NTU120.class_names[:classes])
    file = tmp_path / "confusion.html"
    file.write_text(viewer(note=Markup(f'<div class="figure">{matrix}</div>')), encoding="utf-8")
    browser.get(file.as_uri())
    labels = [label.text for label in browser.find_elements("css selector", ".figure text")]
    assert {"predicted class", "true class, number of clips"} <= {*labels}
    assert len(browser.find_elements("css selector", ".figure path > title")) == classes**2
    widths = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] == widths[1]
    check_no_messages_and_requests(browser)


def test_dots_on_the_page_of_a_table_are_inside_their_track(browser, tmp_path):
    from psptool.evaluation.table import build_table, collect_scores
    from psptool.view.comparison import table_page

    from ..evaluate.test_table import OLD

    runs, file = collect_scores([OLD]), tmp_path / "table.html"
    file.write_text(table_page(build_table(runs, "supervised"), runs), encoding="utf-8")
    browser.get(file.as_uri())
    dots = browser.find_elements("css selector", ".track i")
    # Five label splits for two groups and one difference, in five measures.
    assert len(dots) == 5 * (2 * 5 + 1)
    for dot in dots:
        track = dot.find_element("xpath", "..").rect
        assert track["x"] - 6 <= dot.rect["x"] <= track["x"] + track["width"]
        assert track["y"] < dot.rect["y"] < track["y"] + track["height"]
    check_no_messages_and_requests(browser)


def test_a_script_in_the_text_of_a_file_does_not_run(browser, tmp_path):
    from markupsafe import Markup

    from .test_page import viewer

    file = tmp_path / "hostile.html"
    # Deliberately not escaped: this tests the content security policy.
    file.write_text(viewer(note=Markup("<script>window.harmed = 1</script>")), encoding="utf-8")
    browser.get(file.as_uri())
    assert browser.execute_script("return window.harmed ?? 0") == 0
