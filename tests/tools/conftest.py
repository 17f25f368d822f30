"""Tests that let real programs read what labctl renders. They boot nothing and change nothing outside of their files.

`scripts/setup --dev` gets the programs. It takes the servers, cloud-init and dnf from Debian's packages, so where
there is no apt-get only shell scripts are looked at.
"""

import shutil

import pytest

_FROM_PACKAGES = ["test_cloud_init.py", "test_configs.py", "test_serving.py", "test_units.py", "test_yum.py"]
collect_ignore = [] if shutil.which("apt-get") else _FROM_PACKAGES


@pytest.fixture(autouse=True)
def _own_files(own_files: None) -> None:
    """Files of the test's own, as in all fast tests."""
