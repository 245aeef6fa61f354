"""The wheel carries the presets: built, installed into an empty environment, asked from afar."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_shows_a_preset_from_any_folder(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels, source = tmp_path / "wheels", tmp_path / "source"
    source.mkdir()
    tracked = ["ptb_lm", "configs", "pyproject.toml", "README.md", "LICENSE"]
    for name in tracked:  # a copy: the build leaves nothing in the checkout
        (source / name).symlink_to(ROOT / name)
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = wheels.glob("ptb_lm-*.whl")

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    scripts = environment / "bin"
    install = [*pip, "--python", str(scripts / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)

    # The libraries it depends on are lent from here; as a path they do not bring the editable
    # install of this checkout with them, which stands in a .pth file.
    libraries = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str) -> str:
        return subprocess.run(
            command, cwd=elsewhere, env=libraries, check=True, capture_output=True, text=True
        ).stdout

    where = run(str(scripts / "python"), "-c", "import ptb_lm; print(ptb_lm.__file__)")
    assert Path(where.strip()).is_relative_to(environment)
    shown = tomllib.loads(run(str(scripts / "ptb-lm"), "config", "show", "medium"))
    preset = tomllib.loads((ROOT / "configs" / "medium.toml").read_text())
    for section, values in preset.items():  # what it leaves out is shown as well
        assert values.items() <= shown[section].items()
    listed = run(str(scripts / "ptb-lm"), "config", "list")
    assert [line.split()[0] for line in listed.splitlines()] == sorted(
        path.stem for path in (ROOT / "configs").glob("*.toml")
    )
