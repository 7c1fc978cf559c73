"""A result says which commit of the package made it."""

import subprocess

from padim_lit.system.versions import commit


def git(folder, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().strip()


def test_a_repository_says_its_commit_and_whether_its_files_differ(tmp_path, monkeypatch):
    find = commit.__wrapped__
    git(tmp_path, "init")
    assert find(tmp_path) is None  # nothing is committed yet
    (code := tmp_path / "padim_lit" / "version.py").parent.mkdir()
    code.write_text("1")
    (tmp_path / "own.py").touch()
    git(tmp_path, "add", "own.py")
    git(tmp_path, "commit", "-m", "none")
    assert find(tmp_path) is None  # a copy in somebody else's repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    git(tmp_path, "tag", "v1")
    (tmp_path / "outputs").mkdir()
    assert find(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_INDEX_FILE", "other")  # as in a hook
    assert find(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    monkeypatch.delenv("GIT_INDEX_FILE")
    code.write_text("2")
    assert find(tmp_path) == git(tmp_path, "rev-parse", "HEAD") + "+changes"
    # As installed in an environment that lies in somebody's repository.
    assert find(tmp_path / "outputs") is None
    monkeypatch.setenv("PATH", "")
    assert find(tmp_path) is None
