# The texts that the needle model learns from: each question can be answered from its text, and in
# one way only; held-out forms stay out; seeds hold. So it is with what `fathom eval` hides and asks,
# whose words and forms are the same. Usage: needle_tasks.py FATHOM
#
# The answers are found again here from the facts alone, by regular expressions made from the forms.

import json
import os
import random
import re
import string
import subprocess
import sys

from with_numpy import ROOT, numpy as np

import sentences
import sources
import tasks

N_TEXTS = 60
RECIPE = tasks.Recipe(512, 24, {**dict.fromkeys(tasks.TASKS, 1), "repeat": 1}, 0.05, 0.7, 300000,
                      5.5)
WORDS = r"[a-z]+ [a-z]+"
FIELDS = dict(key=WORDS, k=WORDS, name="[a-z]+", var="[A-Z]{5}", hash="[0-9a-f]{8}", i=r"\d{1,2}",
              n=r"\d{5}", v=r"\w+", value=r"\w+", a="|".join(tasks.ATTRIBUTES))


def pattern(form):
    """A form as a regular expression; its fields are groups."""
    parts, seen = [], set()
    for literal, name, _, _ in string.Formatter().parse(form):
        parts.append(re.escape(literal))
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{FIELDS[name]})")
            seen.add(name)
    return "".join(parts)


def read_facts(form, text):
    """Fields of every fact in the text."""
    return [match.groupdict() for match in re.finditer(rf"(?<!\w){pattern(form)}", text)]


def lookup(facts, **wanted):
    """The one value of the facts with these fields; the value is the field that is left."""
    found = [fact for fact in facts if all(fact[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} facts for {wanted}")
    (value,) = set(found[0].items()) - set(wanted.items())
    return value[1]


def solve_pairs(form, text, ask):
    """The answer to a question in this form, None if it is in another."""
    match = re.fullmatch(pattern(form["ask"]), ask)
    if match is None:
        return None
    wanted = match.groupdict()
    value = lookup(read_facts(form["fact"], text), **wanted)
    return form["answer"].format(**wanted, n=value, v=value, value=value)


def solve_niah(text, ask, _before):
    forms = [dict(fact=fact, ask=ask, answer="{v}.\n") for fact, ask in tasks.TEMPLATES]
    answers = {solve_pairs(form, text, ask) for form in forms + [tasks.FORMS["niah"]]
               if read_facts(form["fact"], text)}
    (answer,) = answers - {None}
    return answer


def solve_kvretrieval(text, ask, _before):
    return solve_pairs(tasks.FORMS["kvretrieval"], text, ask)


def solve_vartrack(text, ask, _before):
    form = tasks.FORMS["vartrack"]
    facts = read_facts(form["fact"], text)
    var = re.fullmatch(pattern(form["ask"]), ask)["var"]
    answer = ""
    while True:
        value = lookup(facts, var=var)
        if value.isdigit():
            return answer + form["last"].format(var=var, n=value)
        answer += form["step"].format(var=var, value=value)
        var = value


def solve_multiturn(text, ask, before):
    form = tasks.FORMS["multiturn"]
    if ask == form["later_ask"]:
        guards = [answer for question, answer in before
                  if re.fullmatch(pattern(form["ask"]), question)]
        name = guards[-1].rstrip(".\n")
        number = lookup(read_facts(form["later_fact"], text), name=name)
        return form["later_answer"].format(name=name, n=number)
    match = re.fullmatch(pattern(form["ask"]), ask)
    if match is None:
        return solve_niah(text, ask, before)
    name = lookup(read_facts(form["fact"], text), key=match["key"])
    return form["answer"].format(name=name)


def solve_longgen(text, ask, _before):
    form = tasks.FORMS["longgen"]
    facts = read_facts(form["fact"], text)
    items = ask[len(form["ask"]):-len(form["begin"])]
    lines = [re.fullmatch(pattern(form["item"]), line + "\n").groupdict()
             for line in items.splitlines()]
    asked = "".join(form["item"].format(**line) for line in lines)
    if ask != form["ask"] + asked + form["begin"]:
        raise ValueError("not longgen's question")
    return "".join(form["line"].format(**line, n=lookup(facts, key=line["key"])) for line in lines)


SOLVERS = dict(niah=solve_niah, multikey=solve_niah, kvretrieval=solve_kvretrieval,
               vartrack=solve_vartrack, multiturn=solve_multiturn, longgen=solve_longgen)


def split_turns(example):
    """The text before the first question, and (question, answer) by the loss's weights."""
    first = example.weights.index(tasks.ANSWER_WEIGHT) - 1
    pieces = example.texts[first:]
    return "".join(example.texts[:first]), list(zip(pieces[::2], pieces[1::2]))


def find_unanswerable(name):
    faults = []
    for seed in range(N_TEXTS):
        n_bytes = (256, 512, 1024, 2048)[seed % 4]
        example = tasks.compose(random.Random(f"{name}/{seed}"), name, n_bytes, 0)
        if len(example.text()) != n_bytes:
            faults.append(f"seed {seed}: {len(example.text())} bytes instead of {n_bytes}")
        text, turns = split_turns(example)
        if not text.endswith("\n"):
            faults.append(f"seed {seed}: no newline before the first question")
        for i, (ask, answer) in enumerate(turns):
            try:
                solved = SOLVERS[name](text, ask, turns[:i])
            except (LookupError, ValueError) as error:
                solved = f"unsolvable: {error}"
            if solved != answer:
                faults.append(f"seed {seed}: {ask!r}: {answer!r} expected, {solved!r} found")
    return faults


def find_held_out():
    """Words of held-out forms in what training is given."""
    words = [re.split(r"\{\w\}", fact)[0] for fact, _ in tasks.HELD_OUT_TEMPLATES]
    words += tasks.HELD_OUT_ATTRIBUTES
    texts = [tasks.compose(random.Random(seed), "niah", 1024, 0).text() for seed in range(300)]
    faults = [f"{word!r} in {text!r}" for word in words for text in texts if word in text]
    used = sum(attribute in text for attribute in tasks.ATTRIBUTES for text in texts)
    return faults if used > len(texts) / 2 else faults + ["the attributes are not used either"]


def find_other_words():
    faults = []
    with open(os.path.join(ROOT, "tools/sentence.c"), encoding="utf-8") as file:
        text = file.read()
    for name in ("adjectives", "nouns", "verbs", "adverbs", "prepositions", "conjunctions",
                 "onsets", "vowels", "codas"):
        body = re.search(rf"{name}\[\] = {{(.*?)}};", text, re.DOTALL).group(1)
        if re.findall(r'"(\w+)"', body) != getattr(sentences, name.upper()):
            faults.append(f"{name} differ")
    return faults


def show(fathom, name, flags):
    """What the command would hide and ask: its texts, from its own forms."""
    line = [fathom, "eval", name, "-m", os.path.join(ROOT, "tools/needle/needle.gguf"),
            "--lengths", "4k,6k", "--questions", "40", "--needles", "20", "--show", *flags]
    result = subprocess.run(line, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def find_shown_faults(fathom, name, flags):
    """Questions of the command that the text does not answer as the command says."""
    faults, asked = [], {4096: 0, 6144: 0}
    for shown in show(fathom, name, flags):
        text = shown["text"]
        if not text.endswith("\n"):
            faults.append(f"no newline before the first question: {text[-40:]!r}")
        for question in shown["questions"]:
            asked[shown["length"]] += 1
            before = []
            for turn in question["turns"]:
                try:
                    solved = SOLVERS[name](text, turn["ask"], before)
                except (LookupError, ValueError) as error:
                    solved = f"unsolvable: {error}"
                if solved != turn["answer"]:
                    faults.append(f"{turn}: {solved!r} found")
                before.append((turn["ask"], turn["answer"]))
            # Begin and bytes are the model's tokens.
            n_tokens = 1 + len(text) + sum(len(ask) + len(answer) for ask, answer in before)
            if n_tokens > shown["length"]:
                faults.append(f"{n_tokens} tokens instead of {shown['length']}")
    return faults + [f"{n} questions of {length} tokens" for length, n in asked.items() if n != 40]


def find_odd_shapes(fathom):
    """What the flags ask for, and each task's own shape."""
    faults = []
    turns = [question["turns"] for shown in show(fathom, "multiturn", [])
             for question in shown["questions"]]
    if {len(turn) for turn in turns} != {2, 3, 4, 5}:
        faults.append("multiturn does not ask none to three questions in between")
    for name, flag, sign in (("vartrack", "--hops", " is "), ("longgen", "--items", "\n")):
        for n in (1, 4):
            for shown in show(fathom, name, [flag, str(n)]):
                faults += [f"{name} {flag} {n}: {question}" for question in shown["questions"]
                           if question["turns"][0]["answer"].count(sign) != n]
    for shown in show(fathom, "multikey", []):
        keys = {fact["key"] for fact in read_facts(tasks.FORMS["niah"]["fact"], shown["text"])}
        halves = [{key.split()[half] for key in keys} for half in (0, 1)]
        if len(keys) != 20 or [len(words) for words in halves] != [5, 5]:
            faults.append(f"multikey: {sorted(keys)}")
    return faults


def find_unseeded():
    one, same, other = (tasks.make_batch(seed, RECIPE) for seed in ("1/7", "1/7", "1/8"))
    faults = [f"{name} differs" for name in ("ids", "weights", "bias", "positions")
              if not np.array_equal(getattr(one, name), getattr(same, name))]
    return faults + (["another seed, the same text"] if np.array_equal(one.ids, other.ids) else [])


def find_bad_batches():
    """Positions, biases and weights of batches."""
    faults = []
    jumps = biased = 0
    for seed in range(10):
        batch = tasks.make_batch(seed, RECIPE)
        steps = np.diff(batch.positions, axis=1)
        jumps += int((steps > 1).any(axis=1).sum())
        biased += int((batch.bias > 0).any(axis=1).sum())
        if batch.positions.min() < 0 or batch.positions.max() >= RECIPE.n_positions:
            faults.append("a position is out of range")
        if steps.min() < 1:
            faults.append("positions do not rise")
        if batch.bias.min() < 0 or batch.bias.max() > RECIPE.log_multiplicity:
            faults.append("a bias is out of range")
        if (batch.ids[:, 0] != tasks.BEGIN).any() or (batch.ids[:, 1:] > 127).any():
            faults.append("ids are not the beginning and ASCII")
        # weights[i] is for ids[i + 1], bias[i] for the key ids[i]: answers have none.
        answers = batch.weights[:, :-1] == tasks.ANSWER_WEIGHT
        if (batch.bias[:, 1:][answers] != 0).any():
            faults.append("an answer has a bias")
        if (batch.weights <= 0).any():
            faults.append("a weight is not positive")
    n_rows = 10 * RECIPE.n_seqs
    if not 0.5 < jumps / n_rows < 0.75 or not 0.5 < biased / n_rows < 0.75:
        faults.append(f"{jumps} rows with gaps, {biased} with biases of {n_rows}")
    return faults


def main():
    checks = sources.Checks("needle_tasks")
    for name in SOLVERS:
        checks.rule(f"{name}: each question has one answer, the one given", find_unanswerable(name))
    checks.rule("every task is tested", sorted(set(tasks.TASKS) - set(SOLVERS) - {"filler"}))
    checks.rule("held-out forms stay out of training", find_held_out())
    checks.rule("words are those of the C programs", find_other_words())
    for name in SOLVERS:
        checks.rule(f"fathom eval {name} hides and asks in the same forms",
                    find_shown_faults(sys.argv[1], name, ["--seed", "7"]))
    checks.rule("flags of fathom eval shape its questions", find_odd_shapes(sys.argv[1]))
    checks.rule("a seed gives the same batch again", find_unseeded())
    checks.rule("positions, biases and weights are sound", find_bad_batches())
    checks.finish()


if __name__ == "__main__":
    main()
