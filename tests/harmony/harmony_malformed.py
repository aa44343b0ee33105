"""What models write, well formed and not, and the messages that it means; the assistant's role is preset."""

from __future__ import annotations

Row = tuple[str | None, str | None, str | None, str]
"""Channel, recipient, content type and text of a message of the assistant."""

CALL: Row = ("commentary", "functions.f", None, "{}")
JSON_CALL: Row = ("commentary", "functions.f", "json", "{}")
CONSTRAINED: Row = ("commentary", "functions.f", "<|constrain|>json", "{}")
THOUGHT: Row = ("analysis", None, None, "x")
ANSWER: Row = ("final", None, None, "z")
GOOD = "<|channel|>final<|message|>z<|return|>"
THINK = "<|channel|>analysis<|message|>x<|end|>"
NEXT = "<|start|>assistant"
TABLE: dict[str, tuple[str, list[Row]]] = {
    "recipient after the channel": (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>", [CONSTRAINED]),
    "recipient before the channel": (
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>", [CONSTRAINED]),
    "no space before the marker": (
        "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>", [CONSTRAINED]),
    "space after the marker": (
        "<|channel|>commentary to=functions.f <|constrain|> json<|message|>{}<|call|>", [CONSTRAINED]),
    "marker without a type": ("<|channel|>commentary to=functions.f <|constrain|><|message|>{}<|call|>", [CALL]),
    "bare type": ("<|channel|>commentary to=functions.f json<|message|>{}<|call|>", [JSON_CALL]),
    "type before the recipient": ("<|channel|>commentary json to=functions.f<|message|>{}<|call|>", [JSON_CALL]),
    "recipient without to=": ("<|channel|>commentary functions.f<|message|>{}<|call|>", [CALL]),
    "recipient glued to the channel": ("<|channel|>commentaryto=functions.f<|message|>{}<|call|>", [CALL]),
    "recipient before a bare channel": (" to=functions.f commentary<|message|>{}<|call|>", [CALL]),
    "type on a final message": (
        "<|channel|>final <|constrain|>json<|message|>{}<|return|>", [("final", None, "<|constrain|>json", "{}")]),
    "bare type on a final message": ("<|channel|>final json<|message|>{}<|return|>", [("final", None, "json", "{}")]),
    "other type on a final message": ("<|channel|>final xml<|message|>{}<|return|>", [("final", None, "xml", "{}")]),
    "recipient twice": ("<|channel|>commentary to=functions.f to=functions.f<|message|>{}<|call|>", [CALL]),
    "recipient in role and channel": (
        " to=functions.f<|channel|>commentary to=functions.f<|message|>{}<|call|>", [CALL]),
    "to= doubled": ("<|channel|>commentary to= to=functions.f<|message|>{}<|call|>", [CALL]),
    "blank inside the recipient": ("<|channel|>commentary to= functions.f<|message|>{}<|call|>", [CALL]),
    "second channel marker": ("<|channel|>commentary<|channel|>analysis<|message|>x<|end|>", [THOUGHT]),
    "inserted commentary": ("<|channel|>commentary to=assistant<|channel|>analysis<|message|>x<|end|>", [THOUGHT]),
    "second channel marker after the recipient": (
        "<|channel|>commentary to=functions.f<|channel|>commentary json<|message|>{}<|call|>", [JSON_CALL]),
    "empty channel, the last": ("<|channel|><|message|>z<|return|>", [ANSWER]),
    "empty channel, then another": (f"<|channel|><|message|>x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "no channel": ("<|message|>x<|return|>", [(None, None, None, "x")]),
    "channel without its marker": ("final<|message|>z<|return|>", [ANSWER]),
    "unknown channel, the last": ("<|channel|>??<|message|>z<|return|>", [ANSWER]),
    "unknown channel, then another": (f"<|channel|>42<|message|>x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "unknown channel of a call": ("<|channel|>?? to=functions.f<|message|>{}<|call|>", [CALL]),
    "nearly a channel": ("<|channel|>finalx<|message|>z<|return|>", [ANSWER]),
    "channel in another case": ("<|channel|>Final<|message|>z<|return|>", [ANSWER]),
    "channel cut short": (
        f"<|channel|>comment<|message|>x<|end|>{NEXT}{GOOD}", [("commentary", None, None, "x"), ANSWER]),
    "channel misspelt": (f"<|channel|>analisys<|message|>x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "text after the channel": ("<|channel|>commentary? hmm<|message|>x<|end|>", [("commentary", None, None, "x")]),
    "prose after the channel": (
        f"<|channel|>analysis of it all<|message|>x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "prose after the marker": (
        "<|channel|>commentary to=functions.f<|constrain|>json: a file<|message|>{}<|call|>",
        [("commentary", "functions.f", "<|constrain|>json:", "{}")]),
    "message missing": ("<|channel|>final hello   big world<|return|>", [("final", None, None, "hello   big world")]),
    "message missing, glued": ("<|channel|>finalHello<|return|>", [("final", None, None, "Hello")]),
    "message missing, long": (
        "<|channel|>final " + "word " * 40 + "end<|return|>", [("final", None, None, "word " * 40 + "end")]),
    "message missing, unknown channel": ("<|channel|>Sure, I can.<|return|>", [("final", None, None, "Sure, I can.")]),
    "message missing, with a recipient": ("<|channel|>commentary to=functions.f {}<|call|>", [CALL]),
    "message missing, recipient first": (" to=functions.f<|channel|>commentary {}<|call|>", [CALL]),
    "message missing, with a type": ("<|channel|>commentary to=functions.f <|constrain|>json{}<|call|>", [CONSTRAINED]),
    "message missing, bare type": ("<|channel|>commentary to=functions.f json {}<|call|>", [JSON_CALL]),
    "message missing, no channel": (" to=functions.f {}<|call|>", [(None, "functions.f", None, "{}")]),
    "message missing, arguments glued": ("<|channel|>commentary to=functions.f{}<|call|>", [CALL]),
    "message missing in the second message": (f"{THINK}{NEXT}<|channel|>final z<|return|>", [THOUGHT, ANSWER]),
    "message missing, cut off": ("<|channel|>final z", [ANSWER]),
    "call without arguments": (
        "<|channel|>commentary to=functions.f<|call|>", [("commentary", "functions.f", None, "")]),
    "bare text": ("I cannot help.<|end|>", [("final", None, None, "I cannot help.")]),
    "bare text, stopped": ("I cannot help.<|return|>", [("final", None, None, "I cannot help.")]),
    "bare text, cut off": ("I cannot", [("final", None, None, "I cannot")]),
    "bare text that begins like a header": ("final answer: z", [("final", None, None, "final answer: z")]),
    "bare text, then a message": (f"x<|end|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "bare text, its end missing": (f"x{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "bare text, start and end missing": (f"x{GOOD}", [THOUGHT, ANSWER]),
    "bare text after a role": (f"{THINK}{NEXT} z<|return|>", [THOUGHT, ANSWER]),
    "bare text instead of a role": (f"{THINK}<|start|>Sure, I can.", [THOUGHT, ("final", None, None, "Sure, I can.")]),
    "bare text that begins like a role": (
        f"{THINK}<|start|>tooling up.", [THOUGHT, ("final", None, None, "tooling up.")]),
    "text after a finished message": (f"{THINK} y{NEXT}{GOOD}", [THOUGHT, ("analysis", None, None, "y"), ANSWER]),
    "answer right after a thought": (f"{THINK}z<|return|>", [THOUGHT, ANSWER]),
    "white space after a message": (f"{THINK}\n {NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "header without start": (f"{THINK}{GOOD}", [THOUGHT, ANSWER]),
    "generation goes on after a call": (
        "<|channel|>commentary to=functions.f<|message|>{}<|call|>commentary",
        [CALL, ("analysis", None, None, "commentary")]),
    "generation goes on after an answer": (f"{GOOD}x", [ANSWER, THOUGHT]),
    "two stop tokens": (f"{GOOD}<|return|><|end|>", [ANSWER]),
    "start doubled": (f"{THINK}<|start|>{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "role doubled": (f"{THINK}{NEXT}assistant{GOOD}", [THOUGHT, ANSWER]),
    "role doubled with start": (f"{THINK}{NEXT}{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "role repeated at the beginning": (f"assistant{GOOD}", [ANSWER]),
    "role and channel glued": (f"{THINK}{NEXT}final<|message|>z<|return|>", [THOUGHT, ANSWER]),
    "role and text glued": (f"{THINK}{NEXT}Hello, you.<|return|>", [THOUGHT, ("final", None, None, "Hello, you.")]),
    "header begun anew": (f"<|channel|>analysis{NEXT}{GOOD}", [ANSWER]),
    "end missing between messages": (f"<|channel|>analysis<|message|>x{NEXT}{GOOD}", [THOUGHT, ANSWER]),
    "end and start missing": (f"<|channel|>analysis<|message|>x{GOOD}", [THOUGHT, ANSWER]),
    "control token inside the text": (
        "<|channel|>final<|message|>a<|channel|>b<|return|>", [("final", None, None, "ab")]),
    "channel word inside the text": (
        "<|channel|>final<|message|>a<|channel|>final b<|return|>", [("final", None, None, "afinal b")]),
    "stray tokens inside the text": (
        "<|channel|>final<|message|><|message|>a<|constrain|>b<|reserved_a|>c<|return|>",
        [("final", None, None, "abc")]),
    "endoftext inside the text": ("<|channel|>final<|message|>z<|endoftext|>x<|return|>", [ANSWER, THOUGHT]),
    "endoftext at the end": ("<|channel|>final<|message|>z<|endoftext|>", [ANSWER]),
    "call closed with end": ("<|channel|>commentary to=functions.f<|message|>{}<|end|>", [CALL]),
    "call closed with return": ("<|channel|>commentary to=functions.f<|message|>{}<|return|>", [CALL]),
    "call cut off": ("<|channel|>commentary to=functions.f<|message|>{}", [CALL]),
    "cut off inside the text": ("<|channel|>final<|message|>z", [ANSWER]),
    "cut off inside a header": (f"{THINK}{NEXT}<|channel|>commentary to=functions.f", [THOUGHT]),
    "header ended": ("<|channel|>final<|return|>", [("final", None, None, "")]),
    "nothing": ("", []),
    "nothing but an end": ("<|return|>", []),
}  # fmt: skip
