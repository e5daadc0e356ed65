"""What README.md and the pages of docs/ name is there: paths, pictures, flags, functions, commands, figures."""

import importlib
import math
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from check_step import check

import gru_autoregression as task
from datasets import FitzhughNagumo
from models import load_checkpoint

TOP = Path(__file__).resolve().parents[1]
MODULES = {path.stem for path in TOP.glob("*.py")}
SCRIPTS = sorted(name for name in MODULES if name.startswith("gru_"))


class Page:
    """A page in pieces: blocks (kind, text); the prose between them, what stands there in backticks; links."""

    def __init__(self, path):
        self.path, self.text = path, path.read_text()
        blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", self.text, re.M | re.S)
        self.blocks = [(kind, textwrap.dedent(block)) for kind, block in blocks]
        self.prose = re.sub(r"^ *```.*?^ *```$", "", self.text, flags=re.M | re.S)
        self.code = re.findall(r"`([^`\n]+)`", self.prose)
        self.links = re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", self.prose)  # (text, target), pictures too
        headings = re.findall(r"^#+ (.*)$", self.prose, re.M)
        self.anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def inner_links(self):
        """The links that stay within the repository, as (text, path, anchor)."""
        for text, target in self.links:
            if not target.startswith(("http://", "https://")):
                path, _, anchor = target.partition("#")
                yield text, (self.path.parent / path).resolve() if path else self.path, anchor


PAGES = {path.name: Page(path) for path in (TOP / "README.md", *sorted((TOP / "docs").glob("*.md")))}
README = PAGES["README.md"]
BLOCKS = [block for page in PAGES.values() for block in page.blocks]
CODE = [code for page in PAGES.values() for code in page.code]
LINKS = [link for page in PAGES.values() for link in page.inner_links()]


def commands():
    """Every command that runs something of ours, as (script, flags)."""
    lines = [code for code in CODE if "python " in code]
    lines += [line for kind, block in BLOCKS if kind == "shell" for line in block.replace("\\\n", " ").splitlines()]
    found = set()
    for part in (part for line in lines for part in re.split(r"&&|\|", line.split("#")[0])):
        if match := re.search(r"\bpython (\S+\.py)(.*)", part):
            found.add((match[1], re.sub(r"\$\{?\w+\}?", "0", match[2]).strip()))  # a variable of the shell
    return sorted(found)


@pytest.mark.parametrize("name", PAGES)
def test_form(name):
    page = PAGES[name]
    assert name != "README.md" or "\npip install -r requirements.txt && python -m pytest\n" in page.text  # .ci/run
    assert not re.search(r"@\w*@", page.text)  # a figure that was never filled in
    assert max(len(line) for line in page.text.splitlines() if not line.startswith("|")) <= 120
    assert page.text.count("```") == 2 * len(page.blocks)
    assert page.text.count("<details><summary>") == page.text.count("</details>")


def test_paths_and_anchors_exist():
    for text, path, anchor in LINKS:
        assert path.exists(), text
        if anchor:
            assert anchor in PAGES[path.name].anchors, f"{text}: {anchor}"
    pattern = r"(tests|thumbs|checkpoints|docs|\.ci)/[\w./-]+|\w+\.(py|txt|toml)"
    named = {code for code in CODE if re.fullmatch(pattern, code) and code != "my_step.py"}
    named |= {script for script, _ in commands()}
    assert not [name for name in named if not (TOP / name).exists()]


def test_every_picture_is_shown_and_small():
    shown = {path for _, path, _ in LINKS if path.suffix in (".svg", ".png", ".gif")}
    assert shown == {path for path in (TOP / "thumbs").iterdir() if path.suffix in (".svg", ".png", ".gif")}
    for path in shown:
        assert 0 < path.stat().st_size < 1e6, path


def test_named_functions_exist():
    named = [(path.stem, text.strip("`")) for text, path, _ in LINKS if re.fullmatch(r"`[\w.]+`", text)]
    named = [(module, name) for module, name in named if module in MODULES and not name.endswith(".py")]
    modules = {module: importlib.import_module(module) for module in sorted(MODULES - {"kernels"})}
    classes = {name: module for module in ("models", "datasets") for name in vars(modules[module]) if name[0].isupper()}
    for code in CODE:
        if match := re.match(r"(\w+)\.(?!(?:py|pth|nn)\b)([\w.]+)", code):
            if match[1] in modules:
                named.append(match.groups())
            elif match[1] in classes:
                named.append((classes[match[1]], match[0]))
    assert len(named) > 20
    for module, name in named:
        thing = modules[module]
        for part in name.split("."):
            assert hasattr(thing, part), f"{module}: {name}"
            thing = getattr(thing, part)


@pytest.mark.parametrize(("script", "flags"), commands())
def test_commands_parse(script, flags):
    if script == "tests/check_step.py":
        assert flags == "my_step.py"
    elif script == "tests/benchmark.py":
        runpy.run_path(str(TOP / script))["parser"].parse_args(shlex.split(flags))
    elif script == "docs/axon.py":
        assert not flags
    else:
        importlib.import_module(script.removesuffix(".py")).parser.parse_args(shlex.split(flags))


def test_flags_exist_and_every_script_has_the_command_of_its_pictures():
    known = {"--num_epoch", "--index-url"}  # one is misspelt on purpose, in the table of symptoms, and one is pip's
    for name in SCRIPTS:
        assert (f"{name}.py", "--out_dir thumbs") in commands()
        actions = importlib.import_module(name).parser._actions
        known |= {option for action in actions for option in action.option_strings}
    flags = {flag for code in CODE if "python" not in code for flag in re.findall(r"--[\w-]+", code)}
    assert not flags - known - {"--flag", "--no-flag"}


def test_edits_fit_the_code():
    """The exercises' edits: what they show as the code of now stands in the file, in one piece."""
    edits = [block for kind, block in BLOCKS if kind == "diff"]
    assert edits
    for edit in edits:
        header, *lines = edit.splitlines()
        source = (TOP / header.removeprefix("--- ")).read_text()
        assert "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "-")) in source, edit


def python_blocks(page):
    return [block for kind, block in page.blocks if kind == "python"]


@pytest.mark.parametrize("block", [b for name in PAGES if name != "recording.md" for b in python_blocks(PAGES[name])])
def test_python_blocks_run(block, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where some of them write their pictures
    shorter = block.replace("range(61)", "range(2)")
    shorter = shorter.replace("(0.4, 0.5, 0.8, 1.0, 1.3)", "(0.5, 1.3)")  # five periods take long
    shorter = shorter.replace("2, 100), torch.full((100,)", "2, 3), torch.full((3,)").replace(
        "(400, 100, 2)", "(400, 3, 2)"
    )
    shorter = shorter.replace("range(100):  # Newton", "range(3):  # Newton").replace(
        "range(-200, 1250)", "range(-2, 3)"
    )
    exec(compile(shorter, "page.py", "exec"), {"__name__": "page"})
    torch.set_default_dtype(torch.float32)  # one block changes it
    assert capsys.readouterr().out


@pytest.mark.parametrize("told", [True, False])
def test_a_recording_goes_through_its_page_with_its_current_or_without(told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(TOP / "docs" / "axon.py"))["main"](num_sweeps=2, duration=500)
    page = PAGES["recording.md"]
    code, files = "".join(python_blocks(page)), '[f"outputs/axon_{k}.csv" for k in range(5)]'
    edits = {"--num_epochs 40": "--num_epochs 2", "length=1250": "length=300"}
    edits[files] = '["outputs/axon_0.csv", "outputs/axon_1.csv"]' if told else '["outputs/steady.csv"]'
    if not told:  # one long recording, and what the page says of it
        instead = [line for line in page.code if line.startswith(("end =", "train_V,", "train_I ="))]
        assert len(instead) == 3
        edits[re.search("^train_V, .*", code, re.M)[0]] = "; ".join(instead)
    for old, new in edits.items():
        assert old in code
        code = code.replace(old, new)
    scope = {"__name__": "page"}
    exec(compile(code, "recording.md", "exec"), scope)
    assert load_checkpoint("outputs/cell.pth").info == scope["info"]
    assert Path("outputs/look.png").stat().st_size > 0 < Path("outputs/recording.png").stat().st_size
    assert "next voltage, GRU: " in capsys.readouterr().out


def test_the_first_exercise_and_its_answer(tmp_path):
    """The file that a student writes: as it is given, with the answer's lines, and with the mistakes of the table."""
    skeleton, answer = [block for kind, block in BLOCKS if kind == "py"]
    blanks = re.search(r"    R = \.\.\.\n.*    H_new = \.\.\.\n", skeleton, re.S)[0]
    right = skeleton.replace(blanks, textwrap.indent(textwrap.dedent(answer), "    "))

    def said(code):
        scope = {}
        exec(compile(code, "my_step.py", "exec"), scope)
        return check(scope["single_step"])

    assert said(skeleton) == "step 0: R is still to be written"
    assert said(right) == "all four agree, and so do the gradients"
    for old, new in (
        ("Z * H + (1 - Z) * H_tilde", "(1 - Z) * H + Z * H_tilde"),
        ('(R * H) @ W["W_hh"]', 'R * (H @ W["W_hh"])'),
        (' + W["b_r"]', ""),
        ("Z * H ", "Z * H.detach() "),
    ):
        mistake = right.replace(old, new)
        assert mistake != right
        assert any(f"| `{said(mistake)}` |" in page.text for page in PAGES.values())
    assert said(right.replace("return Z", "return Z[:1]")) == "step 0: Z has shape (1, 5): expected (3, 5)"
    (tmp_path / "my_step.py").write_text(skeleton)
    command = [sys.executable, str(TOP / "tests" / "check_step.py"), "my_step.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (checked.stdout, checked.stderr) == ("step 0: R is still to be written\n", "")


@pytest.mark.parametrize("name", ["README.md", "controls.md"])
def test_figures_of_the_shipped_network(name):
    """The row of the trained network, whose first number in each cell is that of the shipped one, seed 0."""
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGES[name].text.splitlines()]
    row = next(k for k, cells in enumerate(tables) if cells[:1] == ["trained"])
    header = next(cells for cells in reversed(tables[:row]) if "period error" in cells)
    stated = {
        title: [float(value) for value in cell.rstrip(" %").split(", ")]
        for title, cell in zip(header[1:], tables[row][1:])
    }
    args = task.parser.parse_args([])
    dt = args.duration / args.num_samples
    num_samples = args.warm_up + round(args.test_duration / dt)
    test_set = FitzhughNagumo(args.num_test, num_samples, duration=num_samples * dt, seed=2)  # as the script makes it
    model = load_checkpoint(task.SHIPPED)
    metrics = task.judge(test_set, task.run_freely(model, test_set.data_x, args.warm_up)[0], args.warm_up)
    names = {"period error": "period_error", "amplitude error": "amplitude_error"}
    names |= {"periods in phase, median": "periods_in_phase", "periods in phase, worst": "periods_in_phase_min"}
    assert len(stated.keys() & names.keys()) >= 2
    for title in stated.keys() & names.keys():
        first, *_ = values = stated[title]
        digit = 10.0 ** math.floor(math.log10(first)) if first < 1 else 0.1
        assert metrics[names[title]] == pytest.approx(first, abs=digit / 2 + max(values) - min(values)), title
