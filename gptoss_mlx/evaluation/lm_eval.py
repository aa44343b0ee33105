"""The adapter for lm-eval, EleutherAI's evaluation harness: its tasks on our models.

    python -m gptoss_mlx.evaluation.lm_eval run --model gptoss_mlx --model_args pretrained=20b --tasks arc_easy

runs lm-eval's own command with the model registered; in Python, `register()(pretrained="20b")` is a model for
`lm_eval.simple_evaluate`. lm-eval is an extra (`pip install 'gptoss-mlx[lm-eval]'`).

Without `--apply_chat_template` texts are continued raw, as lm-eval does with base models. With it, histories are
rendered as harmony; generation then thinks and returns the channel final alone, and likelihoods are those of the
beginning of a final message without thoughts. A chat travels through lm-eval, which passes nothing but texts, as
JSON behind a mark.

What was run: the tests use a stand-in for lm-eval's base class and registry, and a task of a local file where lm-eval
is installed. By hand, lm-eval 0.4.13 ran multiple-choice, generation and rolling tasks of local files on the embedded
model, raw and as chats; its published tasks, which need the network, have not been run.
"""

from __future__ import annotations

import importlib
import json
import types
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from gptoss_mlx import hub
from gptoss_mlx.conversation import MAX_TOKENS
from gptoss_mlx.errors import RequestError
from gptoss_mlx.harmony import Message, render
from gptoss_mlx.history import to_conversation
from gptoss_mlx.runtime import load
from gptoss_mlx.sampling import SamplingParams

from .perplexity import windows
from .scoring import score_endings, score_tokens

NAME = "gptoss_mlx"
CHAT = "\x00gptoss_mlx chat\x00"
"""What the text of a chat begins with, and no text of a task."""
RAW_TOKENS = 256
"""Generated ones at most where a task does not say, as in lm-eval's own models."""
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
FILTERS = ("top_p", "top_k", "min_p", "seed")


class Adapter:
    """What lm-eval asks of a model; `register` joins it with lm-eval's base class.

    Args:
        pretrained: path, alias or hub id.
        effort: how long to think in chats.
        max_gen_toks: generated tokens at most in chats, thoughts included. Tasks' own limits are meant for models
            that do not think, and apply to raw texts only.
        max_length: tokens that the model reads at most; None: its context.
        exact: see `gptoss_mlx.load`.
        batch_size, max_batch_size: given by lm-eval; one sequence at a time is all there is.
        device: given by lm-eval, "cuda:0" unless told otherwise; not used, as MLX chooses its device itself.

    Raises:
        RequestError: a value is out of its range.
    """

    cache_hook: Any

    def __init__(
        self,
        pretrained: str = hub.DEMO,
        *,
        effort: str = "medium",
        max_gen_toks: int = MAX_TOKENS,
        max_length: int | None = None,
        exact: bool | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1" or max_batch_size is not None:
            raise RequestError(f"batch_size 1 and no max_batch_size expected, {batch_size}, {max_batch_size} found")
        self.runtime = load(pretrained, exact=exact)
        most = self.runtime.config.max_position_embeddings
        self.max_length = most if max_length is None else max_length
        if not 1 <= self.max_length <= most:
            raise RequestError(f"max_length: 1 to {most} tokens expected, {max_length} found")
        self.effort = effort
        self.max_gen_toks = max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval files cached requests under."""
        return f"{NAME} {self.runtime.name}"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the text that the other methods know as one.

        Without `add_generation_prompt` the last message is the assistant's, still to be continued.
        """
        return CHAT + json.dumps({"messages": chat_history, "open": not add_generation_prompt})

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For requests of (context, continuation): the continuation's log-probability, and whether it is greedy.

        What is too long for the model loses its beginning.
        """
        pairs = [self._pair(*request.args) for request in requests]
        found: list[tuple[float, bool]] = []
        for prompt, group in groupby(pairs, key=lambda pair: pair[0]):
            scored = score_endings(self.runtime, prompt, [ending for _, ending in group])
            found += [(float(scores.logprobs.sum()), bool(scores.greedy.all())) for scores in scored]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """For requests of (text,): its log-probability, each token given as much as the model holds."""
        found = []
        for request in requests:
            tokens = [self.runtime.tokenizer.startoftext, *self.runtime.tokenizer.encode(request.args[0])]
            total = 0.0
            for window in windows(len(tokens), self.max_length, self.max_length) if len(tokens) > 1 else ():
                part = tokens[window.begin : window.end + 1]
                total += float(score_tokens(self.runtime, part, window.first - window.begin).logprobs.sum())
            found.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """For requests of (context, settings): what the model says, up to one of the texts of `until`."""
        found = []
        for request in requests:
            context, settings = request.args
            found.append(self._generate(context, sampling(settings), token_limit(settings)))
            self.cache_hook.add_partial("generate_until", request.args, found[-1])
        return found

    def _generate(self, context: str, params: SamplingParams, limit: int | None) -> str:
        if not context.startswith(CHAT):
            limit = RAW_TOKENS if limit is None else limit
            prompt = self._tokens(context)[-max(1, self.max_length - limit) :]
            return "".join(token.text for token in self.runtime.generate(prompt, params, limit))
        messages, opened = _chat(context)
        if opened is not None:
            raise RequestError("gen_prefix: cannot be continued, as the model thinks before it answers; leave it out")
        reply = self.runtime.chat(
            messages, effort=self.effort, sampling=params, max_tokens=self.max_gen_toks, date=None
        )
        return reply.final

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of the prompt and of the continuation, which are as those of both texts in one."""
        head: list[int] = []
        if context.startswith(CHAT):
            messages, opened = _chat(context)
            head = self._final_message(messages)
            context = opened or ""
        words = context.rstrip()
        continuation = context[len(words) :] + continuation
        before = self.runtime.tokenizer.encode(words)
        ending = self.runtime.tokenizer.encode(words + continuation)[len(before) :]
        if not ending:
            raise RequestError(f"continuation: a text expected, {continuation!r} found")
        prompt = [*head, *before] or [self.runtime.tokenizer.startoftext]
        room = max(1, self.max_length - len(ending) + 1)  # the last token is not read
        return prompt[-room:], ending

    def _final_message(self, messages: list[dict[str, str]]) -> list[int]:
        """A chat up to where the text of the final answer begins."""
        conversation = to_conversation(messages, effort=self.effort)
        tokenizer = self.runtime.tokenizer
        return render((*conversation, Message.assistant("")), tokenizer, None)[:-1]

    def _tokens(self, text: str) -> list[int]:
        return self.runtime.tokenizer.encode(text) or [self.runtime.tokenizer.startoftext]


def _chat(text: str) -> tuple[list[dict[str, str]], str | None]:
    """The messages of a chat, and the beginning of the answer if there is one."""
    chat = json.loads(text.removeprefix(CHAT))
    messages: list[dict[str, str]] = chat["messages"]
    return (messages[:-1], messages[-1]["content"]) if chat["open"] else (messages, None)


def sampling(settings: Mapping[str, Any]) -> SamplingParams:
    """lm-eval's generation settings as ours; unless they say `do_sample` or a temperature, the likeliest tokens.

    Raises:
        RequestError: an unknown setting, or a value out of its range.
    """
    unknown = sorted(set(settings) - {"until", "do_sample", "temperature", *LIMITS, *FILTERS})
    if unknown:
        raise RequestError(f"generation settings: unknown {unknown[0]!r}")
    temperature = settings.get("temperature")
    drawn = settings.get("do_sample", temperature is not None)
    filters = {name: settings[name] for name in FILTERS if settings.get(name) is not None}
    until = settings.get("until") or ()
    if not drawn:
        temperature = 0.0
    return SamplingParams(temperature=1.0 if temperature is None else temperature, stop=until, **filters)


def token_limit(settings: Mapping[str, Any]) -> int | None:
    """The first limit that generation settings give under one of its names."""
    return next((int(settings[name]) for name in LIMITS if settings.get(name) is not None), None)


def register() -> Any:
    """Register the model as `gptoss_mlx` in lm-eval; returns the class.

    Raises:
        RequestError: lm-eval is not installed.
    """
    try:
        base = importlib.import_module("lm_eval.api.model").LM
        registry = importlib.import_module("lm_eval.api.registry")
    except ImportError as error:
        raise RequestError(f"lm-eval: cannot be imported ({error}); pip install 'gptoss-mlx[lm-eval]'") from None
    joined = types.new_class("GptOssLM", (Adapter, base), exec_body=lambda body: body.update(__module__=__name__))
    return registry.register_model(NAME)(joined)


def main() -> None:
    """lm-eval's own command, with the model registered."""
    register()
    importlib.import_module("lm_eval.__main__").cli_evaluate()


if __name__ == "__main__":
    main()
