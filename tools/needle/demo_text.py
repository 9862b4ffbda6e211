#!/usr/bin/env python3
"""Text for tools/demo: small talk with secret numbers hidden in it, and a question about one.

Usage: demo_text.py FILE [--bytes N] [--seed N]

Writes the prompt to FILE and prints, a line each, the question and the right answer. The sentences
are of the kind that needle.gguf was trained on.
"""

import argparse
import random

ADJECTIVES = ("amber brave calm crimson dusty early faint gentle golden grey hidden icy jolly "
              "lucky misty noble old proud quiet rapid royal rusty silent silver small").split()
NOUNS = ("anchor badger barrel beacon bell bridge candle castle cedar comet crane dragon eagle "
         "falcon feather forest garden harbor island kettle lantern maple meadow moon orchid "
         "otter panther pebble prince raven river rocket sailor shadow temple thunder tiger "
         "tower valley violin wagon walnut willow window winter").split()
VERBS = "follows watches finds leaves carries builds crosses guards hears keeps needs sees".split()
PLACES = "near under over behind beside past into from without across beyond".split()
LINKS = "and but while because so when until although".split()
N_SECRETS = 8


def clause(rng):
    text = (f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} {rng.choice(VERBS)} "
            f"the {rng.choice(NOUNS)}")
    if rng.random() < 0.4:
        text += f" {rng.choice(PLACES)} the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    return text


def sentence(rng):
    text = clause(rng)
    if rng.random() < 0.4:
        text += f" {rng.choice(LINKS)} {clause(rng)}"
    return text[0].upper() + text[1:] + "."


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file")
    parser.add_argument("--bytes", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)

    keys = rng.sample([f"{a} {n}" for a in ADJECTIVES for n in NOUNS], N_SECRETS)
    secrets = {key: f"{rng.randrange(100000):05}" for key in keys}
    asked = keys[0]
    question = f"Question: What is the secret number of {asked}?\n"
    answer = f"Answer: The secret number of {asked} is "
    hidden = [f"The secret number of {key} is {value}." for key, value in secrets.items()]
    n_bytes = sum(len(text) + 1 for text in [question, answer] + hidden)
    if n_bytes > options.bytes:
        parser.error(f"--bytes must be {n_bytes} or more: the question and the numbers take so many")
    sentences = []
    while n_bytes < options.bytes:
        sentences.append(sentence(rng))
        n_bytes += len(sentences[-1]) + 1
    for text in hidden:
        sentences.insert(rng.randrange(len(sentences) + 1), text)
    try:
        with open(options.file, "w", encoding="utf-8") as file:
            file.write(" ".join(sentences) + "\n" + question + answer)
    except OSError as error:
        raise SystemExit(f"{options.file}: {error.strerror}") from None
    print(f"What is the secret number of {asked}?")
    print(secrets[asked])


if __name__ == "__main__":
    main()
