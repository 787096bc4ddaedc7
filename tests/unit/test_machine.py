import subprocess

from tests.benchmarks.machine import family


def test_a_family_is_told_while_its_members_come_and_go() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "while :; do /bin/true & /bin/true; done"]) as parent:
        try:
            while len(family(parent.pid)) == 1:
                """The shell has not started anything yet."""
            assert {parent.pid} == {family(parent.pid)[0] for _ in range(5000)}
        finally:
            parent.kill()
