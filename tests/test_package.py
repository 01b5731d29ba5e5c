"""The package as its users get it: quick to import, whole in a wheel, its text files found either way."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import autosp

ROOT = Path(__file__).parents[1]
PUBLIC = "parse load P annotate constrain compile backend plan".split()
DATA = {"grammar": ("grammar", "*.lark"), "specs": ("specs", "*/*.*"), "examples": ("examples", "*.py")}


def python(code: str, executable: str = sys.executable, cwd: Path = ROOT) -> str:
    return _run(executable, code, cwd=cwd).strip()


def test_importing_autosp_costs_nothing_beyond_torch():
    code = "import torch, time; t = time.perf_counter(); import autosp; print(time.perf_counter() - t)"
    assert float(python(code)) < 0.5


def test_importing_autosp_imports_neither_deepspeed_nor_transformers():
    names = ", ".join(f"autosp.{name}" for name in PUBLIC)
    code = f"import sys, autosp; {names}; print([m for m in ('deepspeed', 'transformers') if m in sys.modules])"
    assert python(code) == "[]"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str):
    assert callable(getattr(autosp, name)) and name in dir(autosp)


def test_editors_and_type_checkers_see_what_is_there():
    """Statically: the imports under TYPE_CHECKING and a list `__all__` as text. Both are what a program finds."""
    body = ast.parse((ROOT / "autosp" / "__init__.py").read_text()).body
    (guarded,) = [node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {a.asname or a.name: node.module for node in guarded.body for a in node.names}
    (listed,) = [ast.literal_eval(n.value) for n in body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"]
    assert sorted(homes) == sorted(listed) == sorted(autosp.__all__) == sorted(set(autosp.__all__))
    assert set(listed) <= set(dir(autosp))
    for name, home in homes.items():
        there = getattr(autosp, name)
        if home is None:
            assert there is sys.modules[f"autosp.{name}"]
        else:
            assert there is getattr(sys.modules[f"autosp.{home}"], name)


def test_the_version_that_a_program_reads_is_the_package_s():
    """Code that runs from a checkout has no installed package to ask."""
    assert autosp.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_error_is_there():
    kinds = [e for _, e in inspect.getmembers(autosp.errors, inspect.isclass) if issubclass(e, Exception)]
    assert len(kinds) == 10 and all(getattr(autosp, kind.__name__) is kind for kind in kinds)
    with pytest.raises(autosp.SpecError):
        autosp.parse("mesh [sp]\ninput x [seq@ps]\n")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'autosp' has no attribute 'complie'"):
        _ = autosp.complie


def test_prepare_autosp_inputs_is_a_drop_in():
    from autosp.deepspeed import prepare_autosp_inputs

    code = prepare_autosp_inputs.__code__
    assert code.co_varnames[: code.co_argcount] == ("input_id", "label_id", "position_id", "attention_mask", "seq_dim")


def test_the_command_line_starts_without_torch():
    code = "import sys; from autosp.cli import main; main.list_commands(None); print('torch' in sys.modules)"
    assert python(code) == "False"


def test_the_list_of_packages_is_whole():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "autosp").rglob("*.py")}
    assert listed == folders | {"autosp.grammar", "autosp.specs", "autosp.examples"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout gets no build folder."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = ["autosp", "grammar", "specs", "examples", "pyproject.toml", "README.md", "LICENSE"]
    subprocess.run(["cp", "-r", *tracked, str(copy)], cwd=ROOT, check=True)
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, ".", "-w", str(out)], cwd=copy, check=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_text_file(wheel: Path):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert "autosp/py.typed" in inside, "type checkers pass over a package without it"
    for name, (folder, pattern) in DATA.items():
        files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).glob(pattern)]
        assert files and {f"autosp/{name}/{path}" for path in files} <= inside


def test_the_text_files_are_found_from_the_wheel_and_from_a_checkout(wheel: Path, tmp_path: Path):
    code = (
        "from autosp import resources; from autosp.cli.demo import example; "
        "print([len(resources.listing(kind)) for kind in resources.FOLDERS], example('train.py').exists())"
    )
    assert python(code, _install(wheel, tmp_path), cwd=tmp_path) == python(code)


def test_the_installed_wheel_checks_a_spec_and_verifies_a_rule(wheel: Path, tmp_path: Path):
    executable = _install(wheel, tmp_path)
    code = "import autosp, sys; from autosp.cli import main; print(autosp.__file__, flush=True); main(sys.argv[1:])"
    (tmp_path / "mine.spec").write_text("mesh [sp]\ninput ids [batch, seq@sp]\n")
    checked = _run(executable, code, "check", "llama", "mine.spec", cwd=tmp_path).splitlines()
    assert str(tmp_path / "venv") in checked[0], "the checkout was imported, not the wheel"
    assert checked[1:] == [
        "llama: ok (4 inputs, 2 outputs, mesh [dp: local, sp])",
        "mine.spec: ok (1 input, 0 outputs, mesh [sp])",
    ]
    proved = _run(executable, code, "rules", "verify", "aten.linear", cwd=tmp_path)
    assert "aten.linear.default" in proved and "1 operators proved, 0 whole, 0 wrong" in proved


def _run(executable: str, code: str, *args: str, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may name the checkout
    done = subprocess.run([executable, "-c", code, *args], capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _install(wheel: Path, folder: Path) -> str:
    """A Python that sees this environment's packages, but autosp from the wheel alone."""
    venv.create(folder / "venv", with_pip=False)
    executable = str(folder / "venv" / "bin" / "python")
    site = Path(python("import site; print(site.getsitepackages()[0])", executable))
    zipfile.ZipFile(wheel).extractall(site)
    own = python("import site; print(*site.getsitepackages())")
    (site / "outer.pth").write_text("\n".join(own.split()))
    return executable
