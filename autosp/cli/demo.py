"""`autosp demo`: examples/train.py in several processes on this machine, then the unsharded run of the same steps."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import click

from autosp.parity.gap import Bar, measure_gap
from autosp.parity.ranks import Ranks, settle, start

BAR = Bar(loss=1e-5, parameter=1e-4, floor=1e-6)
SILENCE = 900.0  # seconds without a line from rank 0 after which the ranks are taken to hang
STEP = re.compile(r"step (\d+)/(\d+)  loss (\S+)  (\S+) tokens/s$")
NOISE = re.compile(r"\[\d{4}-|DeepSpeed .* built successfully")  # log lines of libraries

Show = Callable[[str], None]


@attrs.frozen
class Settings:
    """What the user chose. The names are those of the flags of examples/train.py."""

    sp: int
    dp: int
    seq: int
    zero: int
    steps: int
    backend: str
    model: str
    text: str | None

    def argv(self) -> list[str]:
        """The settings as flags."""
        pairs = [(f"--{name}", value) for name, value in attrs.asdict(self).items() if value is not None]
        return [str(word) for pair in pairs for word in pair]

    def __str__(self) -> str:
        where = f"{self.sp * self.dp} processes (dp {self.dp} x sp {self.sp}) on gloo"
        return f"{self.model}, windows of {self.seq} bytes, {where}, ZeRO-{self.zero}, {self.backend}"


@click.command()
@click.option("--sp", default=2, show_default=True, type=click.IntRange(1), help="Ranks that share a sequence.")
@click.option("--dp", default=1, show_default=True, type=click.IntRange(1), help="Groups, each with its own batch.")
@click.option("--seq", default=512, show_default=True, type=click.IntRange(2), help="Bytes in a window.")
@click.option("--zero", default=1, show_default=True, type=int, help="ZeRO stage.")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(1))
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "inductor", "aot_eager", "eager"]),
    help="auto: inductor where there is a C++ compiler, else aot_eager.",
)
@click.option("--model", default="llama", show_default=True, help="A model type of transformers.")
@click.option("--text", type=click.Path(exists=True, dir_okay=False), help="A file; by default Python's own prose.")
@click.option("--check/--no-check", default=True, show_default=True, help="Compare with the unsharded run.")
def demo(check: bool, backend: str, **flags) -> None:
    """Train a small model in several processes, and compare with the unsharded run."""
    settings = Settings(backend=_backend(backend), **flags)
    _enough_text(settings)
    os.environ["DS_ACCELERATOR"] = "cpu"
    click.echo(str(settings))
    with tempfile.TemporaryDirectory(prefix="autosp-demo-") as name:
        folder = Path(name)
        losses = _train(settings, folder)
        if check and not _compare(settings, losses, folder / "parameters.pt"):
            sys.exit(1)


def example(name: str) -> Path:
    """A file of examples/: inside the package (a wheel) or beside it (a checkout)."""
    package = Path(__file__).resolve().parents[1]
    return next(path for root in (package, package.parent) if (path := root / "examples" / name).exists())


def _backend(choice: str) -> str:
    if choice != "auto":
        return choice
    return "inductor" if os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") else "aot_eager"


def _enough_text(settings: Settings) -> None:
    if settings.text and (size := os.path.getsize(settings.text)) < settings.seq:
        raise click.UsageError(f"{settings.text} holds {size} bytes, less than one window of {settings.seq}")


def _train(settings: Settings, folder: Path) -> list[float]:
    """Runs the ranks, shows what rank 0 says, and gives its losses."""
    argv = [sys.executable, str(example("train.py")), *settings.argv(), "--save", str(folder / "parameters.pt")]
    losses = []
    with start(settings.sp * settings.dp, argv, folder) as ranks, _display(settings.steps) as show:
        for line in _lines(ranks):
            show(line)
            if step := STEP.match(line):
                losses.append(float(step[3]))
    return losses


def _lines(ranks: Ranks) -> Iterator[str]:
    """Rank 0's output as it comes. Ends the program, naming the ranks, if one fails or all are silent."""
    last = time.monotonic()
    with open(ranks.out(0)) as out:
        part = ""
        while True:
            done = ranks.done()
            part += (text := out.read())
            *whole, part = part.split("\n")
            yield from (line for line in whole if not NOISE.match(line))
            last = time.monotonic() if text else last
            if ranks.failed() or time.monotonic() - last > SILENCE:
                _give_up(ranks)
            if done:
                return
            time.sleep(0.05)


def _give_up(ranks: Ranks) -> None:
    settle(ranks, 2.0)
    culprits = ranks.failed() or [rank for rank, code in enumerate(ranks.codes()) if code is None]
    raise click.ClickException("\n" + ranks.describe(culprits))


@contextlib.contextmanager
def _display(steps: int, title: str = "training") -> Iterator[Show]:
    """A progress bar on a terminal; elsewhere every line as it is."""
    if not sys.stdout.isatty():
        yield lambda line: print(line, flush=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text = "loss {task.fields[loss]}  {task.fields[speed]}"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(text))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(title, total=steps, loss="-", speed="")

        def show(line: str) -> None:
            if step := STEP.match(line):
                progress.update(task, completed=int(step[1]), loss=step[3], speed=f"{step[4]} tokens/s")
            else:
                progress.console.print(line, markup=False, highlight=False)

        yield show


def _compare(settings: Settings, losses: list[float], saved: Path) -> bool:
    """Runs the same steps unsharded, says how far apart the two are, and whether that is within the bar."""
    import torch

    expected, parameters = _unsharded(settings)
    gap = measure_gap(expected, losses, parameters, torch.load(saved, map_location="cpu"), BAR)
    click.echo(f"largest difference from the unsharded run of the same {settings.steps} steps (Adam, eps 1e-5, fp32):")
    click.echo(str(gap))
    click.echo("the sharded run equals the unsharded one" if gap.within else "MISS: the two runs differ")
    return gap.within


def _unsharded(settings: Settings) -> tuple[list[float], dict]:
    """Plain eager PyTorch in this process: the losses of dp rank 0, and the parameters at the end."""
    import torch

    train = _load_example()
    args = train.arguments(settings.argv())
    torch.set_num_threads(1)
    model, windows, losses = train.build_model(args), train.read_windows(args), []
    optimizer = train.build_optimizer(model)
    with _display(args.steps, "unsharded") as show:
        for step in range(args.steps):
            begin = time.perf_counter()
            own = [_backward(model, train.batch_of(windows, args, step, rank), args.dp) for rank in range(args.dp)]
            optimizer.step()
            optimizer.zero_grad()
            losses.append(own[0])
            speed = args.dp * args.seq / (time.perf_counter() - begin)
            show(f"step {step + 1}/{args.steps}  loss {own[0]:.6f}  {speed:.0f} tokens/s")
    return losses, {name: parameter.detach() for name, parameter in model.named_parameters()}


def _backward(model, batch: dict, dp: int) -> float:
    loss = model(**batch).loss
    (loss / dp).backward()
    return loss.item()


def _load_example():
    """examples/train.py as a module, whose model, text and optimizer the unsharded run takes."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("autosp_example_train", example("train.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
