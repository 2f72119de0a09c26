"""Print, for CMake, `pybind11's CMake folder;the folder that holds dlpack.h`."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pybind11

CANDIDATES = (("tvm_ffi", "include/dlpack"), ("torch", "include/ATen"))


def find_dlpack() -> Path:
    """Return the folder of dlpack.h: apache-tvm-ffi's, else the one inside torch."""
    for package, folder in CANDIDATES:
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            if (Path(root) / folder / "dlpack.h").is_file():
                return Path(root) / folder
    sys.exit("dlpack.h not found: run `pip install apache-tvm-ffi` (or install torch) first")


print(f"{pybind11.get_cmake_dir()};{find_dlpack()}")
