"""Trains each method for a moment, keeps it and draws from what was kept.

With gfnlite alone, whatever else is installed: `python tests/every_method.py`.
"""

import tempfile
from pathlib import Path

import torch

import gfnlite as gl

for method in gl.METHODS:
    config = gl.preset("9gmm", method, "smoke")
    ensemble = gl.Ensemble(gl.gmm9, config=config, seeds=2).fit(progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        ensemble[0].save(path)
        kept = gl.GFNDiffusion.load(path)
    assert kept.iteration == config.iterations
    assert torch.equal(kept.sample(3), ensemble[0].sample(3)), method
    print(method, "ELBO", f"{kept.evaluate(100)['elbo']:.2f}")
