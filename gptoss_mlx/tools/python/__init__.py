"""The built-in tool `python`: a stateful notebook whose cells run in a sandbox on this machine.

tool.py        what the model calls: PythonTool
kernel.py      one running sandbox with a Jupyter kernel in it, seen from outside
runner.py      the program inside, which drives the kernel
display.py     its replies -> text and figures
limits.py      what cells may use
watch.py       what all processes together use, watched from outside
sandbox.py     how a process is confined: the choice; docker; no sandbox
bubblewrap.py  Linux
seatbelt.py    macOS
"""

from .limits import Limits
from .sandbox import SandboxName
from .tool import PythonTool

__all__ = ["Limits", "PythonTool", "SandboxName"]
