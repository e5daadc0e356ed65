"""What the README names is there: paths, pictures, flags, functions, commands, and the shipped network's figures."""

import importlib
import math
import re
import runpy
import shlex
import textwrap
from pathlib import Path

import pytest
import torch
from check_step import check
from running import SCRIPTS, TOP, Forked

import gru_autoregression as task
from datasets import FitzhughNagumo
from models import load_checkpoint

README = (TOP / "README.md").read_text()
MODULES = ("models", "datasets", "plumbing", *SCRIPTS)

BLOCKS = [
    (kind, textwrap.dedent(block)) for kind, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```$", README, re.M | re.S)
]
PROSE = re.sub(r"^ *```.*?^ *```$", "", README, flags=re.M | re.S)
CODE = re.findall(r"`([^`\n]+)`", PROSE)  # what stands in backticks
LINKS = re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", PROSE)  # (text, target), pictures too
PICTURES = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PROSE)


def commands():
    """Every command of the README that runs one of our scripts, as (script, flags)."""
    lines = [code for code in CODE if "python " in code]
    for kind, block in BLOCKS:
        if kind in ("shell", "bash"):
            lines += block.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        for part in re.split(r"&&|\|", line.split("#")[0]):
            if match := re.search(r"\bpython (\S+\.py)(.*)", part):
                flags = re.sub(r"\$\{?\w+\}?", "0", match[2])  # a variable of the shell
                found.append((match[1], flags.strip()))
    return sorted(set(found))


def option_strings(name):
    return {option for action in importlib.import_module(name).parser._actions for option in action.option_strings}


def test_the_two_commands_of_the_start():
    lines = [
        line for line in README.splitlines() if line.strip().startswith("pip install -r requirements.txt && python")
    ]
    assert lines == [
        "pip install -r requirements.txt && python gru_regression_scratch.py",
        "pip install -r requirements.txt && python -m pytest",
    ]
    assert all(any(line in block.splitlines() for _, block in BLOCKS) for line in lines)


def test_form():
    assert not re.search(r"@\w*@", README)  # a figure that was never filled in
    assert max(len(line) for line in README.splitlines() if not line.startswith("|")) <= 120
    assert README.count("```") == 2 * len(BLOCKS)
    assert README.count("<details><summary>") == README.count("</details>")
    assert README.count("<summary>Answer</summary>") == README.count("\n### ")


def test_paths_exist():
    targets = {target.split("#")[0] for _, target in LINKS if not target.startswith(("http://", "https://", "#"))}
    targets |= {
        code for code in CODE if re.fullmatch(r"(tests|thumbs|checkpoints|\.ci)/[\w./-]+|\w+\.(py|txt|toml)", code)
    }
    targets |= {script for script, _ in commands()}
    assert len(targets) > 15
    assert not [target for target in targets if not (TOP / target).exists()]


def test_pictures():
    assert len(PICTURES) >= 10
    for picture in PICTURES:
        assert picture.startswith("thumbs/")
        assert 0 < (TOP / picture).stat().st_size < 1e6, picture
    shown = {Path(picture).name for picture in PICTURES}
    assert shown == {path.name for path in (TOP / "thumbs").iterdir() if path.suffix in (".svg", ".png", ".gif")}


def test_anchors_resolve():
    headings = re.findall(r"^#+ (.*)$", PROSE, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    anchors = [target[1:] for _, target in LINKS if target.startswith("#")]
    assert len(anchors) > 10
    assert not [anchor for anchor in anchors if anchor not in slugs]


def test_named_functions_exist():
    named = [(target.removesuffix(".py"), text.strip("`")) for text, target in LINKS if re.fullmatch(r"`[\w.]+`", text)]
    named = [(module, name) for module, name in named if module in MODULES]
    classes = {"GRU": "models", "Recurrence": "models", "FitzhughNagumo": "datasets"}
    classes |= {"Traces": "datasets", "FitzhughNagumoClassification": "datasets", "LiveWindow": "plumbing"}
    for code in CODE:
        if match := re.match(rf"({'|'.join(MODULES)})\.(?!py\b|pth\b)([\w.]+)", code):
            named.append(match.groups())
        elif match := re.match(rf"({'|'.join(classes)})\.([\w.]+)", code):
            named.append((classes[match[1]], f"{match[1]}.{match[2]}"))
    assert len(named) > 20
    for module, name in named:
        thing = importlib.import_module(module)
        for part in name.split("."):
            assert hasattr(thing, part), f"{module}: {name}"
            thing = getattr(thing, part)


@pytest.mark.parametrize(("script", "flags"), commands())
def test_commands_parse(script, flags, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # --device cuda is for those who have it
    if script == "tests/check_step.py":
        assert flags == "my_step.py"
        return
    if script == "tests/benchmark.py":
        parser = runpy.run_path(str(TOP / script))["parser"]
    else:
        parser = importlib.import_module(script.removesuffix(".py")).parser
    parser.parse_args(shlex.split(flags))


def test_every_script_and_its_pictures_have_a_command():
    for name in SCRIPTS:
        assert (f"{name}.py", "--out_dir thumbs") in commands()


def test_flags_exist():
    known = set.union(*map(option_strings, SCRIPTS))
    flags = {flag for code in CODE if "python" not in code for flag in re.findall(r"--[\w-]+", code)}
    # one is misspelt on purpose, in the table of symptoms, and one is pip's
    assert not flags - known - {"--num_epoch", "--index-url"}


def test_edits_fit_the_code():
    """The exercises' edits: what they show as the code of now stands in the file, in one piece."""
    edits = [block for kind, block in BLOCKS if kind == "diff"]
    assert edits
    for edit in edits:
        header, *lines = edit.splitlines()
        source = (TOP / header.removeprefix("--- ")).read_text()
        assert "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "-")) in source, edit


def test_python_blocks_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where one of them writes its picture
    blocks = [block for kind, block in BLOCKS if kind == "python"]
    assert blocks
    for block in blocks:
        shorter = block.replace("num_steps = 4146", "num_steps = 646")  # as the block says
        exec(compile(shorter, "README.md", "exec"), {"__name__": "readme"})
        assert capsys.readouterr().out


def test_the_first_exercise_and_its_answer():
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
        assert f"| `{said(mistake)}` |" in README
    assert said(right.replace("return Z", "return Z[:1]")) == "step 0: Z has shape (1, 5): expected (3, 5)"


def test_the_check_of_the_first_exercise_from_the_shell(tmp_path):
    command = [str(TOP / "tests" / "check_step.py")]
    refused = Forked(command)
    assert refused.communicate(timeout=60)[1].startswith("usage: ")
    assert refused.returncode == 1
    skeleton = next(block for kind, block in BLOCKS if kind == "py")
    (tmp_path / "my_step.py").write_text(skeleton)
    checked = Forked([*command, str(tmp_path / "my_step.py")])
    assert checked.communicate(timeout=60) == ("step 0: R is still to be written\n", "")
    assert checked.returncode == 0


def test_figures_of_the_shipped_network():
    """The first line in each cell of the README's row, measured anew; its three lines say how far seeds are apart."""
    (row,) = re.findall(r"^\| trained \|(.*)\|$", README, re.M)
    columns = [[float(value) for value in cell.split("<br>")] for cell in row.split("|")]
    args = task.parser.parse_args([])
    dt = args.duration / args.num_samples
    num_samples = args.warm_up + round(args.test_duration / dt)
    test_set = FitzhughNagumo(args.num_test, num_samples, duration=num_samples * dt, seed=2)  # as the script makes it
    model = load_checkpoint(task.SHIPPED)
    metrics = task.judge(test_set, task.run_freely(model, test_set.data_x, args.warm_up)[0], args.warm_up)
    names = ("period_error", "amplitude_error", "periods_in_phase", "periods_in_phase_min")
    for name, stated in zip(names, columns):
        rounding = 0.5 * 10.0 ** math.floor(math.log10(stated[0])) if stated[0] < 1 else 0.05
        assert len(stated) == 3
        assert metrics[name] == pytest.approx(stated[0], abs=rounding + max(stated) - min(stated)), name
