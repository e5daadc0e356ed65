"""What a student's or a cluster's day does to the scripts: nothing is lost, and nothing fails in silence."""

import io
import json
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from running import SCRIPTS, TINY, TOP, in_a_fresh_process, run_forked, run_script, start_forked, start_script

from models import GRU, load_checkpoint, replacing, save_checkpoint


def wait_for(path, process, seconds=60):
    """Wait until the running process has written a file."""
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    if not path.exists():
        process.kill()
        raise AssertionError(process.communicate())


# ---- a run that is stopped ----


@pytest.mark.parametrize("stem", SCRIPTS)
def test_ctrl_c_evaluates_and_saves_the_best_model_so_far(stem, tmp_path):
    process = start_forked(stem, "--num_epochs 100000 --no-train_visualization", tmp_path)
    wait_for(tmp_path / f"{stem}_partial.pth", process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == ""
    assert load_checkpoint(tmp_path / f"{stem}.pth").num_hiddens == 4
    assert json.loads((tmp_path / f"{stem}_metrics.json").read_text())["interrupted"] is True
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.pth", f"{stem}_metrics.json"}
    assert f"wrote {tmp_path / stem}.pth" in stdout


@pytest.mark.parametrize("stem", SCRIPTS)
def test_ctrl_c_in_the_first_epoch_leaves_an_older_model_alone(stem, tmp_path):
    older = {tmp_path / f"{stem}.pth": b"model", tmp_path / f"{stem}_metrics.json": b"metrics"}
    for path, content in older.items():
        path.write_bytes(content)
    process = start_forked(stem, "--num_train 2000 --batch_size 1 --no-train_visualization", tmp_path)
    assert process.stdout.readline().startswith("while training runs")
    time.sleep(0.5)  # an epoch takes longer
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == older


def test_a_pipe_that_nobody_reads_any_more(tmp_path):
    process = start_script("gru_regression_scratch", "--num_epochs 200 --no-train_visualization", tmp_path)
    process.stdout.readline()
    process.stdout.close()  # as head -1 does
    process.stdout = None
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == ""


@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.0])
def test_ctrl_c_while_the_imports_run(seconds, tmp_path):
    process = start_script("gru_classification_scratch", "", tmp_path / "out")
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "")


@pytest.mark.parametrize("stem", SCRIPTS)
def test_divergence_in_the_last_step_leaves_an_older_model_alone(stem, tmp_path):
    older = tmp_path / f"{stem}.pth"
    older.write_bytes(b"model")
    flags = "--num_epochs 1 --init_lr 1e9 --no-train_visualization"
    if stem == "gru_autoregression":
        flags = flags.replace("--num_epochs 1", "--num_epochs 0 --window 128")
    elif stem == "gru_regression_scratch":
        flags += " --window 100"
    result = run_forked(stem, flags, tmp_path)
    assert result.returncode == 1
    assert "diverged; try a smaller --init_lr" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {older: b"model"}


def test_a_training_that_ends_far_from_the_data_is_no_result(tmp_path):
    flags = "--num_epochs 2 --num_train 8 --num_samples 40 --window 40 --duration 100 --batch_size 8 --num_test 4"
    flags += " --n_hidden 32 --init_lr 3 --no-train_visualization"
    result = run_forked("gru_regression_scratch", flags, tmp_path)
    assert result.returncode == 1
    assert "diverged" in result.stderr
    assert not list(tmp_path.glob("*.json"))


def test_what_is_not_a_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not a regular file"), replacing(tmp_path / "pipe"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert not (tmp_path / "pipe").is_file()


def test_two_writers_of_one_file_never_share_a_temporary_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in containers
    with replacing(tmp_path / "model.pth") as one, replacing(tmp_path / "model.pth") as other:
        assert one != other
        assert one.exists()
        assert other.exists()


@pytest.mark.parametrize("flags", ["--help", "--no-train_visualization"])
def test_stdout_that_is_closed(flags, tmp_path):
    stem = "gru_regression_scratch"
    result = run_script(stem, flags, tmp_path, stdout=None, capture_output=False, stderr=subprocess.PIPE, text=True,
                        preexec_fn=lambda: os.close(1))  # fmt: skip
    assert result.returncode == 0
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("backend", "status"), [("nonsense", 2), ("webagg", 0)])
def test_a_backend_that_is_not_there(backend, status, tmp_path):
    result = run_script("gru_regression_scratch", "", tmp_path, env=os.environ | {"MPLBACKEND": backend})
    assert result.returncode == status
    assert result.stderr.count("\n") == (1 if status else 0)


def save_for_ever(path):
    torch.set_num_threads(1)
    model = GRU(1, 300, 1)
    while True:
        save_checkpoint(path, model)


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_killed_while_saving_leaves_a_whole_file(kill, tmp_path):
    rng, loaded = random.Random(0), 0
    for k in range(20):
        folder = tmp_path / str(k)
        folder.mkdir()
        child = os.fork()  # a fresh interpreter would spend its life importing torch
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            save_for_ever(folder / "model.pth")
        time.sleep(rng.uniform(0, 0.1))
        os.kill(child, kill)
        os.waitpid(child, 0)
        if (folder / "model.pth").exists():
            assert load_checkpoint(folder / "model.pth").num_hiddens == 300
            loaded += 1
        assert len([path for path in folder.iterdir() if path.name != "model.pth"]) <= 1
    assert loaded > 5  # saves had begun


# ---- a file that cannot be written ----


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    save_checkpoint(path, GRU(1, 4, 1))
    old = path.read_bytes()

    def full_disk(self, data):
        with open(self, "wb") as file:
            file.write(bytes(data)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"No space left on device.*/model\.pth"):
        save_checkpoint(path, GRU(1, 5, 1))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs the right to mount a small disk")
def test_a_disk_that_fills_up(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        path = tmp_path / "model.pth"
        save_checkpoint(path, GRU(1, 4, 1))
        with pytest.raises(OSError, match=r"No space left on device.*/model\.pth"):
            save_checkpoint(path, GRU(1, 200, 1))
        assert load_checkpoint(path).num_hiddens == 4
        assert list(tmp_path.iterdir()) == [path]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_path_that_is_a_folder(tmp_path):
    (tmp_path / "model.pth" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match=r"model\.pth"):
        save_checkpoint(tmp_path / "model.pth", GRU(1, 4, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_a_script_that_cannot_write_says_so_in_one_line(tmp_path):
    stem = "gru_regression_scratch"
    (tmp_path / f"{stem}_partial.pth").mkdir()
    result = run_forked(stem, "--no-train_visualization", tmp_path)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"{stem}_partial.pth" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [f"{stem}_partial.pth"]


def test_replacing_removes_what_an_error_left(tmp_path):
    def write_and_fail():
        with replacing(tmp_path / "figure.png") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


# ---- a checkpoint that is not one ----


def good_bytes():
    buffer = io.BytesIO()
    torch.manual_seed(0)
    model = GRU(1, 5, 1, residual=True)
    torch.save({"config": model.config(), "info": {"dt": 0.4}, "state_dict": model.state_dict()}, buffer)
    return buffer.getvalue()


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def altered(**changes):
    content = torch.load(io.BytesIO(good_bytes()), weights_only=True)
    content["state_dict"] |= changes
    return saved(content)


class Malicious:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["PYTEST_MALICE"]) / "executed"),)


def damaged_files():
    good = good_bytes()
    content = torch.load(io.BytesIO(good), weights_only=True)
    renamed = {name.replace("W_hz", "W_zz"): weight for name, weight in content["state_dict"].items()}
    return {
        "empty": b"",
        "truncated by half": good[: len(good) // 2],
        "truncated by a byte": good[:-1],
        "random": random.Random(0).randbytes(3000),
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 17026\n",
        "nan weights": altered(W_hh=torch.full((5, 5), torch.nan)),
        "infinite weights": altered(b_h=torch.full((5,), torch.inf)),
        "wrong shape": altered(W_hh=torch.zeros(5, 6)),
        "wrong type": altered(W_hh="five"),
        "wrong keys": saved(content | {"state_dict": renamed}),
        "bare, wrong keys": saved(renamed),
        "bare, a missing key": saved({k: v for k, v in content["state_dict"].items() if k != "b_r"}),
        "no config": saved({"state_dict": content["state_dict"]}),
        "wrong config": saved(content | {"config": {"num_inputs": -1}}),
        "config of another size": saved(content | {"config": content["config"] | {"num_hiddens": 6}}),
        "info that is not a dict": saved(content | {"info": 3}),
        "a tensor": saved(torch.zeros(3)),
        "a list": saved([1, 2]),
        "another network": saved(torch.nn.Linear(2, 3).state_dict()),
        "a pickle": pickle.dumps({"W_xz": 1}),
        "a zip of something": zip_of_text(),
    }


def zip_of_text():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", damaged_files())
def test_a_damaged_checkpoint_is_refused(kind, tmp_path):
    path, content = tmp_path / "model.pth", damaged_files()[kind]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^checkpoint .*model\.pth: \S") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_a_missing_checkpoint_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="No such file"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="not a regular file"):
        load_checkpoint(tmp_path)


def test_a_device_that_is_not_there_is_no_fault_of_the_file(tmp_path):
    save_checkpoint(tmp_path / "model.pth", GRU(1, 4, 1))
    with pytest.raises(RuntimeError, match="nonsense"):
        load_checkpoint(tmp_path / "model.pth", "nonsense")


def test_only_a_regular_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="not a regular file"):
            load_checkpoint(path)


@pytest.mark.parametrize("dt", [None, "0.4", 10**400])
def test_a_dt_that_is_none_is_only_noted(dt, tmp_path):
    save_checkpoint(tmp_path / "model.pth", GRU(1, 4, 1, residual=True), dt=dt)
    flags = f"--num_test 2 --test_duration 300 --no-train_visualization --checkpoint {tmp_path / 'model.pth'}"
    result = run_forked("gru_autoregression", flags, tmp_path, tiny=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "note: the network was trained at dt = " in result.stdout


def test_a_dt_that_is_a_list_is_refused_in_one_line(tmp_path):
    """Such a file can no longer be saved, but an older one may be there."""
    model, path = GRU(1, 4, 1, residual=True), tmp_path / "model.pth"
    torch.save({"config": model.config(), "info": {"dt": [0.4]}, "state_dict": model.state_dict()}, path)
    with pytest.raises(ValueError, match=r"model\.pth: has info that is neither a number nor a string"):
        load_checkpoint(path)


def test_a_flipped_byte_is_refused_or_harmless(tmp_path):
    good, path, refused = good_bytes(), tmp_path / "model.pth", 0
    expected = torch.load(io.BytesIO(good), weights_only=True)["state_dict"]
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x40]) + good[position + 1 :])
        try:
            model = load_checkpoint(path)
        except ValueError:
            refused += 1
        else:  # a byte that carries nothing, such as padding between the parts
            assert all(torch.equal(expected[name], weight) for name, weight in model.state_dict().items())
    assert refused > 100


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_malicious_pickle_is_never_executed(wrapped, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_MALICE", str(tmp_path))
    path = tmp_path / "model.pth"
    path.write_bytes(saved({"state_dict": Malicious()}) if wrapped else pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match=r"model\.pth"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["missing", "nan weights"])
def test_the_script_refuses_a_checkpoint_in_one_line(kind, tmp_path):
    path = tmp_path / "model.pth"
    if kind != "missing":
        path.write_bytes(damaged_files()[kind])
    result = run_forked("gru_autoregression", f"--checkpoint {path}", tmp_path / "out", tiny=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert str(path) in result.stderr
    assert "--retrain" in result.stderr
    assert not (tmp_path / "out").exists()


# ---- displays ----


@pytest.fixture
def display():
    """A display of its own, from Xvfb, where the machine has it and Python can draw on it."""
    if not shutil.which("Xvfb"):
        pytest.skip("needs Xvfb")
    pytest.importorskip("tkinter")  # some builds of Python come without
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1000x800x24"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        yield f":{server.stdout.readline().strip()}", server
        server.kill()


# what the button of the window's frame does, pressed after the first redraw
CLOSE_THE_WINDOW = """
import sys
from plumbing import LiveWindow
redraw = LiveWindow.redraw

def redraw_and_close(self, *args):
    was_drawn = self.spent
    redraw(self, *args)
    if self.has_window and self.spent and not was_drawn:
        window = self.figure.canvas.manager.window
        window.tk.call(window.protocol("WM_DELETE_WINDOW"))
        print("closed", flush=True)

LiveWindow.redraw = redraw_and_close
import gru_regression_scratch
gru_regression_scratch.main(sys.argv[1:])
"""


def test_a_window_closed_in_the_middle_of_training(display, tmp_path):
    flags = [*TINY["gru_regression_scratch"].split(), "--num_epochs", "20", "--out_dir", str(tmp_path)]
    environment = os.environ | {"DISPLAY": display[0], "MPLBACKEND": "TkAgg"}
    command = [sys.executable, "-c", CLOSE_THE_WINDOW, *flags]
    options = {"capture_output": True, "text": True, "check": False, "timeout": 120}
    result = subprocess.run(command, cwd=TOP, env=environment, **options)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.splitlines().count("closed") == 1
    assert "epoch  20" in result.stdout
    assert (tmp_path / "fitzhugh_nagumo_regression.gif").exists()


def test_an_x_server_that_goes_away_leaves_a_saved_model(display, tmp_path):
    stem = "gru_regression_scratch"
    environment = os.environ | {"DISPLAY": display[0], "MPLBACKEND": "TkAgg"}
    process = start_script(stem, "--num_epochs 100000", tmp_path, env=environment)
    wait_for(tmp_path / f"{stem}_partial.pth", process)
    time.sleep(1)
    display[1].kill()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "Traceback" not in stderr
    assert "X server" in stderr  # Xlib itself says this, and ends the process
    assert f"its best model is in {tmp_path}/{stem}_partial.pth" in stdout
    assert load_checkpoint(tmp_path / f"{stem}_partial.pth").num_hiddens == 4


# ---- where and how it is run ----


def test_from_another_folder_with_a_read_only_checkout(tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(TOP, checkout, ignore=shutil.ignore_patterns(".git", "outputs", "__pycache__", ".*cache"))
    for path in [checkout, *checkout.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = sorted(checkout.rglob("*"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [
        sys.executable,
        "-B",
        str(checkout / "gru_regression_scratch.py"),
        *TINY["gru_regression_scratch"].split(),
    ]
    result = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False, timeout=120)
    for path in [checkout, *checkout.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)
    assert result.returncode == 0, result.stderr
    assert sorted(checkout.rglob("*")) == before
    assert (elsewhere / "outputs" / "gru_regression_scratch_metrics.json").exists()


def test_two_runs_into_one_folder(tmp_path):
    stem = "gru_regression_scratch"
    processes = [start_forked(stem, f"--seed {seed}", tmp_path) for seed in (0, 1)]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
    assert json.loads((tmp_path / f"{stem}_metrics.json").read_text())["test_mse"] > 0
    assert load_checkpoint(tmp_path / f"{stem}.pth").num_hiddens == 4
    from PIL import Image

    with Image.open(tmp_path / "fitzhugh_nagumo_regression.gif") as gif:
        gif.seek(gif.n_frames - 1)
        gif.load()


def memory_that_training_adds():
    """By how many KiB the peak of this process grows between 10 and 70 train steps."""
    torch.manual_seed(0)
    model, x = GRU(1, 32, 1, residual=True), torch.randn(200, 16, 1)

    def train(num_steps):
        for _ in range(num_steps):
            model(x, future=50)[1].square().mean().backward()
            model.zero_grad()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = train(10)
    return train(60) - before


def test_memory_stays_flat_over_many_train_steps():
    assert in_a_fresh_process(memory_that_training_adds) < 10_000  # the states alone of 60 steps are 30,000
