"""Queries: a class with some attributes, as words and as codes that say which subjects they match."""
import numpy as np
import torch

from worlds import toyworld
from toys import CLASSES, COLOURS

TABLES = {"cls": list(CLASSES), "colour": list(COLOURS), "pattern": toyworld.PATTERNS,
          "second": ["", *COLOURS], "head": ["", *COLOURS],
          "hat": ["", *COLOURS], "scarf": ["", *COLOURS], "glasses": ["", *COLOURS]}
FIELDS = list(TABLES)
INDEX = {field: {name: i for i, name in enumerate(names)} for field, names in TABLES.items()}
TEMPLATES = ("{}", "{}", "a {}", "a photo of a {}", "a photo of a {}.")
ANY = -1


def code(subject):
    """All attributes of a subject as numbers."""
    worn = dict(map(tuple, subject.get("acc", [])))
    value = dict(subject, second=subject.get("second") or "", head=subject.get("head") or "",
                 **{kind: worn.get(kind, "") for kind in toyworld.ACCESSORIES})
    return [INDEX[field][value[field]] for field in FIELDS]


def query_of(subject, rng):
    """A query that this subject matches: its class, its class and colour, or all its noun says."""
    full, u = code(subject), rng.random()
    if u < 0.15:
        return [full[0], *[ANY] * 7]
    if u < 0.3:
        return [full[0], full[1], *[ANY] * 6]
    # a noun is silent about what is not there, and may be about head and accessories
    says = [v if v > 0 and rng.random() < 0.6 else ANY for v in full[4:]]
    second = full[3] if TABLES["pattern"][full[2]] != "plain" else ANY
    pattern = full[2] if second != ANY else ANY
    return [full[0], full[1], pattern, second, *says]


def spoiled(query, rng, others):
    """The same query with one thing wrong; `others` are codes of other subjects to take it from."""
    wrong = list(query)
    said = [i for i, v in enumerate(query) if v != ANY]
    if query[3] != ANY and rng.random() < 0.2:
        wrong[1], wrong[3] = query[3] - 1, query[1] + 1  # body and pattern change colours
        return wrong
    i = said[rng.integers(len(said))]
    other = others[rng.integers(len(others))][i]
    if other == query[i] or rng.random() < 0.5 or (i > 2 and other == 0):
        other = int(rng.integers(1 if i >= 2 else 0, len(TABLES[FIELDS[i]])))
    wrong[i] = other
    return wrong


def words(query):
    """The query in the words of the captions."""
    names = {f: None if v == ANY else TABLES[f][v] for f, v in zip(FIELDS, query)}
    subject = {"cls": names["cls"], "colour": names["colour"], "head": names["head"],
               "pattern": names["pattern"] or "plain", "second": names["second"],
               "acc": [(k, names[k]) for k in toyworld.ACCESSORIES if names[k]]}
    text = toyworld.noun(subject)
    return text if names["colour"] else text.removeprefix("None ")


def matches(queries, codes):
    """[..., F] codes against [q, F] queries: [..., q], whether everything the query says holds."""
    queries = torch.as_tensor(np.asarray(queries))
    return ((codes[..., None, :] == queries) | (queries == ANY)).all(-1)


def pool(subjects, rng, count):
    """Every class by its word, and `count` queries of these subjects, each also with an error."""
    queries = [[i, *[ANY] * 7] for i in range(len(CLASSES))]
    codes = [code(s) for s in subjects]
    for i in rng.permutation(len(subjects))[:count]:
        right = query_of(subjects[i], rng)
        queries += [right, spoiled(right, rng, codes)]
    texts = [TEMPLATES[rng.integers(len(TEMPLATES))].format(words(q)) for q in queries]
    return queries, texts
