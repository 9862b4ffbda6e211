"""Filler sentences and keys: tools/sentence.c once more, with the same words and the same shares.

A test compares the lists with that file's. All chance comes from the random.Random given.
"""

ADJECTIVES = """
    amber brave calm crimson dusty early faint gentle golden grey hidden icy jolly keen lazy
    little lucky mellow misty noble old pale proud quick quiet rapid red rough royal rusty sharp
    silent silver small smooth soft solid stormy strange strong sunny swift tall tender tiny
    warm wild wise young
""".split()
NOUNS = """
    anchor apple arrow badger barrel beacon bell bird boat bottle bridge brook candle castle
    cedar cloud coin comet copper coral crane crow deer desert dolphin dragon drum eagle engine
    falcon farm feather fern field fire fish flag flower forest fox garden gate ghost glacier
    goose harbor hawk hill horse island ivory jacket jungle kettle king kite lake lamp lantern
    leaf lion maple market meadow mill mirror moon moth mountain needle night oak ocean orchid
    otter owl palace panther pebble pepper pine planet pond prince queen rabbit raven river
    robin rocket rose sailor salmon shadow shell ship snow spider spring star stone storm summer
    swan table temple thunder tiger tower tree turtle valley village violin wagon walnut water
    whale willow wind window winter wolf wood
""".split()
VERBS = """
    follows watches finds leaves carries builds crosses paints guards hears holds keeps likes
    meets misses moves needs opens passes pulls reaches reads sees sells sends shows takes
    touches visits wants
""".split()
ADVERBS = """
    again quickly slowly today often never always quietly gladly soon twice early late together
    alone
""".split()
PREPOSITIONS = "near under over behind beside past into from with without across beyond".split()
CONJUNCTIONS = "and but while because so when until although".split()
ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr gr st tr pl sh th ch".split()
VOWELS = "a e i o u ai ea oo".split()
CODAS = "l m n r s t k".split()


def made_word(rng):
    """A word that no dictionary has: two or three syllables."""
    syllables = (rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice((2, 2, 3))))
    return "".join(syllables) + (rng.choice(CODAS) if rng.random() < 0.4 else "")


def noun_phrase(rng):
    x = rng.random()
    if x < 0.35:
        return f"the {rng.choice(NOUNS)}"
    if x < 0.8:
        return f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if x < 0.9:
        return f"a {rng.choice(NOUNS)}"
    return made_word(rng)


def clause(rng):
    text = f"{noun_phrase(rng)} {rng.choice(VERBS)} {noun_phrase(rng)}"
    x = rng.random()
    if x < 0.3:
        return f"{text} {rng.choice(PREPOSITIONS)} {noun_phrase(rng)}"
    if x < 0.5:
        return f"{text} {rng.choice(ADVERBS)}"
    return text


def sentence(rng):
    x = rng.random()
    if x < 0.04:
        return (f"In {rng.randint(1000, 2100)} there were {rng.randint(2, 999)} "
                f"{rng.choice(NOUNS)}s {rng.choice(PREPOSITIONS)} {noun_phrase(rng)}.")
    text = clause(rng)
    if x < 0.35:
        text += f" {rng.choice(CONJUNCTIONS)} {clause(rng)}"
    return text[0].upper() + text[1:] + "."


def make_key(rng):
    x = rng.random()
    first_known = x < 0.45 or 0.7 <= x < 0.85
    second_known = x < 0.45 or x >= 0.85
    first = rng.choice(ADJECTIVES) if first_known else made_word(rng)
    second = rng.choice(NOUNS) if second_known else made_word(rng)
    return f"{first} {second}"
