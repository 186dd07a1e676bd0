"""The four models as the programs use them: boxes of words, masks of boxes, likeness, text scores."""
import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPModel, Dinov2Model, Owlv2ForObjectDetection, SamModel

import worlds  # noqa: F401  makes the folder above known
from eyes import TOKENIZER, normalized
from pictures import to_float
from tokenizer import Tokenizer
from train_clip import text_ids
from train_detector import corners, features, query_embeds
from train_dino import square


class Eyes:
    """The folders of the models, in f32 on one thread."""

    @torch.no_grad()
    def __init__(self, folder):
        def load(kind, name):
            return kind.from_pretrained(f"{folder}/{name}", dtype=torch.float32).eval()

        self.detector, self.segmenter = load(Owlv2ForObjectDetection, "detector"), load(SamModel, "segmenter")
        self.dino, self.clip = load(Dinov2Model, "dino"), load(CLIPModel, "clip")
        self.tokenizer = Tokenizer(str(TOKENIZER))

    @torch.no_grad()
    def scores(self, pictures, texts):
        """Scores [n, 64, q] and boxes [n, 64, 4] (corners in pixels) for queries that all pictures share."""
        patches = features(self.detector, normalized("detector", to_float(pictures)))
        text = query_embeds(self.detector, self.tokenizer, texts)
        logits, _ = self.detector.class_predictor(patches, text)
        boxes = torch.sigmoid(self.detector.box_head(patches) + self.detector.box_bias)
        return logits.sigmoid().numpy(), (corners(boxes) * 128).numpy()

    def detect(self, picture, texts, threshold, nms=1):
        """Boxes, scores, and which text: the highest score first, none that overlaps a better one by more than `nms`."""
        scores, boxes = (v[0] for v in self.scores(picture[None], texts))
        best = scores.max(1)
        rows = [i for i in np.argsort(-best) if best[i] > threshold]
        kept = []
        for i in rows:
            if all(iou(boxes[i], boxes[j]) <= nms for j in kept):
                kept.append(i)
        return boxes[kept], best[kept], scores[kept].argmax(1)

    @torch.no_grad()
    def cut(self, picture, box):
        """The mask of a box [128, 128] and its predicted quality."""
        out = self.segmenter(pixel_values=normalized("segmenter", to_float(picture[None])),
                             input_boxes=torch.tensor(np.asarray(box), dtype=torch.float32)[None, None],
                             multimask_output=False)
        logits = F.interpolate(out.pred_masks[:, 0].float(), size=(128, 128), mode="bilinear")
        return (logits[0, 0] > 0).numpy(), float(out.iou_scores.flatten()[0])

    @torch.no_grad()
    def embed(self, pictures):
        """Unit rows for Detect-and-Compare."""
        tokens = self.dino(pixel_values=normalized("dino", to_float(pictures))).last_hidden_state
        return F.normalize(tokens.mean(1), dim=-1).numpy()

    @torch.no_grad()
    def text_scores(self, pictures, texts):
        """Cosines [n, q]."""
        vision = self.clip.vision_model(pixel_values=normalized("clip", to_float(pictures)))
        picture = F.normalize(self.clip.visual_projection(vision.pooler_output), dim=-1)
        words = self.clip.text_model(input_ids=text_ids(self.tokenizer, texts)).pooler_output
        return (picture @ F.normalize(self.clip.text_projection(words), dim=-1).T).numpy()


def grown(box, margin=0.05):
    """A box as `segment` gives it to the segmenter."""
    more = 128 * margin
    return np.clip(np.asarray(box, float) + [-more, -more, more, more], 0, 128)


def iou(a, b):
    """Of two boxes."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.clip(high - low, 0, None))
    return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both + 1e-9)


def compare(eyes, picture, boxes, references):
    """Detect-and-Compare of two subjects: the score of the first version and the spectral one."""
    photos = [eyes.embed(r) for r in references]
    truth = np.array([[(a @ b.T).mean() for b in photos] for a in photos])
    if len(boxes) != 2:
        return 0.0, 0.0
    crops = eyes.embed(np.stack([square(picture, b) for b in boxes]))
    s = np.array([[(c @ p.T).mean() for p in photos] for c in crops])
    one, two = s[0, 0] - s[0, 1], s[1, 0] - s[1, 1]
    first = abs(one - two) if one * two > 0 else abs(one) + abs(two)
    rows = [0, 1] if s[0, 0] >= s[1, 0] else [1, 0]
    return float(first), float(1 - np.linalg.norm(s[rows] - truth, 2))


def auroc(good, bad):
    """The share of pairs in order."""
    good, bad = np.array(good)[:, None], np.array(bad)[None]
    return float((good > bad).mean() + 0.5 * (good == bad).mean())
