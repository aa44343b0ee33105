"""Many questions at once: a CSV file with a column `question` in, the same with a column `answer` out.

    python examples/batch_csv.py questions.csv answers.csv
    python examples/batch_csv.py --model 20b --parallel 16 questions.csv answers.csv

Questions that run at the same time share the work of reading the weights, so several are faster than one by one.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track

import gptoss_mlx


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Answer the questions of a CSV file.")
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--model", default="demo", help="demo, 20b, 120b, a Hugging Face id or a folder")
    parser.add_argument("--parallel", type=int, default=8, help="questions that run together")
    options = parser.parse_args(arguments)

    with options.questions.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or "question" not in rows[0]:
        parser.error(f"{options.questions}: rows under a column named question expected, none found")

    model = gptoss_mlx.load(options.model)
    sampling = gptoss_mlx.SamplingParams(temperature=0.0)

    def answer(row: dict[str, str]) -> dict[str, str]:
        return {**row, "answer": model.chat(row["question"], effort="low", sampling=sampling).final}

    with ThreadPoolExecutor(options.parallel) as pool, options.answers.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "answer"])
        writer.writeheader()
        answered = pool.map(answer, rows)  # in the order of the questions
        for row in track(answered, "answering", total=len(rows), console=Console(stderr=True)):
            writer.writerow(row)
    print(f"{len(rows)} answers in {options.answers}")


if __name__ == "__main__":
    main()
