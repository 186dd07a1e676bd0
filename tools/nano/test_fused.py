"""The fused norms against PyTorch's in f32: results, gradients, and a whole network.

    python test_fused.py      # needs PyTorch, diffusers and g++
"""
import copy
from unittest import TestCase, main

import torch
import torch.nn.functional as F

import fused
import model

#: bf16 keeps 8 bits: half of the last one is 2^-9.
ROUNDING = 2.0 ** -8


def distance(a, b):
    """The relative error of all of `a`."""
    return float((a.detach().float() - b.detach()).norm() / b.detach().norm())


class Fused(TestCase):
    """Everything stays within what rounding to bf16 explains."""

    def test_norm_and_gradients(self):
        """Sizes of both networks, with SiLU and without."""
        torch.manual_seed(0)
        for shape, groups, silu in (((8, 32, 32, 32), 8, True), ((4, 96, 16, 16), 32, True),
                                    ((3, 224, 4, 4), 32, False)):
            norm = fused.FusedNorm(groups, shape[1], eps=1e-6)
            norm.silu = silu
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
            x = (torch.randn(shape) * 2 + 1).bfloat16().requires_grad_()
            given = torch.randn(shape).bfloat16()
            norm(x).backward(given)
            plain = torch.nn.GroupNorm(groups, shape[1], eps=1e-6)
            plain.load_state_dict(norm.state_dict())
            wide = x.detach().float().requires_grad_()
            y = F.silu(plain(wide)) if silu else plain(wide)
            y.backward(given.float())
            for a, b in ((norm(x), y), (x.grad, wide.grad), (norm.weight.grad, plain.weight.grad),
                         (norm.bias.grad, plain.bias.grad)):
                self.assertLess(distance(a, b), ROUNDING, shape)

    def test_the_autoencoder_stays_the_same(self):
        """`speed_up` changes no parameter's name and no result beyond rounding in every layer."""
        torch.manual_seed(0)
        plain = model.make_vae()
        quick = fused.speed_up(copy.deepcopy(plain))
        self.assertEqual(list(plain.state_dict()), list(quick.state_dict()))
        x = torch.randn(2, 3, 64, 64)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            same = plain.decode(plain.encode(x).latent_dist.mean).sample.float()
            y = quick.decode(quick.encode(x).latent_dist.mean).sample
        self.assertLess(distance(y, same), 16 * ROUNDING)


if __name__ == "__main__":
    main()
