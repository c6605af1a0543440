"""Builds users of the installed package: python setup.py build_ext --inplace.

heads.pyx is the example in the docstring of foveate.cython_attention, which the test writes out.
"""

from pathlib import Path

import foveate
from Cython.Build import cythonize
from setuptools import Extension, setup

# Cython finds the .pxd of a package that is installed; an editable install keeps it elsewhere.
installed = Path(foveate.get_include()).parent
editable = installed != Path(foveate.__file__).parent

consumers = [
    Extension("consumer", ["consumer.pyx"], include_dirs=[foveate.get_include()]),
    Extension("heads", ["heads.pyx"], include_dirs=[foveate.get_include()]),
    Extension(
        "c_consumer",
        ["c_consumer.c"],
        include_dirs=[foveate.get_include()],
        extra_compile_args=["-std=c99", "-Wall", "-Wextra", "-Werror"],
    ),
]
setup(
    name="consumer",
    ext_modules=cythonize(consumers, include_path=[str(installed.parent)] if editable else []),
)
