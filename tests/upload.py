"""The files that a deployment uploads, by .gcloudignore, which has the syntax of .gitignore."""

import os
import shutil
from pathlib import Path

from pathspec import GitIgnoreSpec

REPOSITORY = Path(__file__).resolve().parent.parent


def uploaded_files() -> list[str]:
    """Paths relative to the repository, sorted."""
    ignored = GitIgnoreSpec.from_lines((REPOSITORY / ".gcloudignore").read_text().splitlines())
    found = []
    for folder, folders, files in os.walk(REPOSITORY):
        parent = Path(folder).relative_to(REPOSITORY)
        folders[:] = [name for name in folders if not ignored.match_file(f"{(parent / name).as_posix()}/")]
        found += [path for name in files if not ignored.match_file(path := (parent / name).as_posix())]
    return sorted(found)


def copy_upload(target: Path) -> Path:
    """Copy them to the folder, as the builder finds them there."""
    for path in uploaded_files():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / path, target / path)
    return target
