"""Tasks put to a model, one by one, and the share that it answered rightly.

By default the model is asked and its final message judged. Choices can also be scored without generating anything
(`score="likelihood"`): each is taken as the whole final message after the question, closing token included, and the
one of the largest log-probability counts as the answer. The model does not see the other choices then, and does not
think.

Prompts carry no date, and each question has a random key of its own: a run that was interrupted and taken up gives
the answers of one that was not.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from gptoss_mlx.conversation import MAX_TOKENS
from gptoss_mlx.errors import GptOssError, RequestError
from gptoss_mlx.harmony import Message, ReasoningEffort, render
from gptoss_mlx.history import to_conversation
from gptoss_mlx.runtime import GptOss
from gptoss_mlx.sampling import SamplingParams

from .answers import LETTERS, Verdict, judge
from .scoring import Progress, score_endings
from .tasks import Task

Score = Literal["generate", "likelihood"]


@dataclass(frozen=True)
class Settings:
    """How tasks are put to the model.

    Raises:
        RequestError, HarmonyError: a value is out of its range.
    """

    score: Score = "generate"
    effort: str = "medium"
    temperature: float = 1.0
    seed: int = 0
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        if self.score not in get_args(Score):
            raise RequestError(f"score: one of {', '.join(get_args(Score))} expected, {self.score!r} found")
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens: 1 or more expected, {self.max_tokens} found")
        ReasoningEffort.of(self.effort)
        SamplingParams(temperature=self.temperature, seed=self.seed)

    def sampling(self, task: Task) -> SamplingParams:
        """How to draw the answer to one task, whichever tasks were asked before."""
        key = zlib.crc32(f"{self.seed} {task.id}".encode("utf-8", "surrogatepass"))
        return SamplingParams(temperature=self.temperature, seed=key)


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        id, group: the task's.
        correct: whether the answer is right.
        extracted: what was taken for the answer; None: nothing.
        final: the text of the channel final; of a scored choice its text.
        tokens: generated ones, thoughts included; of scored choices none.
        finish_reason: `stop`, `length`, `tool_calls`, or `likelihood`.
    """

    id: str
    group: str
    correct: bool
    extracted: str | None
    final: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class GroupScore:
    """Results of a group's tasks: counts, and the mean number of tokens."""

    group: str
    tasks: int
    correct: int
    unanswered: int
    cut_off: int
    mean_tokens: float

    @classmethod
    def of(cls, group: str, outcomes: Sequence[Outcome]) -> GroupScore:
        """Count at least one outcome."""
        return cls(
            group,
            len(outcomes),
            sum(outcome.correct for outcome in outcomes),
            sum(outcome.extracted is None for outcome in outcomes),
            sum(outcome.finish_reason == "length" for outcome in outcomes),
            sum(outcome.tokens for outcome in outcomes) / len(outcomes),
        )

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.tasks

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.correct, self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """Every figure as plain JSON values."""
        low, high = self.interval
        return {**asdict(self), "accuracy": self.accuracy, "accuracy_low": low, "accuracy_high": high}


@dataclass(frozen=True)
class TaskReport:
    """The groups in the order of the file, and all tasks together."""

    settings: Settings
    groups: tuple[GroupScore, ...]
    total: GroupScore

    @classmethod
    def of(cls, settings: Settings, outcomes: Sequence[Outcome]) -> TaskReport:
        """Count at least one outcome."""
        names = dict.fromkeys(outcome.group for outcome in outcomes)
        groups = [GroupScore.of(name, [o for o in outcomes if o.group == name]) for name in names]
        return cls(settings, tuple(groups), GroupScore.of("all", outcomes))

    def to_dict(self) -> dict[str, Any]:
        """Every figure as plain JSON values."""
        return {
            "settings": asdict(self.settings),
            "groups": [group.to_dict() for group in self.groups],
            "total": self.total.to_dict(),
        }


def wilson(correct: int, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 %.

    Unlike mean and standard deviation it stays within 0 and 1 and has a width where all or none are right.
    """
    z = 1.959963984540054
    share, scale = correct / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / scale
    return (middle - half if correct else 0.0), (middle + half if correct < count else 1.0)


def run_tasks(
    model: GptOss,
    tasks: Sequence[Task],
    settings: Settings,
    *,
    done: Mapping[str, Outcome] | None = None,
    keep: Callable[[Outcome], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> TaskReport:
    """Put tasks to a model, one after the other.

    Args:
        model: any.
        tasks: at least one.
        settings: how.
        done: outcomes by id, of tasks that need not be put again.
        keep: told each new outcome as soon as it is there.
        progress: told (tasks done, tasks in all).

    Raises:
        RequestError: a task does not fit the context, or cannot be scored as asked; it is named by its id.
    """
    if not tasks:
        raise RequestError("tasks: at least one expected, none found")
    outcomes = dict(done or {})
    for task in tasks:
        if settings.score == "likelihood" and not task.choices:
            raise RequestError(f"task {task.id!r}: choices are needed to score likelihoods; none found")
    for number, task in enumerate(tasks):
        progress(number, len(tasks))
        if task.id in outcomes:
            continue
        try:
            outcomes[task.id] = _put(model, task, settings)
        except GptOssError as error:
            raise RequestError(f"task {task.id!r}: {error}") from None
        keep(outcomes[task.id])
    return TaskReport.of(settings, [outcomes[task.id] for task in tasks])


def _put(model: GptOss, task: Task, settings: Settings) -> Outcome:
    if settings.score == "likelihood":
        letter = likeliest(model, task, settings.effort)
        final = task.choices[LETTERS.index(letter)]
        return _outcome(task, Verdict(letter, letter == task.answer), final, 0, "likelihood")
    reply = model.chat(
        task.prompt,
        effort=settings.effort,
        instructions=task.system,
        sampling=settings.sampling(task),
        max_tokens=settings.max_tokens,
        reasoning_budget=settings.max_tokens,  # thoughts that do not come to an end are a result as well
        date=None,
    )
    verdict = judge(reply.final, task.match, task.answer, task.choices)
    return _outcome(task, verdict, reply.final, reply.usage.completion_tokens, reply.finish_reason)


def _outcome(task: Task, verdict: Verdict, final: str, tokens: int, reason: str) -> Outcome:
    return Outcome(task.id, task.group, verdict.correct, verdict.extracted, final, tokens, reason)


def likeliest(model: GptOss, task: Task, effort: str) -> str:
    """The letter of the choice that the model would most likely say as its whole final message."""
    tokenizer = model.tokenizer
    conversation = to_conversation(task.question, effort=effort, instructions=task.system)
    prompt = render(conversation, tokenizer)
    messages = [render((Message.assistant(choice),), tokenizer, None, training=True) for choice in task.choices]
    opening = 1 + len(tokenizer.encode("assistant"))  # which the prompt ends with
    scores = score_endings(model, prompt, [message[opening:] for message in messages])
    sums = [float(score.logprobs.sum()) for score in scores]
    return LETTERS[sums.index(max(sums))]
