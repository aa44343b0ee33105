"""Thousands of requests through one engine: every answer its own, and no growth of memory."""

from __future__ import annotations

import random

import mlx.core as mx
import pytest

import gptoss_mlx
from gptoss_mlx.engine import Engine, EngineOptions, Request
from gptoss_mlx.harmony import render
from gptoss_mlx.history import to_conversation
from gptoss_mlx.machine import resident_memory
from gptoss_mlx.sampling import SamplingParams

REQUESTS = 2000


@pytest.mark.slow
def test_answers_stay_right_and_memory_flat() -> None:
    model = gptoss_mlx.load("demo")
    random.seed(1)
    options = EngineOptions(max_sequences=6, prefix_bytes=8 << 20)
    engine = Engine(model.model, model.tokenizer.size, model.tokenizer.stop_tokens, options)
    waiting, resident = [], []
    for number in range(REQUESTS):
        a, b = random.randrange(2, 60), random.randrange(2, 40)
        prompt = render(to_conversation(f"What is {a} + {b}?", effort="low"), model.tokenizer)
        starts = [i for i, token in enumerate(prompt) if token == model.tokenizer.start]
        sequence = engine.submit(Request(prompt, SamplingParams(temperature=0), 60, starts))
        waiting.append((a + b, sequence))
        if random.random() < 0.1:
            engine.cancel(random.choice(waiting)[1])
        while len(waiting) > 12 or (number == REQUESTS - 1 and waiting):
            engine.step()
            for answer, done in [pair for pair in waiting if pair[1].is_over]:
                text = model.tokenizer.decode([step.token for step in done.outbox])
                assert not done.finished or f"= {answer}." in text
                waiting.remove((answer, done))
        if number % 250 == 249:
            mx.clear_cache()
            resident.append(resident_memory())
    assert engine.running == engine.waiting == 0
    assert resident[-1] < 1.1 * resident[1] + 16e6
