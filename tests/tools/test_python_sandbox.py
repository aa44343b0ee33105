"""What a cell must not be able to do; which sandbox is chosen; how those that cannot run here would be started."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from notebooks import appears, processes, run, sandboxed

from gptoss_mlx.errors import ToolError
from gptoss_mlx.tools import ToolResult
from gptoss_mlx.tools.python import Limits, PythonTool, kernel, sandbox
from gptoss_mlx.tools.python.bubblewrap import Bubblewrap
from gptoss_mlx.tools.python.sandbox import Docker, Place, Unconfined, choose
from gptoss_mlx.tools.python.seatbelt import Seatbelt, profile

MIB = 1 << 20
MOST_PROCESSES = 40
SECRET = "the key is under the mat"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PythonTool]:
    """One that the cells of this module try to break out of."""
    options = {"memory": 512 * MIB, "processes": MOST_PROCESSES, "timeout": 20.0}
    with pytest.MonkeyPatch.context() as patch, sandboxed(folder=tmp_path_factory.mktemp("d"), **options) as notebook:
        patch.setenv("HF_TOKEN", SECRET)
        assert run(notebook, "1").text == "1"
        yield notebook


def fails(notebook: PythonTool, code: str, error: str) -> bool:
    """Whether a cell ends in that error (a pattern)."""
    result = run(notebook, code)
    return result.failed and re.search(error, result.text) is not None


def test_no_server_of_this_machine_can_be_reached(notebook: PythonTool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"
        assert fails(notebook, code, "ConnectionRefusedError")
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_other_machine_can_be_reached(notebook: PythonTool) -> None:
    assert fails(notebook, "import socket\nsocket.create_connection(('192.0.2.1', 80), 2)", "Network is unreachable")
    assert fails(notebook, "import socket\nsocket.getaddrinfo('example.org', 80)", "gaierror")


def test_no_abstract_socket_can_be_reached(notebook: PythonTool) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0gptoss-mlx-test-{os.getpid()}")
        server.listen()
        code = f"import socket\nsocket.socket(socket.AF_UNIX).connect('\\0gptoss-mlx-test-{os.getpid()}')"
        assert fails(notebook, code, "ConnectionRefusedError")


def test_the_files_of_the_person_cannot_be_seen(notebook: PythonTool, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    with tempfile.NamedTemporaryFile("w", dir=Path.home(), prefix="gptoss-mlx-test-") as secret:
        secret.write(SECRET)
        secret.flush()
        for path in (secret.name, tmp_path / "secret", "/etc/passwd", "/etc/shadow", "/etc/hostname"):
            for root in ("", "/proc/1/root", "/proc/self/root", "/proc/1/cwd"):
                assert fails(notebook, f"open({root + str(path)!r}).read()", "FileNotFoundError|PermissionError")


def test_variables_of_the_environment_cannot_be_seen(notebook: PythonTool) -> None:
    code = "from pathlib import Path\n''.join(p.read_text() for p in Path('/proc').glob('*/environ'))"
    result = run(notebook, code + " + repr(__import__('os').environ)")
    assert "PATH" in result.text
    assert SECRET not in result.text
    assert "HF_TOKEN" not in result.text


def test_nothing_but_the_folder_can_be_written(notebook: PythonTool) -> None:
    folders = ["/", "/usr", "/usr/lib", "/etc", "/dev", "/run", "/run/notebook", "/mnt", sys.prefix, sys.base_prefix]
    for folder in folders:
        assert fails(notebook, f"open({folder + '/written'!r}, 'w')", "Read-only file system|PermissionError")
    assert fails(notebook, "open('/run/notebook/runner.py', 'a')", "Read-only file system|PermissionError")
    assert not any(os.path.exists(os.path.join(folder, "written")) for folder in folders)


def test_what_is_written_to_the_private_disk_stays_there(notebook: PythonTool) -> None:
    name = f"/tmp/gptoss-mlx-test-{os.getpid()}"
    assert run(notebook, f"open({name!r}, 'w').write('x')").text == "1"
    assert not os.path.exists(name)


def test_files_and_disks_have_a_size(notebook: PythonTool) -> None:
    assert fails(notebook, "open('large', 'wb').truncate(2 << 30)", "File too large")
    for disk in ("/tmp", "/dev/shm"):
        code = f"f = open('{disk}/full', 'wb')\nfor _ in range(200): f.write(b'x' * (1 << 20))"
        assert fails(notebook, code, "No space left on device")
    run(notebook, "import os\ndel f\nfor name in ('/tmp/full', '/dev/shm/full', 'large'): os.unlink(name)")


def test_no_privilege_can_be_had(notebook: PythonTool) -> None:
    privileges = run(notebook, "import os\nprint(os.getuid())\nprint(open('/proc/self/status').read())").text
    assert privileges.startswith("1000\n")
    assert re.search(r"CapEff:\s*0{16}\n", privileges)
    assert re.search(r"CapBnd:\s*0{16}\n", privileges)
    assert re.search(r"NoNewPrivs:\s*1\n", privileges)
    for attempt in ("unshare --user true", "mount --bind /mnt/data /usr", "umount /usr", "chroot /mnt/data true"):
        assert fails(notebook, f"import subprocess\nsubprocess.run({attempt.split()!r}, check=True)", "Error")


def test_other_processes_can_be_neither_seen_nor_ended(notebook: PythonTool) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        assert fails(notebook, f"import os\nos.kill({bystander.pid}, 9)", "ProcessLookupError")
        seen = run(notebook, "import os\nlen([name for name in os.listdir('/proc') if name.isdigit()])")
        assert int(seen.text) < 10
        result = run(notebook, "import os\nos.kill(-1, 9)")
        assert "the sandbox ended" in result.text
        assert bystander.poll() is None
        bystander.terminate()
    assert run(notebook, "1").text == "1"


@pytest.mark.parametrize(
    "bomb",
    ["while True: os.fork()", "while True:\n    if os.fork(): os._exit(0)\n    os.setsid()\n    os.fork()"],
    ids=["children", "orphans"],
)
def test_processes_that_multiply_stay_few(notebook: PythonTool, bomb: str) -> None:
    assert run(notebook, f"import os\n{bomb}").failed
    assert len(processes(notebook)) <= MOST_PROCESSES
    assert run(notebook, "1").text.endswith("1")
    run(notebook, "import os\nos._exit(0)")  # the next test begins with none


def test_a_link_to_what_is_not_the_cells_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    with sandboxed() as notebook:
        run(notebook, f"import os\nos.symlink({str(tmp_path)!r}, 'link')")
        assert (notebook.folder / "link").is_symlink()
    assert (tmp_path / "kept").exists()


def test_a_runner_that_is_stopped_costs_the_notebook(notebook: PythonTool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted() -> ToolResult:
        code = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\nopen('begun', 'w')\ntime.sleep(60)"
        call = asyncio.create_task(notebook.run("python", code))
        await appears(notebook.folder / "begun")
        await notebook.interrupt()
        return await call

    monkeypatch.setattr(kernel, "STOP_SECONDS", 1.0)
    assert "the sandbox did not answer; the notebook was restarted" in asyncio.run(interrupted()).text


def test_a_cell_may_be_longer_than_what_is_sent_at_once(notebook: PythonTool) -> None:
    assert run(notebook, "#" * 500_000 + "\n1").text == "1"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two folders with names that need care."""
    place = Place(tmp_path / 'a "folder", mine', tmp_path / "temporary")
    place.folder.mkdir()
    place.temporary.mkdir()
    return place


def test_without_a_sandbox_it_refuses_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ToolError, match=r"bubblewrap is missing; install bubblewrap .*--unsafe-python") as raised:
        PythonTool(tmp_path / "drive")
    assert "\n" not in str(raised.value)
    with pytest.raises(ToolError, match=r"no sandbox-exec; choose docker"):
        PythonTool(tmp_path / "drive", sandbox="sandbox-exec")
    with pytest.raises(ToolError, match=r"docker is not installed"):
        PythonTool(tmp_path / "drive", sandbox="docker")


@pytest.mark.parametrize(
    ("said", "setting", "remedy"),
    [
        ("bwrap: Unknown option --size", "", "older than 0.8"),
        ("bwrap: setting up uid map: Permission denied", "kernel/apparmor_restrict_unprivileged_userns=1", "AppArmor"),
        ("bwrap: No permissions to create new namespace", "user/max_user_namespaces=0", "user namespaces are off"),
        ("bwrap: Can't mount proc on /newroot/proc", "", "run this outside of one"),
        ("", "", r"\(exit status 1\)"),
    ],
)
def test_a_bubblewrap_that_does_not_work_is_found_out(
    said: str, setting: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setattr("gptoss_mlx.tools.python.bubblewrap._setting", lambda asked: value if asked == name else None)
    program = tmp_path / "bwrap"
    program.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(ToolError, match=rf"bubblewrap does not work here .*{remedy}.*--unsafe-python"):
        Bubblewrap(str(program)).check(tmp_path)


def test_each_system_has_its_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    for system, kind in (("linux", Bubblewrap), ("darwin", Seatbelt)):
        monkeypatch.setattr(sys, "platform", system)
        assert isinstance(choose("auto", unsafe=False), kind)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ToolError, match="win32 has no sandbox of its own; choose docker"):
        choose("auto", unsafe=False)
    assert isinstance(choose("docker", unsafe=False), Docker)
    assert isinstance(choose("auto", unsafe=True), Unconfined)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "find_spec", lambda name: None)
    for unsafe in (False, True):
        with pytest.raises(ToolError, match=r"ipykernel is not installed; pip install 'gptoss-mlx\[tools\]'"):
            PythonTool(tmp_path, unsafe=unsafe)


def test_a_python_whose_folder_holds_the_home_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ToolError, match="which holds your home"):
        sandbox.python_folders()


def test_packages_elsewhere_are_shown_and_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "package_folders", lambda: [tmp_path, tmp_path])
    assert tmp_path in sandbox.python_folders()
    assert sandbox.own_environment("/tmp")["PYTHONPATH"] == str(tmp_path)


def test_the_profile_of_macos_denies_what_it_does_not_name(place: Place) -> None:
    rules = profile(place).splitlines()
    assert rules[:2] == ["(version 1)", "(deny default)"]
    folder = str(place.folder).replace('"', '\\"')
    writing = [rule for rule in rules if rule.startswith("(allow file-write*")]
    assert writing == [f'(allow file-write* (subpath "{folder}") (subpath "{place.temporary}"))']
    network = [rule for rule in rules if "network" in rule]
    assert network == [f'(allow network* (subpath "{place.temporary}"))']
    reading = " ".join(rule for rule in rules if rule.startswith("(allow file-read*"))
    assert f'(subpath "{sys.prefix}")' in reading
    assert str(Path.home()) not in re.findall(r'"([^"]*)"', reading)
    assert all(rule.count("(") == rule.count(")") for rule in rules)


def test_sandbox_exec_starts_the_runner_under_the_profile(place: Place) -> None:
    launch = Seatbelt("/usr/bin/sandbox-exec").launch(place, Limits())
    program, option, rules, *rest = launch.command
    assert (program, option, rules) == ("/usr/bin/sandbox-exec", "-p", profile(place))
    assert rest[:2] == [sys.executable, str(sandbox.RUNNER)]
    assert launch.environment["HOME"] == launch.environment["TMPDIR"] == str(place.temporary)
    assert "HF_TOKEN" not in launch.environment


@pytest.mark.skipif(sys.platform != "darwin", reason="only macOS has sandbox-exec")
def test_sandbox_exec_holds_cells_back() -> None:
    with (
        sandboxed(sandbox="sandbox-exec") as notebook,
        socket.create_server(("127.0.0.1", 0)) as server,
        tempfile.NamedTemporaryFile("w", dir=Path.home(), prefix="gptoss-mlx-test-") as secret,
    ):
        assert run(notebook, "open('kept', 'w').write('x')").text == "1"
        assert (notebook.folder / "kept").exists()
        denied = "PermissionError"
        port = server.getsockname()[1]
        assert fails(notebook, f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)", denied)
        assert fails(notebook, f"open({secret.name!r}).read()", denied)
        assert fails(notebook, f"open({secret.name + '2'!r}, 'w')", denied)


def test_docker_runs_an_image_that_is_there_without_network_and_rights(place: Place) -> None:
    launch = Docker("an/image", "/usr/bin/docker").launch(place, Limits(memory=1024 * MIB, processes=50))
    command = list(launch.command)
    pairs = list(itertools.pairwise(command))
    assert command[:2] == ["/usr/bin/docker", "run"]
    for pair in [
        ("--network", "none"), ("--pull", "never"), ("--cap-drop", "ALL"), ("--security-opt", "no-new-privileges"),
        ("--memory", str(1536 * MIB)), ("--memory-swap", str(1536 * MIB)), ("--pids-limit", "50"),
        ("--user", f"{os.getuid()}:{os.getgid()}"), ("--workdir", "/mnt/data"), ("--env", "HOME=/tmp"),
    ]:  # fmt: skip
        assert pair in pairs
    assert {"--read-only", "--rm", "--interactive", "--init"} <= set(command)
    folder = str(place.folder).replace('"', '""')
    assert ("--mount", f'type=bind,"source={folder}",target=/mnt/data') in pairs
    assert not any(value.startswith("PATH=") for value in command)
    assert command[-4:-1] == ["an/image", "python", "/opt/notebook/runner.py"]
    assert json.loads(command[-1])["limits"]["RLIMIT_DATA"] == 1024 * MIB
    assert launch.ending == ("/usr/bin/docker", "kill", place.temporary.name)
