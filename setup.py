import sysconfig

from setuptools import setup

# All else is in pyproject.toml; cffi reads its keyword from setup() alone. Free-threaded CPython has no
# stable ABI before 3.15, and setuptools refuses to name one there.
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
setup(
    cffi_modules=["protocol/shmprotocol/native/build.py:ffibuilder"],
    options={} if free_threaded else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
