"""No picture that nano trains on shows a subject of a held-out pair, and no caption names one.

    python test_heldout.py      # needs NumPy only; looks at every scene of the run
"""
from unittest import TestCase, main, mock

import numpy as np

import toyworld

SHARDS = 60
SUBJECTS = [subject for pair in toyworld.HELDOUT.values() for subject in pair]


class HeldOut(TestCase):
    """Scenes, captions, and what the renderer is handed."""

    def test_no_scene_of_the_run_holds_one(self):
        """By words (class, colours, pattern) and by the limbs that only they have."""
        names = [subject["class"] for subject in SUBJECTS]
        tokens = {subject["token"] for subject in SUBJECTS} | {"lun"}
        for number in range(SHARDS * toyworld.SHARD):
            spec, text = toyworld.scene(number)
            for subject in spec["subjects"]:
                self.assertNotIn(toyworld.words_of(subject), toyworld.HELDOUT_WORDS, number)
                self.assertNotIn("limb", subject, number)
            self.assertFalse(any(name in text for name in names), text)
            self.assertFalse(tokens & set(text.replace(",", "").split()), text)

    def test_a_shard_renders_those_scenes_and_nothing_else(self):
        """`write_shard`, with its renderer and its files watched."""
        picture = np.zeros((toyworld.SIZE, toyworld.SIZE, 3), np.uint8)
        with (mock.patch.object(toyworld, "render", return_value=(picture, [])) as render,
              mock.patch.object(toyworld, "SHARD", 50), mock.patch("builtins.open"),
              mock.patch.object(np, "save"), mock.patch("os.replace")):
            toyworld.write_shard("nowhere", 3)
        drawn = [call.args[0] for call in render.call_args_list]
        self.assertEqual(drawn, [toyworld.scene(150 + i)[0] for i in range(50)])

    def test_held_out_words_would_come_up_and_are_drawn_again(self):
        """A generator that draws one first: the rule, not luck, keeps it out."""
        for subject in SUBJECTS:
            other = {"cls": "cat", "colour": "blue", "pattern": "plain"}
            look = {k: v for k, v in subject["look"].items() if k != "limb"}
            with mock.patch.object(toyworld, "any_subject", side_effect=[look, look, other]):
                self.assertEqual(toyworld.random_subject(None), other)


if __name__ == "__main__":
    main()
