"""What only the SQLite file promises: other processes, other versions, damage, time and memory."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from adapters.outbound.local.sqlite_metadata import SqliteMetadataStore
from domain.batch import CloseReason
from domain.errors import MetadataUnavailable
from domain.lifecycle import BatchState, InstanceState
from tests.builders import a_batch, a_batch_id, a_key, a_moment, a_record

REPOSITORY = Path(__file__).parents[2]
WHOLE_BATCH = 4_500


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteMetadataStore]:
    with closing(SqliteMetadataStore(path)) as opened:
        yield opened


def a_process(path: Path, body: str) -> subprocess.Popen[str]:
    """Start a process that has the store open as `store` and all builders at hand."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from adapters.outbound.local.sqlite_metadata import SqliteMetadataStore\n"
        "from domain.batch import CloseReason\n"
        "from domain.lifecycle import BatchState\n"
        "from tests.builders import *\n"
        "store = SqliteMetadataStore(Path(sys.argv[1]), page_size=10)\n"
        f"{body}\n"
        "store.close()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen[str], line: str = "") -> list[str]:
    output, _ = process.communicate(line, timeout=60)
    assert process.returncode == 0
    return output.split()


def test_of_several_processes_one_replaces_each_batch(path: Path, store: SqliteMetadataStore) -> None:
    batches = [a_batch(number) for number in range(100)]
    for batch in batches:
        store.add_batch(batch)
    body = (
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for n in range(100):\n"
        "    if store.replace_batch(a_batch(n), a_batch(n).closed(a_moment(9), CloseReason.RECOVERED)): print(n)"
    )
    processes = [a_process(path, body) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [int(number) for process in processes for number in output_of(process)]
    assert sorted(won) == list(range(100))


def test_several_processes_may_make_the_file_at_once(path: Path) -> None:
    body = "print('ready', flush=True); sys.stdin.readline(); print(store.add_batch(a_batch()))"
    processes = [a_process(path, body) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(word for process in processes for word in output_of(process)) == ["False"] * 3 + ["True"]


def test_another_process_reads_whole_writes_while_this_one_writes(path: Path, store: SqliteMetadataStore) -> None:
    """Each write adds fifty records at once: in one statement a reader sees fifty more or none."""
    store.claim([(a_record(number), None) for number in range(50)])
    reader = a_process(
        path,
        "print('ready', flush=True)\n"
        "sizes = [0]\n"
        "while sizes[-1] < 500:\n"
        "    sizes.append(len(store.newest([a_key(n) for n in range(500)])))\n"
        "    assert len(list(store.entries(a_batch_id()))) % 50 == 0\n"
        "print(sizes == sorted(sizes), all(size % 50 == 0 for size in sizes))",
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for first in range(50, 500, 50):
        records = [a_record(number) for number in range(first, first + 50)]
        store.put_entries(records)
        store.claim([(record, None) for record in records])
    assert output_of(reader) == ["True", "True"]


def test_an_unfinished_iterator_holds_nothing_up(path: Path, store: SqliteMetadataStore) -> None:
    for number in range(30):
        store.add_batch(a_batch(number))
    with closing(SqliteMetadataStore(path, page_size=5, busy_seconds=0.2)) as other:
        unfinished = other.batches([BatchState.OPEN])
        assert next(unfinished) == a_batch(0)
        store.add_batch(a_batch(30))
        with closing(sqlite3.connect(path)) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
        assert next(unfinished) == a_batch(1)


def test_what_is_committed_is_synced(store: SqliteMetadataStore) -> None:
    store.add_batch(a_batch())
    with store._file.connection() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_file_of_a_newer_program_is_refused_in_words(path: Path, store: SqliteMetadataStore) -> None:
    store.add_batch(a_batch())
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with closing(SqliteMetadataStore(path)) as older:
        with pytest.raises(MetadataUnavailable, match=r"newer version of this program \(schema 99"):
            older.batch(a_batch_id())


def test_a_busy_file_is_unavailable_with_its_cause(path: Path) -> None:
    with closing(SqliteMetadataStore(path, busy_seconds=0.1)) as store:
        store.add_batch(a_batch())
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(MetadataUnavailable, match="SQLITE_BUSY") as caught:
                store.add_batch(a_batch(2))
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert store.batch(a_batch_id()) == a_batch()
        assert store.add_batch(a_batch(2))


def test_a_file_that_is_no_database_is_unavailable(path: Path, store: SqliteMetadataStore) -> None:
    path.write_bytes(b"something else " * 1_000)
    with pytest.raises(
        MetadataUnavailable, match="SQLITE_NOTADB; it is no database: move it away, and `ahi-storescp reconcile`"
    ):
        store.batch(a_batch_id())


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with closing(SqliteMetadataStore(tmp_path / "nowhere" / "metadata.sqlite3")) as store:
        with pytest.raises(MetadataUnavailable, match="SQLITE_CANTOPEN"):
            list(store.failures())


def test_a_closed_store_is_unavailable(store: SqliteMetadataStore) -> None:
    store.add_batch(a_batch())
    store.close()
    store.close()
    with pytest.raises(MetadataUnavailable, match="closed"):
        store.batch(a_batch_id())


def test_a_call_that_fails_midway_changes_nothing(store: SqliteMetadataStore) -> None:
    broken = attrs.evolve(a_record(2), staged_at=a_moment().replace(tzinfo=None))
    with pytest.raises(ValueError, match="zone"):
        store.put_entries([a_record(1), broken])
    assert list(store.entries(a_batch_id())) == []
    store.put_entries([a_record(1)])


def test_threads_that_end_leave_no_connection_behind(store: SqliteMetadataStore) -> None:
    for number in range(20):
        thread = threading.Thread(target=store.add_batch, args=(a_batch(number),))
        thread.start()
        thread.join()
    assert len(store._file._idle) == 1


def test_a_batch_closed_by_one_handle_is_closed_for_all(path: Path, store: SqliteMetadataStore) -> None:
    with closing(SqliteMetadataStore(path)) as other:
        store.add_batch(a_batch())
        other.replace_batch(a_batch(), a_batch().closed(a_moment(1), CloseReason.AGE))
        assert [batch.state for batch in store.batches(BatchState)] == [BatchState.CLOSED]


def test_a_whole_batch_is_written_and_read_quickly(store: SqliteMetadataStore) -> None:
    """Each takes less than half a second of an idle machine; the bound is wide so that only a mistake fails."""
    records = [a_record(number) for number in range(WHOLE_BATCH)]
    failed = [attrs.evolve(record, state=InstanceState.FAILED, reason="no outcome") for record in records]
    steps: dict[str, Callable[[], object]] = {
        "claim": lambda: store.claim([(record, None) for record in records]),
        "list": lambda: store.put_entries(records),
        "settle": lambda: store.put_entries(failed),
        "newest": lambda: store.newest([a_key(number) for number in range(WHOLE_BATCH)]),
        "read": lambda: list(store.entries(a_batch_id())),
    }
    seconds = {}
    for name, step in steps.items():
        started = time.process_time()
        step()
        seconds[name] = time.process_time() - started
    assert max(seconds.values()) < 2, seconds
