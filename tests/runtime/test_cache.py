"""The compile cache: what it keeps, what it refuses, and what it says about a miss."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rlx.driver import Artifact
from rlx.runtime.cache import DiskCache, MemoryCache, digest

PARTS = {"graph": "aa", "target": "avx2", "rlx": "1"}


def artifact(payload: bytes = b"code") -> Artifact:
    return Artifact("cpu", {"name": "m", "n": [1, 2]}, {"image": payload, "empty": b"", "constants": bytes(100)})


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "cache", 1 << 20)


def entry_path(cache: DiskCache):
    (path,) = [p for p in cache.directory.iterdir() if p.suffix == ".rlxc"]
    return path


def same(a: Artifact | None, b: Artifact) -> bool:
    return (
        a is not None
        and a.manifest == b.manifest
        and {k: bytes(v) for k, v in a.sections.items()} == {k: bytes(v) for k, v in b.sections.items()}
    )


def test_the_digest_depends_on_every_part_and_not_on_their_order():
    assert digest(PARTS) == digest(dict(reversed(PARTS.items())))
    assert len({digest({**PARTS, name: "other"}) for name in PARTS} | {digest(PARTS)}) == 4


def test_what_was_put_is_got_whole_by_another_process_s_cache(cache):
    cache.put(digest(PARTS), PARTS, artifact())
    again = DiskCache(cache.directory, 1 << 20)
    assert same(again.get(digest(PARTS)), artifact())
    assert again.explain(PARTS) == "hit"


def test_entries_and_their_directory_are_private(cache):
    cache.put(digest(PARTS), PARTS, artifact())
    assert stat.S_IMODE(cache.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry_path(cache).stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("at", [0, 20, 60, 130, -1])
def test_a_changed_byte_makes_the_entry_unused_and_gone(cache, at):
    cache.put(digest(PARTS), PARTS, artifact())
    path = entry_path(cache)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert cache.get(digest(PARTS)) is None
    assert not path.exists()
    assert cache.explain(PARTS).startswith("not used")


@pytest.mark.parametrize("keep", [0, 15, 47, 60, 200])
def test_a_truncated_entry_is_not_used(cache, keep):
    cache.put(digest(PARTS), PARTS, artifact())
    path = entry_path(cache)
    path.write_bytes(path.read_bytes()[:keep])
    assert cache.get(digest(PARTS)) is None


def test_an_entry_that_others_may_write_is_refused_with_the_reason(cache):
    cache.put(digest(PARTS), PARTS, artifact())
    entry_path(cache).chmod(0o666)
    assert cache.get(digest(PARTS)) is None
    assert "other users may write the file" in cache.explain(PARTS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_an_entry_of_another_user_is_refused_with_the_reason(cache):
    cache.put(digest(PARTS), PARTS, artifact())
    os.chown(entry_path(cache), 12345, -1)
    assert cache.get(digest(PARTS)) is None
    assert "belongs to another user" in cache.explain(PARTS)


def test_a_link_in_place_of_an_entry_is_refused(cache, tmp_path):
    cache.put(digest(PARTS), PARTS, artifact())
    path = entry_path(cache)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert cache.get(digest(PARTS)) is None


def test_the_least_recently_used_entries_go_when_the_bound_is_passed(tmp_path):
    cache = DiskCache(tmp_path / "cache", 25_000)
    keys = [digest({"n": str(i)}) for i in range(4)]
    for i, key in enumerate(keys):
        cache.put(key, {"n": str(i)}, artifact(bytes(10_000)))
        os.utime(cache._path(key), (i, i))
    assert [cache.get(k) is not None for k in keys] == [False, False, True, True]


def test_a_directory_that_cannot_be_made_costs_nothing_but_the_entry(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("not a directory")
    cache = DiskCache(blocker / "cache", 1 << 20)
    cache.put(digest(PARTS), PARTS, artifact())
    assert cache.get(digest(PARTS)) is None


def test_an_interrupted_write_leaves_no_file(cache, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.put(digest(PARTS), PARTS, artifact())
    assert list(cache.directory.iterdir()) == []


def test_what_a_killed_writer_left_goes_after_an_hour(cache):
    cache.put(digest(PARTS), PARTS, artifact())
    old, new = (cache.directory / f".writing-{name}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, new.stat().st_mtime - 4000))
    cache.put(digest({**PARTS, "graph": "bb"}), PARTS, artifact())
    assert new.exists() and not old.exists()


def test_an_entry_that_vanishes_meanwhile_hides_no_other(cache):
    for name in "ab":
        cache.put(digest({**PARTS, "graph": name}), {**PARTS, "graph": name}, artifact())
    gone = cache.directory / "gone.rlxc"
    gone.symlink_to("nowhere")
    assert "nearest entry" in cache.explain({**PARTS, "graph": "c"})


def test_a_directory_in_place_of_an_entry_costs_only_the_entry(cache):
    cache.put(digest(PARTS), PARTS, artifact())
    path = entry_path(cache)
    path.unlink()
    path.mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [cache.get(digest(PARTS)) for _ in range(3)] == [None] * 3
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_miss_names_the_part_that_differs_from_the_nearest_entry(cache):
    assert cache.explain(PARTS) == "miss: the cache is empty"
    cache.put(digest(PARTS), PARTS, artifact())
    far = {"graph": "zz", "target": "zz", "rlx": "zz"}
    cache.put(digest(far), far, artifact())
    assert cache.explain({**PARTS, "target": "avx512"}) == "miss: against the nearest entry, target: avx2 -> avx512"


def test_the_memory_cache_forgets_the_least_recently_used_first():
    cache = MemoryCache(limit=25_000)
    for name in "abc":
        cache.put(name, artifact(bytes(10_000)))
        cache.get("a")
    assert [cache.get(n) is not None for n in "abc"] == [True, False, True]
