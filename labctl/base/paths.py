"""Where labctl keeps things (XDG base directories)."""

from pathlib import Path

import platformdirs

_APP = "labctl"


def images() -> Path:
    """The image store."""
    return platformdirs.user_data_path(_APP) / "images"


def bases() -> Path:
    """The distributors' images that images are made of."""
    return platformdirs.user_data_path(_APP) / "bases"


def topologies() -> Path:
    """The user's own topologies, which can be named from any directory."""
    return platformdirs.user_data_path(_APP) / "topologies"


def labs() -> Path:
    """A directory for each lab that is up."""
    return platformdirs.user_state_path(_APP) / "labs"


def lab(name: str) -> Path:
    """The directory of one lab; exists only while the lab does."""
    return labs() / name


def cache() -> Path:
    """Files that labctl can make again."""
    return platformdirs.user_cache_path(_APP)


def warm() -> Path:
    """A directory for each configured checkpoint."""
    return cache() / "warm"


def checkpoints(lab: str | None = None) -> Path:
    """The user's checkpoints of a lab, or of all labs: a directory for each checkpoint."""
    root = platformdirs.user_data_path(_APP) / "checkpoints"
    return root / lab if lab else root


def config_file() -> Path:
    """The user's settings."""
    return platformdirs.user_config_path(_APP) / "config.yaml"
