"""Models on the Hugging Face Hub: a name becomes a folder here, and a model becomes a repository with its card."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError, one_line, require
from ..files import PathLike, write_text
from ..reading import read_text
from .card import MARKER, public_metadata
from .pretrained import CONFIG, WEIGHTS

CARD = "README.md"
#: What names a model of the package ``gmvq_models`` wherever a model is asked for.
PREFIX = "builtin:"


def resolve(
    path_or_hub_id: PathLike,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    files: Sequence[str] = (WEIGHTS, CONFIG),
) -> Path:
    """Return the local folder: that of ``builtin:NAME``, or of a Hub repository, whose files are downloaded."""
    name = os.fspath(path_or_hub_id)
    if name.startswith(PREFIX):
        return builtin_folder(name)
    folder = Path(path_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"expected the folder that holds {WEIGHTS} and {CONFIG}, got the file {folder}")
    if not is_hub_name(name):
        raise FileNotFoundError(
            f"{name!r} is neither an existing folder nor a Hub repository of the form 'owner/name'; "
            f"pass the folder written by save_pretrained (the current one is {Path.cwd()})"
        )
    hub = require("huggingface_hub", "train")
    with _hub_errors(
        f"{name!r} is not an existing folder, and as a Hub repository it could not be fetched; for a private one pass "
        "token=..., and check",
        FileNotFoundError,
    ):
        options = {"revision": revision, "token": token, "allow_patterns": list(files)}
        return Path(hub.snapshot_download(name, **options))


class Published:
    """A model as a repository on the Hub; its class says how it is saved, and what stands on its card."""

    def save_pretrained(self, directory: PathLike, *, metadata: dict[str, Any] | None = None) -> None:
        raise NotImplementedError

    def _card(self, *, repo_id: str, metadata: Mapping[str, Any], license: str | None) -> str:
        raise NotImplementedError

    def save_repository(
        self, folder: PathLike, repo_id: str, metadata: Mapping[str, Any] | None, license: str | None
    ) -> None:
        """Write what ``push_to_hub`` uploads: the two files, without local paths in their metadata, and the card."""
        metadata = public_metadata(metadata)
        self.save_pretrained(folder, metadata=metadata)
        text = self._card(repo_id=repo_id, metadata=metadata, license=license)
        write_text(Path(folder) / CARD, text)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | bool | None = None,
        commit_message: str = "Upload gmvq model",
        metadata: dict[str, Any] | None = None,
        license: str | None = None,
    ) -> str:
        """Upload the two files of ``save_pretrained`` and a model card to a repository on the Hugging Face Hub.

        The card is written anew with each push, unless the repository holds one of your own. A local path of the
        training data is published as its last part only.

        Args:
            repo_id: ``"owner/name"``; created if needed.
            private: make a newly created repository private.
            token: Hub token; default: the one of ``hf auth login``.
            commit_message: message of the commit.
            metadata: as in ``save_pretrained``.
            license: of the weights, as the Hub spells it: ``"apache-2.0"``, ``"cc-by-4.0"``, ... It is yours to
                choose; without one the card says that none was stated.

        Returns:
            The address of the commit.

        Raises:
            OSError: the upload failed: no network, no token, no right to write there.
            ValueError: ``repo_id`` is no ``"owner/name"``.
            MissingExtraError: the package huggingface_hub is absent.
        """
        if not is_hub_name(repo_id):
            raise ValueError(f"a Hub repository is named 'owner/name', got {repo_id!r}")
        api = require("huggingface_hub", "train").HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_repository(folder, repo_id, metadata, license)
            what = (
                f"{repo_id!r} could not be pushed; log in with `hf auth login` or pass token=..., and check"
            )
            with _hub_errors(what, OSError):
                api.create_repo(repo_id, private=private, exist_ok=True)
                there = api.file_exists(repo_id, CARD)
                # A card without the marker is somebody's own work, which a push must not replace.
                if there and MARKER not in read_text(api.hf_hub_download(repo_id, CARD), "replace"):
                    (Path(folder) / CARD).unlink()
                done = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
        return str(done)


def is_hub_name(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


@contextmanager
def _hub_errors(what: str, kind: type[OSError]) -> Iterator[None]:
    """Turn the many errors of huggingface_hub and of the network into one of ``kind`` that says what to check."""
    try:
        yield
    except Exception as error:  # those of its transport derive from nothing in common with its own
        raise kind(f"{what} the name and the network: {one_line(error)}") from error


def builtin_folder(name: str) -> Path:
    """The folder of ``"builtin:NAME"`` where pip put it; nothing is imported, written or downloaded."""
    spec = importlib.util.find_spec("gmvq_models")
    if spec is None:
        raise MissingExtraError(
            f"{name!r} is one of the trained models that are a package of their own, gmvq-models, which is not "
            "installed; in a clone of the repository: pip install ./models"
        )
    places = map(Path, spec.submodule_search_locations or ())
    folders = {file.parent.name: file.parent for place in places for file in place.glob(f"*/{CONFIG}")}
    folder = folders.get(name.removeprefix(PREFIX))
    if folder is None:
        known = ", ".join(f"{PREFIX}{one}" for one in sorted(folders))
        raise FileNotFoundError(f"there is no model {name!r} in the package gmvq-models; it has {known}")
    return folder
