"""The page in headless Chromium: what it shows is what Python computes, and what a visitor does has its effect."""

import functools
import http.server
import importlib.util
import json
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from air_hf import AIRForPuzzleSolving, variant_config
from air_hf.cli import main
from air_hf.hub import load_model, shipped_checkpoints

pytest_plugins = ["support.hub_fixtures"]
PAGE = Path(__file__).parent.parent / "examples/space"
pytest.importorskip("onnxscript", reason="the packages of air-hf[export] are not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
wait = pytest.importorskip("selenium.webdriver.support.wait")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM or not shutil.which("chromedriver"), reason="chromium, chromedriver not installed"),
    pytest.mark.skipif(
        not (PAGE / "node_modules").is_dir(), reason="no npm packages: make examples/space/node_modules"
    ),
]
# Debian's Chromium as root, without a word to hosts of its maker.
FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
         "disable-component-update", "disable-sync")  # fmt: skip
BOARD = "1.....2.2.....3."
QUESTION = torch.tensor([[".1234".index(symbol) + 1 for symbol in BOARD]])
SEGMENTS, UPDATES = 3, 3
END = SEGMENTS * UPDATES


def tiny_model() -> AIRForPuzzleSolving:
    torch.manual_seed(4)
    config = variant_config(
        "Lx_H", vocab_size=6, seq_len=16, hidden_size=32, num_attention_heads=2, num_hidden_layers=1, h_cycles=1,
        l_cycles=UPDATES - 1, max_segments=SEGMENTS, puzzle="sudoku-4x4",
    )  # fmt: skip
    model = AIRForPuzzleSolving(config)
    nn.init.normal_(model.q_head.weight, std=0.3)
    model.set_attn_implementation("eager")
    return model.eval()


def assemble(models: list[Path], place: Path) -> None:
    specification = importlib.util.spec_from_file_location("build_space", PAGE / "build.py")
    build_space = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build_space)
    build_space.build(models, place)


def test_models_of_runs_have_the_names_of_the_runs(tmp_path):
    """Whose checkpoints are all called alike; of two of one name the page could only show one."""
    for run in ("one", "other/one"):
        tiny_model().save_pretrained(tmp_path / run / "checkpoint")
    assemble([tmp_path / "one" / "checkpoint"], tmp_path / "page")
    assert [model["name"] for model in json.loads((tmp_path / "page" / "models.json").read_text())] == ["one"]
    with pytest.raises(ValueError, match="one/checkpoint are both called one; copy one to a folder of another name"):
        assemble([tmp_path / run / "checkpoint" for run in ("one", "other/one")], tmp_path / "page")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The assembled page with one model, and with the same graphs as one of 4x4 mazes."""
    parent = tmp_path_factory.mktemp("space")
    tiny_model().save_pretrained(parent / "sudoku")
    page = parent / "page"
    assemble([parent / "sudoku", parent], page)
    shutil.copytree(page / "models/sudoku", page / "models/maze")
    manifest = json.loads((page / "models/maze/export.json").read_text())
    manifest["air_hf"] |= {"puzzle": "maze-4x4", "symbols": "# SGo"}
    (page / "models/maze/export.json").write_text(json.dumps(manifest))
    models = json.loads((page / "models.json").read_text())
    models.append({"name": "maze", "folder": "models/maze", "weights": 1, "examples": [{"name": "a", "board": MAZE}]})
    (page / "models.json").write_text(json.dumps(models))
    return page


MAZE = "S   " + " ## " + "  # " + "#  G"


class Page:
    """A browser tab and what a visitor reads in it."""

    def __init__(self, driver, address: str):
        self.driver, self.address = driver, address

    def open(self, view: str = "") -> None:
        self.driver.get("about:blank")  # the same page with another view would only change its address
        self.driver.get(self.address + view)
        self.wait("run.done")

    def js(self, code: str):
        return self.driver.execute_script(code)

    def wait(self, what: str) -> None:
        """Until the run is over, or some JavaScript is true."""
        code = {
            "run.done": "return document.body.dataset.done && document.body.dataset.done === document.body.dataset.run"
        }.get(what, what)
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, 0.05).until(lambda driver: driver.execute_script(code))

    def element(self, name: str):
        return self.driver.find_element("id", name)

    def text(self, name: str) -> str:
        return self.js(f"return document.getElementById('{name}').textContent")

    def symbols(self, board: str) -> list[int]:
        cells = f"document.querySelectorAll('#board-{board} [role=gridcell]')"
        return self.js(f"return [...{cells}].map(cell => Number(cell.dataset.symbol))")

    def styles(self, board: str, name: str) -> list[float]:
        cells = f"document.querySelectorAll('#board-{board} [role=gridcell]')"
        return self.js(f"return [...{cells}].map(cell => Number(cell.style.getPropertyValue('--{name}')))")

    def cell(self, board: str, index: int):
        return self.driver.find_elements("css selector", f"#board-{board} [role=gridcell]")[index]

    def go_to(self, frame: int) -> None:
        self.js(f"const f = document.getElementById('frame'); f.value = {frame}; f.dispatchEvent(new Event('input'))")

    def frames(self) -> list[tuple[list[int], list[int]]]:
        """What both boards show after every update, the start left out."""
        found = []
        for frame in range(1, END + 1):
            self.go_to(frame)
            found.append((self.symbols("H"), self.symbols("L")))
        return found


@contextmanager
def opened(folder: Path, motion: str = "reduce"):
    """The page in a browser; unless motion is reduced, the first run is played."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_window_size(1280, 900)
    features = [{"name": "prefers-reduced-motion", "value": motion}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    yield Page(driver, f"http://127.0.0.1:{server.server_port}/")
    driver.quit()
    server.shutdown()


@pytest.fixture(scope="module")
def page(folder):
    with opened(folder) as page:
        yield page


@torch.no_grad()
def python_frames(frozen: str = "", after: int = 0) -> tuple[list[tuple[list[int], list[int]]], float]:
    """What the states decode to after every update, 0 before their first, and the last halting probability."""
    model, found, written = tiny_model(), [], set()
    rollout = model.unroll(QUESTION)

    def observe(update, state):
        written.add(update.level)
        states = {"H": state.z_h, "L": state.z_l}
        pair = [model.decode(z).argmax(-1)[0].tolist() if level in written else [0] * 16 for level, z in states.items()]
        found.append(tuple(pair))

    rollout.observer = observe
    for segment, output in enumerate(rollout, start=1):
        confidence = float(output.q_halt_logits.sigmoid())
        if segment == after:
            rollout.frozen = {frozen}
    return found, confidence


def test_what_the_page_shows_is_what_python_computes(page):
    page.open(f"#board={BOARD}")
    expected, confidence = python_frames()
    assert page.frames() == expected
    assert f"{100 * confidence:.0f} % sure" in page.text("verdict") or f"{100 * confidence:.1f} % sure" in page.text(
        "verdict"
    )
    assert [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_slider_and_keys_walk_through_the_updates_and_play_runs_to_the_end(page):
    page.open(f"#board={BOARD}&frame=0")
    assert page.text("now") == "Before the first update"
    assert page.symbols("H") == [0] * 16  # held back
    slider = page.element("frame")
    slider.send_keys("\ue014")  # right arrow
    assert page.text("now") == "Segment 1 of 3, L-update 1 of 2"
    page.element("on").click()
    page.element("on").click()
    assert page.text("now") == "Segment 1 of 3, H-update"
    page.element("speed").send_keys("60")
    page.element("play").click()
    page.wait(f"return document.getElementById('frame').value === '{END}'")
    page.wait("return document.getElementById('play').textContent === 'Play'")


def test_a_frozen_state_stays_and_the_other_goes_on_as_in_python(page):
    page.open(f"#board={BOARD}&frame={UPDATES}")
    page.element("freeze-L").click()
    page.wait("run.done")
    expected, _ = python_frames("L", after=1)
    assert expected != python_frames()[0]
    assert page.frames() == expected
    assert "frozen after segment 1" in page.text("count-L")
    assert page.element("freeze-L").get_attribute("aria-pressed") == "true"


def test_bad_boards_are_named_and_the_shown_run_stays(page):
    page.open(f"#board={BOARD}")
    shown = page.symbols("H")
    for text, message in [
        ("12.", "4×4 boards, 16 symbols; that text has 3"),
        (BOARD[:-1] + "7", "“7” in row 4, column 4 is no symbol of this puzzle; it has 1 to 4"),
        ("11" + "." * 14, "1 stands twice in one row: row 1, column 1 and row 1, column 2."),
    ]:
        page.element("text").clear()
        page.element("text").send_keys(text + "\ue007")
        assert message in page.text("error")
        assert page.element("error").is_displayed()
    assert page.symbols("H") == shown
    page.element("text").clear()
    page.element("text").send_keys("1234341221434321\ue007")
    page.wait("run.done")
    assert not page.element("error").is_displayed()


@pytest.mark.slow
def test_a_shipped_model_is_played_and_solves(tmp_path, capsys):
    """What a visitor sees first: a board of the model's card that it solves, update by update, without a click."""
    shipped = shipped_checkpoints()["sudoku-9x9"]
    assemble([shipped], tmp_path / "page")
    with opened(tmp_path / "page", motion="no-preference") as page:
        page.driver.get(page.address)
        page.wait("return document.getElementById('play').textContent === 'Pause'")
        begun = page.js("return performance.now()")
        page.wait("run.done")
        page.wait("return document.getElementById('play').textContent === 'Play'")
        assert page.text("verdict").startswith("Solved, ")
        question, answer = torch.tensor([page.symbols("Q")]), page.symbols("H")
        longest = page.driver.execute_async_script("""const done = arguments[0];
            const watch = (list) => done(Math.max(...list.getEntries().map((task) => task.duration)));
            new PerformanceObserver(watch).observe({ type: "longtask", buffered: true });
            setTimeout(() => done(0), 1000);""")
    assert load_model(shipped).solve(question).sequences[0].tolist() == answer
    with capsys.disabled():
        print(f"\nplayed from {begun / 1000:.1f} s on; longest task of the main thread {longest:.0f} ms")


def test_nothing_runs_while_the_board_cannot_be_solved(page):
    page.open(f"#board={BOARD}")
    page.cell("Q", 1).click()
    page.driver.switch_to.active_element.send_keys("1")
    page.wait("return document.getElementById('verdict').textContent.startsWith('Waiting')")
    before = page.js("return document.body.dataset.run")
    page.element("freeze-H").click()
    page.go_to(2)
    page.js("const s = document.getElementById('seed'); s.value = 5; s.dispatchEvent(new Event('change'))")
    page.wait("return document.getElementById('now').textContent.includes('update 2 of 2')")
    assert page.js("return document.body.dataset.run") == before
    assert page.text("verdict").startswith("Waiting")
    assert "stands twice" in page.text("error")


def test_a_model_may_be_changed_while_another_loads(page):
    """Its facts go to nobody else, and what a visitor does meanwhile does not run on the wrong model."""
    page.open(f"#board={BOARD}")
    choose = "document.getElementById('model').value = '{}'; document.getElementById('model').onchange();"
    first = page.js("return document.getElementById('model').value")
    page.js(choose.format("maze") + choose.format(first) + choose.format("maze") + """
        const s = document.getElementById('sigma'); s.value = 0.5; s.dispatchEvent(new Event('change'));
        document.dispatchEvent(new KeyboardEvent('keydown', {key: '.', bubbles: true}));""")  # fmt: skip
    assert page.js("return document.querySelector('.stage').inert")
    page.wait("return !document.querySelector('.stage').inert")
    page.wait("run.done")
    assert page.element("board-H").get_attribute("data-family") == "maze"
    assert len(page.symbols("H")) == 16
    assert page.text("error") == ""


def test_attention_is_there_after_a_run_that_was_broken_off(page):
    page.open(f"#board={BOARD}")
    page.js("""document.querySelector('#board-H [role=gridcell]').click();
        const s = document.getElementById('seed'); s.value = 9; s.dispatchEvent(new Event('change'));""")
    page.wait("run.done")
    page.go_to(END)
    page.wait(f"return document.querySelector('#board-L').dataset.attention === '{END}'")


def test_two_states_are_frozen_at_one_segment(page):
    page.open(f"#board={BOARD}&frame={2 * UPDATES}")
    page.js("document.getElementById('freeze-H').click(); document.getElementById('freeze-L').click()")
    page.wait("run.done")
    assert "frozen after segment 2" in page.text("count-H")
    assert "frozen after segment 2" in page.text("count-L")
    page.element("freeze-H").send_keys(".")  # keys step from a button, too
    page.element("freeze-H").send_keys(",")
    page.wait(f"return document.getElementById('frame').value === '{END - 1}'")


def test_a_model_that_cannot_be_loaded_is_said_at_the_top(page, folder):
    file = folder / "models/maze/export.json"
    text = file.read_text()
    page.open(f"#board={BOARD}")
    try:
        file.unlink()
        page.driver.get("about:blank")
        page.driver.get(f"{page.address}#model=maze")
        page.wait("return document.getElementById('verdict').textContent === 'The model could not be loaded'")
        assert "export.json could not be loaded (404)" in page.text("error")
        assert page.js("return document.querySelector('.stage').inert")
    finally:
        file.write_text(text)


def test_cells_of_the_puzzle_are_typed_and_tapped(page):
    page.open(f"#board={BOARD}")
    page.cell("Q", 1).click()
    page.driver.switch_to.active_element.send_keys("3\ue014")  # and on to the right
    page.wait("return location.hash.includes('board=13')")
    page.driver.switch_to.active_element.send_keys("3")  # twice in a row
    page.wait("return document.getElementById('error').textContent.includes('stands twice in one row')")
    page.driver.switch_to.active_element.send_keys("\ue003")  # backspace
    page.wait("return document.getElementById('error').hidden")
    page.cell("Q", 5).click()
    page.driver.find_elements("css selector", "#palette button")[4].click()
    assert page.symbols("Q")[5] == 5


def test_a_link_restores_the_view_and_a_bad_one_is_named(page):
    view = f"board={BOARD}&depth=5&frame=4&freezeH=2&sigma=0.5&attempts=3&seed=7&attempt=1&cell=6"
    page.open(f"#{view}")
    shown = [page.styles(board, "share") for board in "HL"]
    assert page.text("now") == "Segment 2 of 5, L-update 1 of 2"
    assert "frozen after segment 2" in page.text("count-H")
    assert page.text("cell-text").startswith("Row 2, column 3: ")
    chips = page.driver.find_elements("css selector", "#rollouts button")
    assert [chip.get_attribute("aria-pressed") for chip in chips] == ["false", "true", "false"]
    page.js("history.replaceState(null, '', '#')")
    page.element("on").click()
    page.element("back").click()
    page.wait("return location.hash.includes('frame=4')")  # not the one on the way, which is remembered for a moment
    page.open(page.js("return location.hash"))
    assert [page.styles(board, "share") for board in "HL"] == shown  # the same noise from the same seed
    chips = page.driver.find_elements("css selector", "#rollouts button")
    chips[2].click()
    assert [page.styles(board, "share") for board in "HL"] != shown
    page.open("#depth=500")
    assert page.text("error") == "The link says depth=500; it must be a whole number from 1 to 128."


def test_a_cells_attention_is_pythons(page):
    page.open(f"#board={BOARD}&frame={UPDATES + 1}&cell=6")
    page.wait(f"return document.querySelector('#board-L').dataset.attention === '{UPDATES + 1}'")
    shades = page.styles("L", "heat")
    model, maps = tiny_model(), []
    attention = model.model.networks["shared"].layers[0].mixer.attention
    attention.register_forward_hook(lambda module, arguments, output: maps.append(output[1]))
    with torch.no_grad():
        for _ in model.unroll(QUESTION, max_segments=2):
            pass
    expected = maps[UPDATES][0].sum(0)[1 + 6, 1:]  # the first L-update of the second segment; the prefix left out
    torch.testing.assert_close(torch.tensor(shades), expected / expected.max(), atol=0.03, rtol=0)


def test_a_phone_shows_both_boards_side_by_side(page):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.open(f"#board={BOARD}")
        assert page.js("return document.documentElement.scrollWidth") == 360
        boxes = [page.element(f"board-{level}").rect for level in "HL"]
        assert boxes[0]["y"] == boxes[1]["y"]
        assert boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"]
        assert boxes[1]["y"] + boxes[1]["height"] < 740
        assert min(box["width"] for box in boxes) > 150
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_maze_is_drawn_by_mouse_and_by_keys(page):
    page.open("#model=maze")
    assert page.symbols("Q") == ["# SGo".index(symbol) + 1 for symbol in MAZE]
    chain = webdriver.ActionChains(page.driver)
    chain.click_and_hold(page.cell("Q", 2)).move_to_element(page.cell("Q", 3)).release().perform()
    assert page.symbols("Q")[2:4] == [1, 1]
    page.driver.find_elements("css selector", "#palette button")[1].click()  # open, so that a click closes nothing
    page.cell("Q", 8).click()
    page.driver.switch_to.active_element.send_keys("\ue014#")  # the wall under the way through
    page.wait("return document.getElementById('error').textContent === 'No way leads from S to G.'")
    page.driver.switch_to.active_element.send_keys(" ")
    page.wait("return document.getElementById('error').hidden")
    page.wait("return document.getElementById('count-H').textContent.includes('of 5 marked')")


def test_the_page_is_pushed_as_a_static_space(hub, folder, tmp_path, capsys, monkeypatch):
    for name, value in hub.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(["publish-space", "puzzles/page", "--folder", str(folder)])
    assert ended.value.code == 0, capsys.readouterr().err
    published = hub.files("space", "puzzles/page")
    ours = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {name: published[name] for name in ours} == ours
    with pytest.raises(SystemExit) as ended:
        main(["publish-space", "puzzles/page", "--folder", str(folder / "runtime")])
    assert ended.value.code == 2
    assert "holds no page: models.json is missing" in capsys.readouterr().err
