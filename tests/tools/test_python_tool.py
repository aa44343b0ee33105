"""The notebook as the model meets it: state, outputs, figures, limits, restarts, and its end."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from notebooks import appears, close, lives, processes, run, sandboxed

from gptoss_mlx.errors import RequestError, ToolError
from gptoss_mlx.harmony.message import ToolNamespace
from gptoss_mlx.tools import ToolResult
from gptoss_mlx.tools.python import PythonTool
from gptoss_mlx.tools.python.sandbox import Launch, Unconfined

MIB = 1 << 20
RESTARTED = "the notebook was restarted: its variables are lost"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebook's files are."""
    return tmp_path_factory.mktemp("drive")


@pytest.fixture(scope="module")
def notebook(folder: Path) -> Iterator[PythonTool]:
    """One that many tests share; each may restart it."""
    with sandboxed(folder=folder, memory=512 * MIB, output=2000) as notebook:
        yield notebook


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PythonTool]:
    """One whose cells have a second and a half."""
    with sandboxed(folder=tmp_path_factory.mktemp("hasty"), timeout=1.5) as notebook:
        yield notebook


def test_variables_stay_from_call_to_call(notebook: PythonTool) -> None:
    assert run(notebook, "x = 6") == ToolResult("[no output]")
    assert run(notebook, "x * 7") == ToolResult("42")


def test_output_comes_in_its_order_without_colours(notebook: PythonTool) -> None:
    code = "import sys\nprint('a', flush=True)\nprint('\\033[31mb\\033[0m', file=sys.stderr, flush=True)\n[1]"
    assert run(notebook, code).text == "a\nb\n[1]"


def test_a_result_starts_a_line_of_its_own(notebook: PythonTool) -> None:
    assert run(notebook, "print('a', end='')\n1").text == "a\n1"


def test_children_print_into_the_result(notebook: PythonTool) -> None:
    assert "from a child" in run(notebook, "import subprocess\nsubprocess.run(['echo', 'from a child'])").text


def test_an_exception_is_a_failed_result_with_its_traceback(notebook: PythonTool) -> None:
    result = run(notebook, "def f(): raise KeyError('tide')\nf()")
    assert result.failed
    assert "KeyError: 'tide'" in result.text
    assert "\x1b" not in result.text


@pytest.mark.parametrize("code", ["for", "1 +", "\0", "print('\ud800'.encode('utf-8', 'surrogatepass'))", "\ud800"])
def test_whatever_the_code_is_it_gives_a_result(notebook: PythonTool, code: str) -> None:
    assert isinstance(run(notebook, code).text, str)


def test_nothing_can_be_asked_of_the_user(notebook: PythonTool) -> None:
    result = run(notebook, "input('name? ')")
    assert result.failed
    assert "StdinNotImplementedError" in result.text


def test_long_output_loses_its_middle(notebook: PythonTool) -> None:
    result = run(notebook, "print('begin' + 'x' * 5_000_000 + 'end')")
    assert result.text.startswith("beginxxx")
    assert result.text.endswith("xxxend")
    assert "\n[4,998,009 characters left out]\n" in result.text
    assert len(result.text) < 2100


def test_endless_output_is_stopped_and_bounded(hasty: PythonTool) -> None:
    result = run(hasty, "while True: print('x' * 1000)")
    assert result.failed
    assert "characters left out]" in result.text
    assert "stopped after 1.5 seconds" in result.text
    assert len(result.text) < 21_000


def test_figures_are_mentioned_in_the_text_and_returned(notebook: PythonTool) -> None:
    code = "import matplotlib.pyplot as plt\nplt.figure(figsize=(2, 1))\nplt.plot([1, 2])\nplt.show()\nprint('done')"
    result = run(notebook, code)
    assert result.text.startswith("[figure 1: image/png, ")
    assert result.text.endswith("]\ndone")
    assert [image[:8] for image in result.images] == [b"\x89PNG\r\n\x1a\n"]


def test_files_stay_in_the_folder(notebook: PythonTool, folder: Path) -> None:
    (folder / "given.txt").write_text("spring")
    assert run(notebook, "open('/mnt/data/kept.txt', 'w').write(open('given.txt').read() + ' tide')").text == "11"
    assert (folder / "kept.txt").read_text() == "spring tide"


def test_a_module_written_by_a_cell_can_be_imported_but_not_by_the_kernel(notebook: PythonTool, folder: Path) -> None:
    (folder / "fnmatch.py").write_text("where = 'mine'")  # the standard library imports a module of that name
    assert RESTARTED in run(notebook, "import os; os._exit(0)").text
    assert run(notebook, "import runpy; runpy.run_path('fnmatch.py')['where']").text == "'mine'"
    (folder / "fnmatch.py").unlink()


def test_too_long_a_cell_is_interrupted_and_variables_stay(hasty: PythonTool) -> None:
    run(hasty, "x = 5")
    result = run(hasty, "import time\nprint('before', flush=True)\ntime.sleep(60)")
    assert result.failed
    assert result.text.startswith("before\n")
    assert "KeyboardInterrupt" in result.text
    assert result.text.endswith("[stopped after 1.5 seconds; variables are kept]")
    assert run(hasty, "x").text == "5"


def test_a_cell_that_swallows_one_interrupt_gets_another(hasty: PythonTool) -> None:
    run(hasty, "x = 8")
    result = run(hasty, "import time\ntry: time.sleep(60)\nexcept: pass\ntime.sleep(60)")
    assert result.text.endswith("[stopped after 1.5 seconds; variables are kept]")
    assert run(hasty, "x").text == "8"


def test_a_cell_that_cannot_be_interrupted_costs_the_variables(hasty: PythonTool) -> None:
    run(hasty, "x = 5")
    code = (
        "import signal, time\nprint('first', flush=True)\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    )
    result = run(hasty, code)
    assert result.failed
    assert result.text.startswith("first\n")
    assert RESTARTED in result.text
    assert "NameError" in run(hasty, "x").text


def test_interrupt_stops_the_cell_that_runs(notebook: PythonTool, folder: Path) -> None:
    async def stopped() -> ToolResult:
        call = asyncio.create_task(notebook.run("python", "import time\nx = 3\nopen('begun', 'w')\ntime.sleep(60)"))
        await appears(folder / "begun")
        await notebook.interrupt()
        return await call

    result = asyncio.run(stopped())
    assert result.failed
    assert result.text.endswith("[stopped by the user; variables are kept]")
    assert run(notebook, "x").text == "3"


def test_an_interrupt_between_cells_stops_nothing(notebook: PythonTool) -> None:
    asyncio.run(notebook.interrupt())
    assert run(notebook, "1").text == "1"


def test_a_cancelled_call_stops_its_cell(notebook: PythonTool) -> None:
    async def cancelled() -> ToolResult:
        call = asyncio.create_task(notebook.run("python", "import time\ntime.sleep(60)"))
        await asyncio.sleep(0.5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return await notebook.run("python", "'next'")

    assert asyncio.run(cancelled()).text == "'next'"


def test_calls_at_the_same_time_run_one_after_the_other(notebook: PythonTool) -> None:
    async def together() -> list[ToolResult]:
        code = "import time\nrunning = globals().get('running', 0) + 1\ntime.sleep(0.05)\nprint(running)\nrunning -= 1"
        return await asyncio.gather(*(notebook.run("python", code) for _ in range(4)))

    assert [result.text for result in asyncio.run(together())] == ["1"] * 4


def test_too_much_memory_is_an_exception_in_the_cell(notebook: PythonTool) -> None:
    run(notebook, "x = 1")
    result = run(notebook, f"block = bytearray({1024 * MIB})")
    assert result.failed
    assert "MemoryError" in result.text
    assert run(notebook, "x").text == "1"


def test_too_much_memory_of_several_processes_restarts_the_notebook(notebook: PythonTool) -> None:
    hog = f"import os, time\nfor _ in range(4):\n    if not os.fork():\n        block = b'x' * {300 * MIB}\n"
    result = run(notebook, hog + "        break\ntime.sleep(60)")
    assert result.failed
    assert "more than 768 MiB of memory were in use" in result.text
    assert RESTARTED in result.text
    assert run(notebook, "1").text == "1"


def test_a_kernel_that_dies_is_replaced(notebook: PythonTool) -> None:
    result = run(notebook, "import os, signal\nprint('last', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert result.failed
    assert "the kernel ended (SIGSEGV)" in result.text
    assert run(notebook, "1").text == "1"


def test_after_exit_the_next_cell_runs_in_a_new_notebook(notebook: PythonTool) -> None:
    run(notebook, "x = 1\nexit()")
    psutil.wait_procs(processes(notebook), timeout=10)
    result = run(notebook, "'x' in globals()")
    assert result == ToolResult("[the notebook had ended (its kernel exited): a new one runs this cell]\nFalse")


def test_close_ends_all_processes_and_removes_the_temporary_folder() -> None:
    before = threading.active_count()
    with sandboxed() as notebook:
        run(notebook, "import subprocess\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nopen('x', 'w')")
        started = processes(notebook)
        assert "sleep" in [process.name() for process in started]
        assert (notebook.folder / "x").exists()
        close(notebook)
        assert not any(map(lives, started))
        assert not notebook.folder.exists()
        assert threading.active_count() == before
        assert run(notebook, "1") == ToolResult("[the notebook is closed]", failed=True)


def test_close_ends_a_cell_that_runs_and_those_that_wait() -> None:
    async def closed(notebook: PythonTool) -> list[ToolResult]:
        calls = [asyncio.create_task(notebook.run("python", "import time\ntime.sleep(60)")) for _ in range(2)]
        await asyncio.sleep(1)
        await notebook.close()
        return await asyncio.gather(*calls)

    with sandboxed() as notebook:
        assert all(result.failed for result in asyncio.run(closed(notebook)))
        assert not notebook.folder.exists()


def test_a_given_folder_is_made_and_stays(tmp_path: Path) -> None:
    with sandboxed(folder=tmp_path / "new" / "drive"):
        pass
    assert (tmp_path / "new" / "drive").is_dir()


def test_it_is_described_as_the_model_was_trained_where_that_is_true(notebook: PythonTool) -> None:
    assert notebook.namespace == ToolNamespace.python()
    assert notebook.handles("python")


def test_other_facts_are_told(hasty: PythonTool, tmp_path: Path) -> None:
    assert hasty.namespace is not None
    assert "time out after 1.5 seconds" in (hasty.namespace.description or "")
    with sandboxed(folder=tmp_path, unsafe=True) as bare:
        assert bare.namespace is not None
        assert f"The drive at '{tmp_path.resolve()}'" in (bare.namespace.description or "")


def test_without_a_sandbox_it_works_all_the_same(tmp_path: Path) -> None:
    with sandboxed(folder=tmp_path, unsafe=True) as notebook:
        assert run(notebook, "open('x', 'w').close()\nimport os\nos.getcwd()").text == repr(str(tmp_path.resolve()))
        assert (tmp_path / "x").exists()
        started = processes(notebook)
        close(notebook)
        assert started
        assert not any(map(lives, started))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("sh", "-c", "echo first >&2; echo no image >&2; exit 3"), "[python: the notebook did not start (no image)]"),
        (("true",), "[python: the notebook did not start (the sandbox ended)]"),
        (("/no/such/program",), "[python: /no/such/program does not start (No such file or directory)]"),
        (("echo", '{"state": 1}'), "[python: the notebook did not start (it sent something that is no reply)]"),
    ],
)
def test_a_sandbox_that_does_not_start_is_a_failed_result(
    command: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        Unconfined, "launch", lambda *_: Launch(command, os.environ, ("touch", str(tmp_path / "ended")))
    )
    with sandboxed(folder=tmp_path, unsafe=True) as notebook:
        assert run(notebook, "1") == ToolResult(said, failed=True)
    assert (tmp_path / "ended").exists() == (command[0] != "/no/such/program")  # what ends it where killing does not


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0.0}, "timeout: 0.1 or more expected, 0.0 found"),
        ({"timeout": float("nan")}, "timeout: 0.1 or more expected, nan found"),
        ({"memory": 1}, "memory: 268,435,456 or more expected, 1 found"),
        ({"processes": 0}, "processes: 8 or more expected, 0 found"),
        ({"output": 0}, "output: 100 or more expected, 0 found"),
        ({"sandbox": "chroot"}, "sandbox: expected one of auto, bubblewrap, sandbox-exec, docker, found 'chroot'"),
        ({"sandbox": "docker", "unsafe": True}, "unsafe: means no sandbox, found sandbox 'docker' as well"),
        ({"image": "x"}, "image: only the sandbox 'docker' has one, found sandbox 'auto'"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        PythonTool(**options)  # type: ignore[arg-type]


def test_a_folder_that_would_open_the_sandbox_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"holds .*, which cells must not change"):
        PythonTool(Path.home())
    with pytest.raises(ToolError, match=r"is a part of .*, which cells must not change"):
        PythonTool(Path(psutil.__file__).parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(ToolError, match=r"cannot be the notebook's folder \(File exists\)"):
        PythonTool(tmp_path / "file")
