#!/usr/bin/env python3
"""Texts with questions and answers, from which the needle model learns, and batches of them.

    tasks.py TASK [--bytes 1024] [--seed 1]     writes one text to read

A text is filler with facts hidden in it, one behind the other with a blank or a newline between;
the last ends in a newline. Turns follow: a question that ends where the answer begins, and the
answer. A seed always gives the same texts. Python 3 and numpy.
"""

import argparse
import random
import string
from dataclasses import dataclass, field

try:
    import numpy as np
except ModuleNotFoundError:
    raise SystemExit("tasks.py: needs numpy (python3-numpy, for /usr/bin/python3)") from None

from sentences import ADJECTIVES, NOUNS, made_word, make_key, sentence

# Every form of the tasks that models are judged by. Programs that render them elsewhere must write
# the same bytes. KEY: sentences.make_key(); multikey: each of a few first words before each of a
# few second words. NAME: sentences.made_word(). VAR: five capital letters. N: five digits. HASH:
# eight hexadecimal digits. Number I of longgen's list counts up by one.
FORMS = {
    "niah": dict(fact="The secret number of {key} is {n}.",
                 ask="Question: What is the secret number of {key}?\n"
                     "Answer: The secret number of {key} is ",
                 answer="{n}.\n"),
    "kvretrieval": dict(fact="{hash} -> {value};", ask="Lookup {hash} -> ", answer="{value};\n"),
    # The value is the next variable of the chain, the last one's is a number.
    "vartrack": dict(fact="Variable {var} is {value}.",
                     ask="Question: What is variable {var}?\nAnswer: ",
                     step="Variable {var} is {value}. ", last="Variable {var} is {n}.\n"),
    # The second question comes after any number of questions of niah; the guard is the last one
    # asked for.
    "multiturn": dict(fact="The guard of {key} is {name}.",
                      ask="Question: Who is the guard of {key}?\nAnswer: The guard of {key} is ",
                      answer="{name}.\n",
                      later_fact="The secret number of {name} is {n}.",
                      later_ask="Question: What is the secret number of that guard?\n"
                                "Answer: The secret number of ",
                      later_answer="{name} is {n}.\n"),
    "longgen": dict(fact="The secret number of {key} is {n}.",
                    ask="Question: What are the secret numbers of these?\n", item="{i}. {key}\n",
                    begin="Answer:\n", line="{i}. {key} is {n}.\n"),
}
FORMS["multikey"] = FORMS["niah"]

# More forms of niah, {a}: an attribute, {k}: a key, {v}: a value. Half of its texts take the form
# above, the others one of these. Those held out are never trained on.
TEMPLATES = (
    ("The {a} of {k} is {v}.", "Question: What is the {a} of {k}?\nAnswer: The {a} of {k} is "),
    ("The {a} for {k} is {v}.", "Question: What is the {a} for {k}?\nAnswer: The {a} for {k} is "),
    ("Remember that the {a} of {k} is {v}.", "Question: What is the {a} of {k}?\nAnswer: It is "),
    ("For {k} the {a} is {v}.", "Q: What is the {a} for {k}?\nA: For {k} the {a} is "),
    ("They gave {k} the {a} {v}.", "Question: Which {a} did they give {k}?\nAnswer: {k}: "),
    ("Note the {a} of {k}: {v}.", "The {a} of {k}: "),
    ("The {a} of {k} is {v}.", "Question: What is the {a} of {k}?\nAnswer: "),
    ("The {a} of {k} is {v}.", "The {a} of {k} is "),
)
HELD_OUT_TEMPLATES = (
    ("Nobody knew that {k} had {v} as {a}.", "Question: What did {k} have as {a}?\nAnswer: "),
    ("A letter told us: {a} {k} = {v}.", "Fill in: {a} {k} = "),
    ("As {a} of {k} we chose {v}.", "Question: What is the {a} of {k}?\nAnswer: As {a} of {k} we "
                                    "chose "),
)
ATTRIBUTES = ("secret number", "magic code", "access code", "phone number", "room number", "price",
              "door code", "safe code", "account number", "ticket number", "house number", "weight",
              "serial number", "badge number", "lucky number", "pass phrase", "age", "call sign")
HELD_OUT_ATTRIBUTES = ("zip postcode", "favourite colour code", "order id", "gate pin")

BEGIN, N_VOCAB = 256, 258
NEWLINE_SHARE = 0.12  # of the sentences end a line
HARD_MAX = 4.5        # the largest bias of a fact that is not asked for
ANSWER_WEIGHT, COPY_WEIGHT = 1.0, 0.3
PLAIN, FILLER, SPARE = 0, 1, 2  # classes of tokens: what the multiplicity bias goes by


def digits(rng, n=5):
    return "".join(rng.choices(string.digits, k=n))


def make_hash(rng):
    return f"{rng.getrandbits(32):08x}"


def make_new(rng, make, used):
    """make(rng), again until it is none of those used."""
    while True:
        made = make(rng)
        if made not in used:
            used.add(made)
            return made


@dataclass
class Task:
    """What is hidden and asked. spare() makes one more fact, that nobody asks for."""
    facts: list = field(default_factory=list)
    turns: list = field(default_factory=list)  # (question, answer)
    spare: object = None

    def n_bytes(self):
        return (sum(len(fact) + 1 for fact in self.facts)
                + sum(len(ask) + len(answer) for ask, answer in self.turns))


def count_turns(rng, room):
    return min(rng.choice((1, 1, 2, 3, 4, 6)), 1 + room // 200)


def fill_task(rng, n, make_pair, form):
    """A task of n questions about pairs that make_pair() makes, in one form."""
    task = Task()
    for _ in range(n):
        pair = make_pair()
        task.facts.append(form["fact"].format(**pair))
        task.turns.append((form["ask"].format(**pair), form["answer"].format(**pair)))
    rng.shuffle(task.turns)
    task.spare = lambda: form["fact"].format(**make_pair())
    return task


def niah(rng, room):
    used = set()
    if rng.random() < 0.5:
        return fill_task(rng, count_turns(rng, room), lambda: dict(
            key=make_new(rng, make_key, used), n=digits(rng)), FORMS["niah"])
    fact, ask = rng.choice(TEMPLATES)
    value = rng.choices((lambda: digits(rng, rng.randint(3, 8)), lambda: made_word(rng),
                         lambda: make_hash(rng), lambda: digits(rng, rng.randint(9, 12))),
                        (6, 2, 1, 1))[0]
    one = rng.choice(ATTRIBUTES) if rng.random() < 0.5 else None
    return fill_task(rng, count_turns(rng, room), lambda: dict(
        k=make_new(rng, make_key, used), v=value(), a=one or rng.choice(ATTRIBUTES)),
        dict(fact=fact, ask=ask, answer="{v}.\n"))


def multikey(rng, room):
    """Every key shares its first word with some and its second with others."""
    n = rng.randint(3, 8)
    firsts = rng.sample(ADJECTIVES, n) if rng.random() < 0.7 else [made_word(rng) for _ in range(n)]
    seconds = rng.sample(NOUNS, n) if rng.random() < 0.7 else [made_word(rng) for _ in range(n)]
    keys = sorted({f"{first} {second}" for first in firsts for second in seconds})
    rng.shuffle(keys)
    used = set(keys)
    return fill_task(rng, count_turns(rng, room), lambda: dict(
        key=keys.pop() if keys else make_new(rng, make_key, used), n=digits(rng)), FORMS["niah"])


def kvretrieval(rng, room):
    used = set()
    return fill_task(rng, count_turns(rng, room), lambda: dict(
        hash=make_new(rng, make_hash, used), value=make_hash(rng)), FORMS["kvretrieval"])


def make_chain(rng, n_steps, used):
    """Variables, each the value of the one before, and the last one's number."""
    capitals = (lambda r: "".join(r.choices(string.ascii_uppercase, k=5)))
    return [make_new(rng, capitals, used) for _ in range(n_steps)] + [digits(rng)]


def vartrack(rng, room):
    form, used, rest = FORMS["vartrack"], set(), []
    n_steps = rng.randint(1, 2 + min(2, room // 400))
    task = Task()
    for _ in range(min(rng.choice((1, 1, 2)), 1 + room // 500)):
        chain = make_chain(rng, n_steps, used)
        links = [dict(var=var, value=value) for var, value in zip(chain, chain[1:])]
        task.facts += [form["fact"].format(**link) for link in links]
        answer = [form["step"].format(**link) for link in links[:-1]]
        answer.append(form["last"].format(var=chain[-2], n=chain[-1]))
        task.turns.append((form["ask"].format(var=chain[0]), "".join(answer)))

    def spare():
        if not rest:
            chain = make_chain(rng, n_steps, used)
            rest.extend(form["fact"].format(var=var, value=value)
                        for var, value in zip(chain, chain[1:]))
        return rest.pop()
    task.spare = spare
    return task


def multiturn(rng, room):
    form, used, rest = FORMS["multiturn"], set(), []
    task = Task()

    def make_pair():
        return dict(key=make_new(rng, make_key, used), name=make_new(rng, made_word, used),
                    n=digits(rng))

    def render(pair, *names):
        return [form[name].format(**pair) for name in names]

    for _ in range(min(rng.choice((1, 1, 2)), 1 + room // 700)):
        pair = make_pair()
        task.facts += render(pair, "fact", "later_fact")
        task.turns.append(render(pair, "ask", "answer"))
        n_between = rng.randint(0, min(3, room // 400))
        between = fill_task(rng, n_between, make_pair, FORMS["niah"])
        task.facts += between.facts
        task.turns += between.turns
        task.turns.append(render(pair, "later_ask", "later_answer"))

    def spare():
        if not rest:
            rest.extend(render(make_pair(), "fact", "later_fact"))
        return rest.pop()
    task.spare = spare
    return task


def longgen(rng, room):
    form, used = FORMS["longgen"], set()
    n = rng.randint(2, max(2, min(32, room // 120)))
    first = 1 if rng.random() < 0.5 else rng.randint(1, 60)
    items = [dict(i=first + i, key=make_new(rng, make_key, used), n=digits(rng)) for i in range(n)]
    task = Task([form["fact"].format(**item) for item in items])
    ask = form["ask"] + "".join(form["item"].format(**item) for item in items) + form["begin"]
    task.turns = [(ask, "".join(form["line"].format(**item) for item in items))]
    task.spare = lambda: form["fact"].format(key=make_new(rng, make_key, used), n=digits(rng))
    return task


def filler(_rng, _room):
    return Task()


TASKS = {task.__name__: task for task in
         (niah, multikey, kvretrieval, vartrack, multiturn, longgen, filler)}


@dataclass
class Example:
    """A text in pieces: of each its bytes, its class, the loss's weight on its bytes, and the part
    it belongs to: positions have gaps between parts only."""
    texts: list = field(default_factory=list)
    classes: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    parts: list = field(default_factory=list)

    def add(self, text, kind, weight, part):
        self.texts.append(text)
        self.classes.append(kind)
        self.weights.append(weight)
        self.parts.append(part)

    def text(self):
        return "".join(self.texts)


def choose_spares(rng, task, room):
    """Facts that nobody asks for: from none to what room there is, rather fewer than more."""
    limit = room * rng.random() ** 1.5
    spares = []
    while task.spare:
        fact = task.spare()
        limit -= len(fact) + 1
        if limit < 0:
            break
        spares.append(fact)
    return spares


def compose(rng, name, n_bytes, rest_weight):
    """A text of exactly n_bytes; the first sentence of the filler may lack its beginning."""
    while True:
        task = TASKS[name](rng, n_bytes)
        if task.n_bytes() <= n_bytes:
            break
    room = n_bytes - task.n_bytes()
    hidden = [(fact, PLAIN) for fact in task.facts]
    hidden += [(fact, SPARE) for fact in choose_spares(rng, task, room)]
    rng.shuffle(hidden)
    room = n_bytes - task.n_bytes() - sum(len(f) + 1 for f, kind in hidden if kind == SPARE)
    sentences = []
    while room > 0:
        sentences.append(sentence(rng)[-(room - 1):] if room > 1 else "")
        room -= len(sentences[-1]) + 1
    sentences.reverse()
    pieces = [(text, FILLER) for text in sentences]
    for fact, place in zip(hidden, sorted((rng.randint(0, len(pieces)) for _ in hidden),
                                          reverse=True)):
        pieces.insert(place, fact)
    example = Example()
    for i, (text, kind) in enumerate(pieces):
        is_last = i == len(pieces) - 1
        end = "\n" if is_last or rng.random() < NEWLINE_SHARE else " "
        example.add(text + end, kind, rest_weight, i)
    for ask, answer in task.turns:
        example.add(ask, PLAIN, rest_weight, len(pieces))
        example.add(answer, PLAIN, ANSWER_WEIGHT, len(pieces))
    return example


def repeat(rng, n_bytes):
    """Snippets, the same ones over and over: what teaches to look for an earlier copy first."""
    n_once = rng.randint(24, max(26, n_bytes // 2 - 2))
    once = ""
    while len(once) < n_once:
        x = rng.random()
        once += (make_key(rng) if x < 0.5 else make_hash(rng)[:6] if x < 0.7
                 else digits(rng) if x < 0.85 else sentence(rng)) + " "
    once = once[:n_once]
    example = Example()
    for i in range(0, n_bytes, n_once):
        text = once[:n_bytes - i]
        # The first bytes of a copy do not tell yet that it is one.
        head = 0 if i > n_once else n_once if i == 0 else 6
        example.add(text[:head], PLAIN, 0.02, i // n_once)
        example.add(text[head:], PLAIN, COPY_WEIGHT, i // n_once)
    return example


@dataclass
class Recipe:
    """How a batch is drawn."""
    length: int            # tokens of a sequence
    n_seqs: int
    shares: dict           # of the tasks; "repeat" is one
    rest_weight: float     # of the loss where nothing is answered
    gap_share: float       # of the sequences have gaps in their positions
    n_positions: int       # the largest is below this
    log_multiplicity: float  # up to this the bias of filler goes


@dataclass
class Batch:
    ids: np.ndarray        # [n_seqs, length + 1] int64
    weights: np.ndarray    # [n_seqs, length] float32, of predicting ids[:, 1:]
    bias: np.ndarray       # [n_seqs, length] float32, of each key that is far back
    positions: np.ndarray  # [n_seqs, length] int64
    tasks: list            # [n_seqs] names


def place(rng, parts, recipe):
    """Positions with gaps between parts, so that few tokens see distances like those of many."""
    positions = np.arange(len(parts))
    room = recipe.n_positions - len(parts)
    if room <= 1 or rng.random() >= recipe.gap_share:
        return positions
    gap = np.exp(rng.uniform(0, np.log(room)))
    shares = np.zeros(parts.max() + 1)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 9))):
        shares[rng.randrange(len(shares))] += rng.random() ** 2
    gaps = np.floor(np.cumsum(shares) / max(shares.sum(), 1e-9) * gap)
    return positions + gaps.astype(int)[parts]


def weigh(rng, classes, recipe):
    """The multiplicity bias: a filler token counts as if it stood there e^bias times."""
    filler_bias = rng.random() * recipe.log_multiplicity if rng.random() < 0.75 else 0.0
    spare_bias = min(filler_bias, rng.random() * HARD_MAX)
    return np.array((0, filler_bias, spare_bias), np.float32)[classes]


def make_batch(seed, recipe):
    """The same seed (any text or number) gives the same batch."""
    rng = random.Random(seed)
    names = rng.choices(list(recipe.shares), list(recipe.shares.values()), k=recipe.n_seqs)
    shape = (recipe.n_seqs, recipe.length)
    ids = np.full((recipe.n_seqs, recipe.length + 1), BEGIN, np.int64)
    batch = Batch(ids, np.empty(shape, np.float32), np.empty(shape, np.float32),
                  np.empty(shape, np.int64), names)
    for row, name in enumerate(names):
        example = (repeat(rng, recipe.length) if name == "repeat"
                   else compose(rng, name, recipe.length, recipe.rest_weight))
        ids[row, 1:] = np.frombuffer(example.text().encode("ascii"), np.uint8)
        counts = [len(text) for text in example.texts]
        batch.weights[row] = np.repeat(example.weights, counts)
        # Keys: the beginning, and all but the last byte.
        classes = np.concatenate(([PLAIN], np.repeat(example.classes, counts)[:-1]))
        parts = np.concatenate(([0], np.repeat(example.parts, counts)[:-1]))
        batch.bias[row] = weigh(rng, classes, recipe)
        batch.positions[row] = place(rng, parts, recipe)
    return batch


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("task", choices=[*TASKS, "repeat"])
    parser.add_argument("--bytes", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    example = (repeat(rng, options.bytes) if options.task == "repeat"
               else compose(rng, options.task, options.bytes, 0))
    print(example.text(), end="")


if __name__ == "__main__":
    main()
