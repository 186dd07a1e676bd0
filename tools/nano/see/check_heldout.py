"""Shows that training renders no held-out subject: the rule, every way a subject is made, and the shards.

    python check_heldout.py [WORK]
"""
import glob
import json
import sys

import numpy as np

import data
from worlds import PUBLISHED, held_out, key, random_subject, toyworld


def shards(work):
    """Every rendered shard of WORK."""
    return sorted(file for kind in data.KINDS for file in glob.glob(f"{work}/{kind}/*.npz"))


def main():
    """Fails by an assertion."""
    for pair in toyworld.HELDOUT.values():
        assert all(held_out(s["look"]) for s in pair)
    rng = np.random.default_rng(5)
    assert not any(held_out(random_subject(rng)) for _ in range(2000))
    assert all(held_out(random_subject(rng, unseen=True)) for _ in range(200))
    for _ in range(300):
        for dressed in (False, True):
            assert not any(map(held_out, data.identities(rng, data.seen_subject, dressed)))
    try:
        data.checked([toyworld.HELDOUT["bears"][0]["look"]])
    except ValueError:
        pass
    else:
        raise AssertionError("a held-out subject was let through")
    looked = 0
    for file in shards(sys.argv[1]) if len(sys.argv) > 1 else []:
        arrays = np.load(file)
        for spec in map(json.loads, arrays["specs"] if "specs" in arrays else []):
            subjects = spec["subjects"] if isinstance(spec, dict) else spec
            assert not any(key(s) in PUBLISHED or held_out(s) for s in subjects), file
            looked += len(subjects)
    print(f"no held-out subject; {looked} rendered subjects looked at")


if __name__ == "__main__":
    main()
