"""Putting files into a repository of the hub."""

from collections.abc import Mapping
from pathlib import Path

from dcgrid.errors import NetworkError
from dcgrid.hub.client import hub_api, hub_errors
from dcgrid.hub.places import is_offline
from dcgrid.hub.weight_reference import WeightReference

_CARD = "README.md"


def push_files(
    target: WeightReference,
    files: Mapping[str, bytes | Path],
    *,
    message: str,
    private: bool = False,
    replace_card: bool = False,
) -> str:
    """Put files into a repository in one commit; it and its branch are made if missing.

    Args:
        target: Repository and branch.
        files: Content, or a local file, by path inside the repository.
        message: What the commit says.
        private: True makes a new repository that only its owner sees.
        replace_card: True replaces a README.md that is there; otherwise it stays as it is.

    Returns:
        The commit's address.

    Raises:
        NetworkError: There is no token, the network is off or fails, or the token may not write.
        WeightsError: The hub takes no such name.
        OutputError: A local file cannot be read.
    """
    from huggingface_hub import CommitOperationAdd, get_token

    if is_offline():
        raise NetworkError(
            f"cannot push to {target}: the network is off", hint="unset HF_HUB_OFFLINE"
        )
    if not get_token():
        raise NetworkError(
            f"cannot push to {target} without a token",
            hint="make one that may write at huggingface.co/settings/tokens, then run "
            "`hf auth login` or set HF_TOKEN",
        )
    api = hub_api()
    with hub_errors(target, "upload to"):
        api.create_repo(target.repo, private=private, exist_ok=True)
        if target.revision != "main":
            api.create_branch(target.repo, branch=target.revision, exist_ok=True)
        kept = not replace_card and api.file_exists(target.repo, _CARD, revision=target.revision)
        operations = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
            for path, content in files.items()
            if not (kept and path == _CARD)
        ]
        commit = api.create_commit(
            target.repo, operations, commit_message=message, revision=target.revision
        )
    return str(commit.commit_url)
