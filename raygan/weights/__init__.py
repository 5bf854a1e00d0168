"""The denoisers that come with RayGAN, folders like STUDY/best, each with a model card, and where others are found."""

import re
from pathlib import Path

from raygan.errors import InputError

NAMES = ("synthetic", "camera", "small", "found", "baseline")
"""What they are called wherever a denoiser's folder is expected."""
DEFAULT = NAMES[0]
"""Name of the one that is used unless another is given."""
HERE = str(Path(__file__).parent)
HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
"""What the name of a repository on the Hugging Face hub looks like: OWNER/NAME or OWNER/NAME@REVISION."""
HUB_FILES = ("config.json", "generator.safetensors", "metrics.json", "error.json")
"""What is fetched from there: plain numbers and JSON, never pickles."""


class HubError(InputError):
    """A denoiser that cannot be fetched from the Hugging Face hub."""


def denoiser_folder(name: str) -> str:
    """The location of a denoiser, by its name: its folder or prefix, one that comes with RayGAN, or OWNER/NAME.

    OWNER/NAME is a repository on the Hugging Face hub, unless there is a folder OWNER here; so is, in any case,
    OWNER/NAME@REVISION with a branch, tag or commit. It is downloaded to the hub's cache. Raises `HubError`.
    """
    if name in NAMES:
        return f"{HERE}/{name}"
    if (found := HUB_ID.fullmatch(name)) is None or Path(name).exists():
        return name
    owner_and_name, revision = found.groups()
    return name if revision is None and Path(name).parent.exists() else _from_hub(owner_and_name, revision)


def _from_hub(name: str, revision: str | None) -> str:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise HubError(
            f"there is no folder {name}; if it is on the Hugging Face hub: pip install 'raygan[hub]'"
        ) from error
    try:
        folder: str = snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES))
    except Exception as error:
        which = name if revision is None else f"{name} (revision {revision})"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HubError(
            f"there is no folder {name}, and the Hugging Face hub does not give {which}: {reason}; check the name and "
            "the connection, or download it where there is one and give its folder"
        ) from error
    return folder
