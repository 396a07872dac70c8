from setuptools import setup

# All else is in pyproject.toml; cffi reads this keyword from setup() alone.
setup(cffi_modules=["protocol/shmprotocol/native/build.py:ffibuilder"])
