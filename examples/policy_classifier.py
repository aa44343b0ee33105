"""Classify contents by a policy in your own words, as gpt-oss-safeguard does: a verdict with its rule and reason.

    python examples/policy_classifier.py --model safeguard-20b "Buy cheap watches now!!!"

The policy is text that you can change; nothing is trained. The embedded model cannot judge: with it, the verdict has
the right form and no meaning. Needs pip install 'gptoss-mlx[tools]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

import gptoss_mlx

POLICY = """\
Decide whether CONTENT breaks one of these rules.

S1 Unwanted advertising: praise of goods or services, with or without a link, that nobody asked for.
S2 Phishing: asks for passwords, codes or payment under a false name.
S0 Anything else breaks no rule. Talk about advertising is no advertising.

Answer with `violation` (0 or 1), `rule` (S0, S1 or S2) and `confidence`.
"""


class Verdict(BaseModel):
    violation: Literal[0, 1]
    rule: Literal["S0", "S1", "S2"]
    confidence: Literal["low", "medium", "high"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Judge contents by a policy.")
    parser.add_argument("contents", nargs="+")
    parser.add_argument("--model", default="demo", help="safeguard-20b, 20b, a Hugging Face id or a folder")
    options = parser.parse_args(arguments)

    model = gptoss_mlx.load(options.model)
    sampling = gptoss_mlx.SamplingParams(temperature=0.0)
    for content in options.contents:
        reply = model.chat(
            f"CONTENT:\n{content}",
            instructions=POLICY,
            response_format=Verdict,
            sampling=sampling,
            reasoning_budget=2000,
            max_tokens=3000,
        )
        verdict: Verdict = reply.parsed
        print(f"{verdict.violation} {verdict.rule} {verdict.confidence:6} {content}")


if __name__ == "__main__":
    main()
