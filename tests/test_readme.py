"""What README.md and the pages of docs/ promise a reader is there, and works."""

import ast
import functools
import importlib
import math
import re
import runpy
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

import gru_autoregression
from backstage.checkpoints import load_checkpoint
from free_running import judge, run_freely

TOP = Path(__file__).resolve().parents[1]
TASKS = (
    "gru_regression_scratch.py",
    "gru_autoregression.py",
    "gru_classification_scratch.py",
    "gru_driven_neuron.py",
)
SCRIPTS = (*TASKS, "gru_autoregression_training.py", "sample_and_hold.py")
WITHOUT_FLAGS = ("extras/axon.py", "kernel.py")
READERS_FILES = {"my_step.py", "kernel.py"}  # those that a reader writes
EXTRAS = ("benchmark", "gains", "latent_ode", "reach", "rest_points")
PICTURES = (".svg", ".png", ".gif")

# what takes long in a block, by page, and what is run in its place
SHORTER = {
    "README.md": {"range(61)": "range(2)"},
    "exercises.md": {
        "(0.4, 0.5, 0.8, 1.0, 1.3)": "(0.5, 1.3)",
        "warm_up + 4096": "warm_up + 512",
    },
    "state.md": {"num_steps = 4146": "num_steps = 300"},
}
# in backticks, but neither in our code nor in a block of a page
FOREIGN_NAMES = {"int16", "nn.RNN", "pyabf", "pynwb", "scipy.signal.decimate"}
# the columns of the pages' tables, by the names of what `judge` returns
COLUMNS = {
    "period error": "period_error",
    "amplitude error": "amplitude_error",
    "periods in phase, median": "periods_in_phase",
    "periods in phase, worst": "periods_in_phase_min",
}


class Page:
    """A page in pieces."""

    def __init__(self, path):
        self.path = path
        self.name = path.name
        self.text = path.read_text()
        fences = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", self.text, re.M | re.S)
        # (kind, text) of each block, such as ("python", "import torch\n")
        self.blocks = [(kind, textwrap.dedent(block)) for kind, block in fences]
        self.prose = re.sub(r"^ *```.*?^ *```$", "", self.text, flags=re.M | re.S)
        in_backticks = re.findall(r"`([^`]+)`", self.prose)
        self.code = [" ".join(code.split()) for code in in_backticks]

    def blocks_of(self, kind):
        return [block for other, block in self.blocks if other == kind]

    def links(self):
        """The links to something of ours, pictures too: (text, path, anchor)."""
        found = []
        for text, target in re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", self.prose):
            if target.startswith(("http://", "https://")):
                continue
            path, _, anchor = target.partition("#")
            place = self.path
            if path:
                place = (self.path.parent / path).resolve()
            found.append((text, place, anchor))
        return found

    def anchors(self):
        """What GitHub makes of the headings."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.M)
        plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
        return [heading.replace(" ", "-") for heading in plain]


PATHS = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
PAGES = {path.name: Page(path) for path in PATHS}
LINKS = [link for page in PAGES.values() for link in page.links()]
CODE = [code for page in PAGES.values() for code in page.code]


def all_commands():
    """All commands of the pages that run a file of ours: (file, flags), sorted."""
    lines = list(CODE)
    for page in PAGES.values():
        for block in page.blocks_of("shell"):
            lines += block.replace("\\\n", " ").splitlines()
    found = set()
    for line in lines:
        for part in re.split(r"&&|#", line):
            match = re.search(r"\bpython (\S+\.py)(.*)", part)
            if match is not None:
                found.add((match[1], match[2].strip()))
    return sorted(found)


@functools.cache
def names_in(path):
    """The functions, classes and methods that a file defines, as a page calls them."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    names.add(f"{node.name}.{part.name}")
    return names


def source_files():
    folders = (TOP, TOP / "backstage", TOP / "extras")
    return [path for folder in folders for path in sorted(folder.glob("*.py"))]


@functools.cache
def parser_of_extra(name):
    sys.path.insert(0, str(TOP / "extras"))  # as Python does for a script
    parser = runpy.run_path(str(TOP / "extras" / f"{name}.py"))["parser"]
    sys.path.pop(0)
    return parser


# ---- what is named exists ----


@pytest.mark.parametrize("name", PAGES)
def test_every_block_and_every_answer_is_closed(name):
    page = PAGES[name]
    assert page.text.count("```") == 2 * len(page.blocks)
    assert page.text.count("<details><summary>") == page.text.count("</details>")


def test_links_lead_somewhere():
    for text, path, anchor in LINKS:
        assert path.exists(), text
        if anchor:
            assert anchor in PAGES[path.name].anchors(), f"{text}: {anchor}"


def test_named_files_exist():
    known = {path.name for path in source_files()}
    known |= READERS_FILES
    for code in CODE:
        if re.fullmatch(r"[\w./]+\.(py|md|txt|toml|svg)", code):
            assert code in known or (TOP / code).exists(), code


def test_every_file_is_named_in_the_readme():
    readme = PAGES["README.md"]
    linked = {path for _, path, _ in readme.links()}
    for path in source_files():
        if path.name not in (*SCRIPTS, "__init__.py"):
            assert path in linked or path.name in readme.code, path.name


def test_linked_functions_are_in_the_file_that_the_link_names():
    linked = []
    for text, path, _ in LINKS:
        if re.fullmatch(r"`[\w.]+`", text) and not text.endswith(".py`"):
            linked.append((path, text.strip("`")))
    assert len(linked) > 20
    for path, name in linked:
        assert name in names_in(path), f"{name} of {path.name}"


def test_other_names_are_in_the_code():
    texts = [path.read_text() for path in source_files()]
    for page in PAGES.values():
        texts += [block for _, block in page.blocks]
    words = set(re.findall(r"\w+", "\n".join(texts)))
    methods = set().union(*(names_in(path) for path in source_files()))
    for name in sorted(set(CODE) - FOREIGN_NAMES):
        if re.fullmatch(r"[A-Za-z_][\w.]*", name):
            assert set(name.split(".")) <= words, name
        owner, dot, _ = name.partition(".")
        if dot and owner in methods and owner[0].isupper():  # a class of ours
            assert name in methods, name


def test_every_picture_is_shown_and_small():
    shown = {path for _, path, _ in LINKS if path.suffix in PICTURES}
    made = {path for path in (TOP / "thumbs").iterdir() if path.suffix in PICTURES}
    assert shown == made
    for path in shown:
        assert 0 < path.stat().st_size < 1e6, path.name


# ---- what a reader is told to do works ----


@pytest.mark.parametrize(("file", "flags"), all_commands())
def test_commands_parse(file, flags):
    if file == "extras/check_step.py":
        assert flags == "my_step.py"
    elif file in SCRIPTS:
        script = importlib.import_module(Path(file).stem)
        parse_flags = getattr(script, "parse_flags", script.parser.parse_args)
        parse_flags(shlex.split(flags))
    elif Path(file).stem in EXTRAS:
        parser_of_extra(Path(file).stem).parse_args(shlex.split(flags))
    else:
        assert file in WITHOUT_FLAGS
        assert flags == ""


def test_every_task_has_the_command_of_its_pictures():
    for script in TASKS:
        assert (script, "--out_dir thumbs") in all_commands()


def test_named_flags_exist():
    parsers = [importlib.import_module(Path(file).stem).parser for file in SCRIPTS]
    parsers += [parser_of_extra(name) for name in EXTRAS]
    known = set()
    for parser in parsers:
        known |= set(re.findall(r"--[\w-]+", parser.format_help()))
    for code in CODE:
        if code.startswith("--"):
            flag, *_ = code.split()
            assert flag in known, code


def test_edits_fit_the_code():
    """What an exercise shows as the code of now stands in the file, in one piece."""
    edits = [block for page in PAGES.values() for block in page.blocks_of("diff")]
    assert edits
    for edit in edits:
        header, *lines = edit.splitlines()
        source = (TOP / header.removeprefix("--- ")).read_text()
        now = [line[1:] for line in lines if not line.startswith("+")]
        assert source.count("\n".join(now) + "\n") == 1, edit


def python_blocks():
    """(page, number) of all blocks but the recording's: tests/test_recording.py."""
    found = []
    for name, page in PAGES.items():
        if name != "recording.md":
            found += [(name, k) for k in range(len(page.blocks_of("python")))]
    return found


@pytest.mark.parametrize(("name", "number"), python_blocks())
def test_python_blocks_run(name, number, capsys, tmp_path, monkeypatch):
    blocks = PAGES[name].blocks_of("python")
    code = blocks[number]
    for long, short in SHORTER.get(name, {}).items():
        assert "".join(blocks).count(long) == 1, f"{long}: no longer in {name}"
        code = code.replace(long, short)
    monkeypatch.chdir(tmp_path)  # where some of them write
    exec(compile(code, name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out or "print(" not in code


# ---- figures ----


@functools.cache
def shipped_network():
    """Judge the shipped network as the script does."""
    args = gru_autoregression.parse_flags([])
    num_samples = args.warm_up + round(args.test_duration / args.dt)
    neurons = gru_autoregression.make_neurons(args, args.num_test, num_samples, 2)
    first = neurons.data_x[: args.warm_up]
    true = neurons.data_x[args.warm_up :]
    generated, _ = run_freely(load_checkpoint(args.checkpoint), first, len(true))
    return judge(true, generated, args.dt)


def row_of_the_trained(page):
    """The first row of a table that begins with `trained`: column -> figures."""
    header = None
    for line in page.text.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if "period error" in cells:
            header = cells
        if cells[:1] == ["trained"]:
            break
    figures = {}
    for title, cell in zip(header[1:], cells[1:]):
        figures[title] = [float(value) for value in cell.removesuffix(" %").split(", ")]
    return figures


@pytest.mark.parametrize("name", ["README.md", "controls.md"])
def test_figures_of_the_shipped_network(name):
    """It is that of seed 0, the first figure of a cell."""
    figures = row_of_the_trained(PAGES[name])
    shared = figures.keys() & COLUMNS.keys()
    assert len(shared) >= 2
    for title in shared:
        values = figures[title]
        last_digit = 0.1
        if values[0] < 1:
            last_digit = 10.0 ** math.floor(math.log10(values[0]))
        # machines differ about as much as seeds do
        tolerance = last_digit / 2 + max(values) - min(values)
        measured = shipped_network()[COLUMNS[title]]
        assert measured == pytest.approx(values[0], abs=tolerance), title
