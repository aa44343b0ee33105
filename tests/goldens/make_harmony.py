"""Write tests/goldens/harmony: what the openai-harmony package makes of the examples.

Run it in the repository's root where the real vocabulary can be had; `python tests/goldens/make_harmony.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "harmony")]


def main() -> None:
    """Write one file for each example."""
    from harmony_examples import EXAMPLES
    from openai_harmony import Conversation, Role, load_harmony_encoding

    from vocabulary import real_vocabulary

    real_vocabulary()
    encoding = load_harmony_encoding("HarmonyGptOss")
    for name, conversation in EXAMPLES.items():
        theirs = Conversation.from_json(json.dumps(conversation.to_dict()))
        tokens = encoding.render_conversation_for_completion(theirs, Role.ASSISTANT)
        (HERE / "harmony" / f"{name}.txt").write_text(encoding.decode(tokens), encoding="utf-8")


if __name__ == "__main__":
    main()
