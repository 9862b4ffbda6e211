#!/usr/bin/env python3
"""Trains the needle model from nothing, on the CPU, and writes it as GGUF.

    train.py OUT.gguf [--shape tiny] [--seed 1] [--minutes M]   resumes what was interrupted
    train.py OUT.gguf --smoke                                   all phases, a few steps each
    train.py --check                                            the kernels against plain torch

Needs PyTorch (Debian's python3-torch will do) and a C compiler. Checkpoints, kernels and a log of
the losses lie in --work. The same seed, shape and number of threads give the same model, except
with --minutes, where the clock ends the phases.
"""

import argparse
import ctypes
import json
import math
import os
import signal
import sys
import time
from dataclasses import dataclass

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit("train.py: needs PyTorch (python3-torch, for /usr/bin/python3)") from None

import export
import shapes
import tasks
import train_check
import train_kernels
import train_model

# Shares of the tasks. Copying comes first: from it the model learns to look for what it has seen.
COPYING = dict(repeat=35, niah=40, multikey=5, kvretrieval=14, vartrack=3, longgen=1, filler=2)
GROWING = dict(repeat=12, niah=40, multikey=12, kvretrieval=12, vartrack=9, multiturn=6, longgen=6,
               filler=3)
ALL = dict(repeat=5, niah=34, multikey=16, kvretrieval=13, vartrack=4, multiturn=11, longgen=15,
           filler=2)


@dataclass
class Phase:
    tokens: float       # millions
    rates: tuple        # of learning: at the beginning and, along a cosine, at the end
    recipe: tasks.Recipe


# Lengths grow, and with them the distances that positions pretend and the weight of the filler, as
# if each of its tokens stood there e^log_multiplicity times.
PHASES = (
    Phase(6, (3e-3, 2.5e-3), tasks.Recipe(256, 16, COPYING, 0.05, 0.3, 2000, 0)),
    Phase(8, (2.5e-3, 1.8e-3), tasks.Recipe(512, 12, GROWING, 0.05, 0.6, 65536, 3)),
    Phase(24, (1.8e-3, 1e-3), tasks.Recipe(1024, 8, ALL, 0.03, 0.75, 300000, 5.5)),
    Phase(38, (1e-3, 3e-4), tasks.Recipe(1024, 8, ALL, 0.03, 0.8, 400000, 6.5)),
    Phase(16, (5e-4, 2e-5), tasks.Recipe(2048, 4, ALL, 0.03, 0.8, 400000, 7)),
)
SMOKE_STEPS = 2
WARM_UP_STEPS = 100
BETAS, EPSILON, DECAY, CLIP = (0.9, 0.98), 1e-8, 0.02, 1.0
REPORT_SECONDS, SAVE_SECONDS = 10, 120


class AdamW:
    """Over the model's flat arrays; only matrices decay."""

    def __init__(self, model):
        self.model = model
        self.mean, self.square = torch.zeros_like(model.flat), torch.zeros_like(model.flat)
        self.n_steps = 0

    def step(self, rate):
        gradient, flat = self.model.gradient, self.model.flat
        norm = float(gradient.norm())
        if not math.isfinite(norm):
            raise SystemExit("the gradient is no longer finite: try another --seed")
        gradient.mul_(min(1.0, CLIP / (norm + 1e-6)))
        self.n_steps += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        flat[:self.model.n_matrices].mul_(1 - rate * DECAY)
        scale = math.sqrt(1 - BETAS[1] ** self.n_steps)
        flat.addcdiv_(self.mean, self.square.sqrt().add_(EPSILON * scale),
                      value=-rate * scale / (1 - BETAS[0] ** self.n_steps))
        gradient.zero_()


class Clock:
    """How far training is: by steps, or with --minutes by time. Each phase's share of the time is
    that of its cost, in products; attention's are slower than those of bf16 matrices."""

    def __init__(self, options, shape):
        self.phase, self.steps, self.seconds = 0, 0, 0.0  # the last two in this phase
        self.n_steps = [SMOKE_STEPS if options.smoke
                        else math.ceil(phase.tokens * 1e6 / self.step_tokens(phase))
                        for phase in PHASES]
        matrices = sum(rows * columns for _, rows, columns in shape.tensors())
        keys = 3 * shape.n_layers * shape.n_heads * shape.d_head
        self.costs = [n * self.step_tokens(phase) * (matrices + keys * phase.recipe.length / 2)
                      for n, phase in zip(self.n_steps, PHASES)]
        self.limit = options.minutes * 60 if options.minutes else None

    @staticmethod
    def step_tokens(phase):
        return phase.recipe.length * phase.recipe.n_seqs

    def share(self, phase):
        return self.costs[phase] / sum(self.costs)

    def done(self):
        """Of the phase, 0 to 1."""
        if self.limit is None:
            return self.steps / self.n_steps[self.phase]
        return min(1.0, self.seconds / (self.limit * self.share(self.phase)))

    def add(self, seconds):
        self.steps += 1
        self.seconds += seconds

    def begin_next(self):
        self.phase, self.steps, self.seconds = self.phase + 1, 0, 0.0

    def finished(self):
        return self.phase == len(PHASES)

    def seconds_left(self):
        """At the pace of this phase."""
        if self.done() == 0:
            return math.nan
        rest = sum(self.share(phase) for phase in range(self.phase + 1, len(PHASES)))
        rest += self.share(self.phase) * (1 - self.done())
        return self.seconds / (self.done() * self.share(self.phase)) * rest


class Report:
    """Sums since the last line. A row is right where every byte of its answers is the likeliest."""

    def __init__(self, log):
        self.log = log
        self.clear()

    def clear(self):
        self.tokens = self.seconds = 0
        self.answers, self.others, self.rows = [], [], {}

    def add(self, batch, losses, right, seconds):
        is_answer = batch.weights == tasks.ANSWER_WEIGHT
        losses, right = losses.view_as(batch.weights), right.view_as(batch.weights)
        self.tokens += batch.weights.numel()
        self.seconds += seconds
        self.others.append(float(losses[~is_answer].mean()))
        if bool(is_answer.any()):
            self.answers.append(float(losses[is_answer].mean()))
        for name, row, wanted in zip(batch.tasks, right, is_answer):
            if bool(wanted.any()):
                self.rows.setdefault(name, []).append(bool(row[wanted].all()))

    def write(self, total, clock, rate):
        means = {name: round(sum(rows) / len(rows), 3) for name, rows in sorted(self.rows.items())}
        line = dict(phase=clock.phase + 1, tokens=total, rate=round(rate, 6),
                    loss=round(sum(self.answers) / max(1, len(self.answers)), 4),
                    rest_loss=round(sum(self.others) / len(self.others), 4),
                    tokens_per_s=round(self.tokens / self.seconds), right=means)
        self.log.write(json.dumps(line) + "\n")
        self.log.flush()
        left = clock.seconds_left()
        eta = "?" if math.isnan(left) else f"{left / 60:.1f} min"
        rights = " ".join(f"{name} {100 * share:.0f}%" for name, share in means.items())
        print(f"phase {line['phase']}/{len(PHASES)}  {total / 1e6:.2f}M tokens  "
              f"{line['tokens_per_s']} tokens/s  {eta} left  loss {line['loss']:.3f} "
              f"({line['rest_loss']:.3f})  {rights}", file=sys.stderr, flush=True)
        self.clear()


class Training:
    """A run: what a checkpoint holds, and the loop."""

    def __init__(self, options):
        shape = shapes.SHAPES[options.shape]
        name = f"{options.shape}-{options.seed}{'-smoke' if options.smoke else ''}"
        os.makedirs(options.work, exist_ok=True)
        self.path = os.path.join(options.work, name + ".pt")
        self.log_path = os.path.join(options.work, name + ".jsonl")
        self.options = options
        self.kernels = train_kernels.Kernels(options.work)
        self.model = train_model.Model(shape, options.seed)
        self.optimiser = AdamW(self.model)
        self.clock = Clock(options, shape)
        self.total = 0

    def save(self):
        state = dict(flat=self.model.flat, mean=self.optimiser.mean, square=self.optimiser.square,
                     n_steps=self.optimiser.n_steps, total=self.total,
                     clock=(self.clock.phase, self.clock.steps, self.clock.seconds))
        torch.save(state, self.path + ".new")
        os.replace(self.path + ".new", self.path)

    def resume(self):
        if self.options.smoke or not os.path.exists(self.path):
            return
        state = torch.load(self.path)
        self.model.flat.copy_(state["flat"])
        self.optimiser.mean, self.optimiser.square = state["mean"], state["square"]
        self.optimiser.n_steps, self.total = state["n_steps"], state["total"]
        self.clock.phase, self.clock.steps, self.clock.seconds = state["clock"]
        print(f"resuming {self.path} at {self.total / 1e6:.2f}M tokens", file=sys.stderr)

    def rate(self):
        begin, end = PHASES[self.clock.phase].rates
        rate = end + (begin - end) * 0.5 * (1 + math.cos(math.pi * self.clock.done()))
        return rate * min(1.0, (self.optimiser.n_steps + 1) / WARM_UP_STEPS)

    def step(self, report):
        start = time.monotonic()
        recipe = PHASES[self.clock.phase].recipe
        seed = f"{self.options.seed}/{self.optimiser.n_steps}"
        batch = train_model.to_tensors(tasks.make_batch(seed, recipe))
        loss, losses, right = train_model.loss(self.model, self.kernels, batch)
        loss.backward()
        self.optimiser.step(self.rate())
        self.total += batch.weights.numel()
        report.add(batch, losses, right, time.monotonic() - start)
        return time.monotonic() - start

    def run(self):
        self.resume()
        interrupts = []
        signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
        with open(self.log_path, "a", encoding="ascii") as log:
            report = Report(log)
            saved = time.monotonic()
            while not self.clock.finished():
                rate = self.rate()
                self.clock.add(self.step(report))
                ended = self.clock.done() >= 1
                if report.seconds >= REPORT_SECONDS or ended:
                    report.write(self.total, self.clock, rate)
                if ended:
                    self.clock.begin_next()
                if ended or interrupts or time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
                if interrupts:
                    raise SystemExit(f"interrupted; {self.path} is where the same command goes on")


def keep_memory():
    """Has malloc keep what is freed. Else each step maps all its arrays anew, and the page faults
    take as long as the smaller kernels."""
    m_mmap_max, m_trim_threshold = -4, -1
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, -1)


def try_file(path):
    """Raises OSError if it cannot be written, before the work that leads to it."""
    is_new = not os.path.exists(path)
    with open(path, "ab"):
        pass
    if is_new:
        os.remove(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", nargs="?", help="the GGUF file to write")
    parser.add_argument("--shape", choices=shapes.SHAPES, default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="end each phase by the clock, all of them "
                                                      "after this time")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", default=os.path.join(train_kernels.ROOT, "build/needle"),
                        help="folder for kernels, checkpoints and logs (default: build/needle)")
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_STEPS} steps of each phase")
    parser.add_argument("--check", action="store_true", help="compare the kernels with plain torch")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    if options.check:
        raise SystemExit(0 if train_check.run(options.work) else 1)
    if options.out is None:
        parser.error("OUT.gguf is missing")
    try_file(options.out)
    training = Training(options)
    training.run()
    weights = {name: weight.detach().numpy() for name, weight in training.model.weights.items()}
    export.write(options.out, "needle", training.model.shape, weights)
    print(f"wrote {options.out}: {training.model.flat.numel()} parameters, "
          f"{training.total / 1e6:.2f}M tokens", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        raise SystemExit(f"train.py: {error.filename}: {error.strerror}")
