"""Build the native module `rlhf_kernels._C` with CMake; everything else is in pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Fixed, so that a second build compiles only what changed (an editable install's own is temporary).
BUILD = ROOT / "build" / f"module-{sys.implementation.cache_tag}"


def find_tool(name: str) -> str:
    """Return the path of cmake or ninja: beside this Python, else on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise SystemExit(f"{name} not found: run `pip install {name}` and build again")
    return found


class CMakeBuild(build_ext):
    """Configure and build the `_C` target, then copy it to where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        """Build one extension."""
        cmake = find_tool("cmake")
        cuda = os.environ.get("RLHF_KERNELS_CUDA", "AUTO")
        configure = [cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DRLHF_KERNELS_CUDA={cuda}"]
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(BUILD), "--target", "_C"], check=True)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Remove first: a running process keeps the old file mapped.
        target.unlink(missing_ok=True)
        shutil.copy2(BUILD / target.name, target)


class PackageSpecs(build_py):
    """Put the shipped specs into the wheel as toolkit/specs, where `new --from` finds them.

    With the Python files that they name.
    """

    def run(self) -> None:
        """Copy them after the packages; an editable install reads specs/ itself."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "toolkit" / "specs"
            for spec in (ROOT / "specs").glob("*.yaml"):
                plugins = re.findall(r"\bspecs/([\w/]+\.py)(?=:)", spec.read_text(encoding="utf-8"))
                for name in (spec.name, *plugins):
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / "specs" / name, target / name)


setup(
    ext_modules=[Extension("rlhf_kernels._C", [])],
    cmdclass={"build_ext": CMakeBuild, "build_py": PackageSpecs},
)
