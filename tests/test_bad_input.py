"""Bad input: one clear error that names the argument, the value and what is allowed."""

import pytest
import torch

import gfnlite as gl


def nan_at_some(x):
    return torch.where(x[:, 0] > 0, torch.nan, x.square().sum(-1))


def far_nan(x):
    return torch.where(x[:, 0] > 3, torch.nan, x.square().sum(-1))


def box(x):
    return torch.where(x[:, 0].abs() > 3, torch.inf, x.square().sum(-1))


def detached(x):
    return x.detach().square().sum(-1)


def sampler(energy_fn=gl.gmm9, **kwargs):
    return gl.GFNDiffusion(energy_fn, **{"iterations": 20, "steps": 5, "batch_size": 64} | kwargs)


def energy(fn):
    return sampler(fn, dim=2, sigma2=4.0)


CASES = {
    # unknown names
    "task": (lambda: gl.preset("26gmm", "TB", "quick"), "task='26gmm'.*allowed: 9gmm, 25gmm"),
    "method": (
        lambda: gl.preset("25gmm", "TBB", "quick"),
        "method='TBB'.*allowed: DIS, .*TB\\+Expl",
    ),
    "profile": (lambda: gl.preset("25gmm", "TB", "fast"), "profile='fast'.*smoke, quick, full"),
    "target": (lambda: gl.named_target("gmm"), "task='gmm' is unknown; known: 9gmm"),
    "setting": (lambda: sampler(step=5), "unknown setting 'step'; known: objective"),
    "objective": (lambda: sampler(objective="mse"), "objective='mse'.*allowed: tb, vargrad, db"),
    "grid": (lambda: gl.time_grid(5, "sine"), "grid='sine'.*allowed: uniform, random, cosine"),
    # wrong types
    "float steps": (lambda: sampler(steps=5.0), "steps=5.0 has type float, must be int"),
    "true steps": (lambda: sampler(steps=True), "steps=True has type bool, must be int"),
    "text lr": (lambda: sampler(lr="1e-3"), "lr='1e-3' has type str, must be float.*1.0e-3"),
    "no lr": (lambda: sampler(lr=None), "lr=None has type NoneType, must be float"),
    "seed": (lambda: sampler(seed=1.5), "seed=1.5 must be an integer from 0"),
    "energy": (lambda: gl.GFNDiffusion(3.0, dim=2), "energy_fn=3.0 must be a Target or a callable"),
    "class": (lambda: gl.GFNDiffusion(gl.ManyWell), "ManyWell.* must be a Target or a callable"),
    # out of range
    "steps": (lambda: sampler(steps=-3), "steps=-3 must be at least 1"),
    "sample steps": (lambda: sampler().sample(4, steps=0), "steps=0 must be a positive integer"),
    "batch": (lambda: sampler().sample(0), "batch_size=0 must be an integer of at least 1"),
    "n_samples": (lambda: sampler().evaluate(0), "n_samples=0 must be an integer of at least 2"),
    "sigma2": (lambda: sampler(sigma2=0.0), "sigma2=0.0 must be greater than 0"),
    "nan": (lambda: sampler(lr=float("nan")), "lr=nan must be finite"),
    "exploration": (lambda: sampler(exploration=-1.0), "exploration=-1.0 must be at least 0"),
    "fraction": (lambda: sampler(lr_decay=1.5), "lr_decay=1.5 must be at most 1"),
    "vargrad": (lambda: sampler(objective="vargrad", batch_size=1), "batch_size=1 .* at least 2"),
    "iterations": (lambda: sampler().fit(-1), "iterations=-1 must be a non-negative integer"),
    "odd wells": (lambda: gl.ManyWell(7), "dim=7 of ManyWell must be a positive even integer"),
    "variance": (lambda: gl.GMM([[0.0, 0.0]], -1.0), "variance=-1.0 must be positive"),
    "means": (lambda: gl.GMM([0.0, 1.0], 1.0), "means must have shape \\(K, d\\), got \\(2,\\)"),
    "std": (lambda: gl.Gaussian([0.0], 0.0), "std=0.0 must be positive"),
    # dimensions and energies
    "no dim": (lambda: gl.GFNDiffusion(box), "dim=None: a callable energy needs dim"),
    "other dim": (lambda: sampler(dim=3), "dim=3 but target '9gmm' has dim=2"),
    "x": (
        lambda: sampler().log_weight(x=torch.zeros(4, 3)),
        "shape \\(4, 3\\), must be \\(B, 2\\)",
    ),
    "neither": (lambda: sampler().log_weight(), "exactly one of batch_size and x"),
    "shape": (
        lambda: energy(lambda x: x),
        "must return .* shape \\(B,\\) = \\(8,\\).*got \\(?shape",
    ),
    "column": (lambda: energy(lambda x: x[:, :1]), "got shape \\(8, 1\\)"),
    "number": (lambda: energy(lambda x: 1.0), "got float"),
    "nan energy": (lambda: energy(nan_at_some), "'nan_at_some\\(x\\)' is NaN at . of 8 points"),
    "no gradient": (
        lambda: energy(detached).target.score(torch.ones(2, 2)),
        "'detached\\(x\\)' has no gradient with respect to x",
    ),
    "contours": (lambda: gl.plots.density(gl.ManyWell(4), 3.0), "has dim=4; contours need dim=2"),
    "w2": (lambda: gl.w2(torch.zeros(3, 2), torch.zeros(3, 1)), "x and y must be"),
}


@pytest.mark.parametrize("call, message", CASES.values(), ids=CASES)
def test_one_clear_error(call, message, one_clear_error):
    one_clear_error(call, message)


@pytest.mark.parametrize("fn, what", [(far_nan, "NaN"), (box, "an infinite value")])
def test_an_energy_that_fails_in_training_stops_it_before_the_step(fn, what):
    broken = sampler(fn, dim=2, sigma2=1.0, exploration=60.0)
    before = [p.clone() for p in broken.policy.parameters()]
    with pytest.raises(FloatingPointError, match=f"iteration 0: energy returned {what} at"):
        broken.fit(progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, broken.policy.parameters(), strict=True))


def test_a_network_that_diverges_is_named():
    broken = sampler()
    with torch.no_grad():
        broken.policy.forward_net.out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the drift network diverged"):
        broken.fit(progress=False)


def test_an_energy_without_gradient_can_still_be_trained():
    assert energy(detached).fit(progress=False).iteration == 20


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign"])
def test_a_bad_checkpoint_is_refused_and_left_as_it_is(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    sampler().fit(progress=False, folder=tmp_path)
    whole = path.read_bytes()
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    content = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"not a checkpoint",
        "foreign": (tmp_path / "foreign.pt").read_bytes(),
    }[damage]
    path.write_bytes(content)
    for call in (lambda: gl.GFNDiffusion.load(path), lambda: sampler().fit(folder=tmp_path)):
        with pytest.raises(ValueError, match="is not a (whole )?gfnlite checkpoint"):
            call()
    assert path.read_bytes() == content


@pytest.mark.parametrize("change", [{"hidden": 32}, {"seed": 1}, {"exploration": 1.0}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    sampler().fit(progress=False, folder=tmp_path)
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"has {name}=.*, this sampler"):
        sampler(**change).fit(progress=False, folder=tmp_path)


def test_a_checkpoint_of_another_target_is_refused(tmp_path):
    sampler().save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="has target='9gmm', this sampler '25gmm'"):
        gl.GFNDiffusion.load(tmp_path / "a.pt", gl.gmm25)


def test_a_missing_checkpoint_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        gl.GFNDiffusion.load(tmp_path / "none.pt")


def test_a_nan_never_reaches_a_json_file(tmp_path):
    path = tmp_path / "metrics.json"
    gl.write_json(path, {"elbo": -1.0})
    with pytest.raises(ValueError):
        gl.write_json(path, {"elbo": float("nan")})
    assert '"elbo": -1.0' in path.read_text() and len(list(tmp_path.iterdir())) == 1
