"""Config: every field refuses what is out of range or of another type; so do choices that clash."""

import dataclasses
import math
import typing

import pytest

import gfnlite as gl

FIELDS = {field.name: field for field in dataclasses.fields(gl.Config)}
HINTS = typing.get_type_hints(gl.Config)


def kind_of(name):
    hint = HINTS[name]
    return next((part for part in typing.get_args(hint) if part is not type(None)), hint)


def bad_values(name):
    """Values that the field must refuse: outside its own limits, and of every other type."""
    rule, kind = FIELDS[name].metadata, kind_of(name)
    if rule["choices"]:
        yield "nonsense"
    if rule["low"] is not None:
        yield kind(rule["low"] - 1)
    if rule["above"] is not None:
        yield kind(rule["above"])
    if rule["high"] is not None:
        yield kind(rule["high"] + 1)
    others = {int: 1.5, float: "1.0", bool: 1, str: 3}
    yield others[kind]
    if kind is float:
        yield from (math.nan, math.inf, True)
    if kind is int:
        yield True
    if type(None) not in typing.get_args(HINTS[name]):
        yield None


@pytest.mark.parametrize("name, value", [(name, v) for name in FIELDS for v in bad_values(name)])
def test_every_field_refuses_what_is_not_allowed(name, value):
    with pytest.raises(ValueError) as caught:
        gl.Config(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}={value!r} ") and "\n" not in message
    assert " must be " in message or "allowed: " in message


def test_every_number_has_a_limit_and_every_text_its_choices():
    for name, field in FIELDS.items():
        rule, kind = field.metadata, kind_of(name)
        assert len(rule["doc"]) > 8, name
        if kind is str:
            assert rule["choices"], name
        elif kind is not bool:
            assert rule["low"] is not None or rule["above"] is not None, name
    assert set(gl.Config.describe()) == set(FIELDS)


CLASHES = {
    "a flow to look forward from": ({"forward_looking": True}, "forward_looking=True with objec"),
    "pis with replay": (
        {"objective": "reverse_kl", "replay_ratio": 0.5}, "can only learn on-policy",
    ),
    "pis with exploration": (
        {"objective": "reverse_kl", "exploration": 1.0}, "can only learn on-policy",
    ),
    "mle without replay": ({"replay_objective": "mle"}, "set replay_ratio above 0, not 0"),
    "search without replay": ({"ls_every": 10}, "set replay_ratio above 0, not 0"),
    "prefill without replay": ({"prefill": 10}, "set replay_ratio above 0, not 0"),
    "nothing to replay": ({"replay_ratio": 1.0}, "replay_ratio=1 needs prefill"),
    "all burn-in": (
        {"replay_ratio": 0.5, "ls_every": 10, "ls_steps": 50, "ls_burn_in": 50},
        "ls_burn_in=50 must be below ls_steps=50",
    ),
    "repeats": ({"batch_size": 100, "repeats": 7}, "batch_size=100 must be a multiple"),
    "variance of one": ({"objective": "vargrad", "batch_size": 1}, "at least 2 trajectories"),
    "variance of one each": ({"objective": "vargrad", "repeats": 1}, "repeats=1 with objective"),
}  # fmt: skip


@pytest.mark.parametrize("settings, message", CLASHES.values(), ids=CLASHES)
def test_choices_that_clash_are_one_clear_error(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        gl.Config(**settings)
    assert "\n" not in str(caught.value)


def test_choices_that_do_not_clash_are_taken():
    gl.Config(objective="subtb", forward_looking=True, replay_ratio=0.5, ls_every=5)
    gl.Config(replay_ratio=1.0, prefill=100, replay_objective="mle")
    gl.Config(objective="vargrad", repeats=5)


def test_changes_of_a_preset_win_and_none_is_no_change():
    plain = gl.preset("vae_whitened", "VarGrad+LP+LV", "quick")
    changed = gl.preset("vae_whitened", "VarGrad+LP+LV", "quick", steps=7, lr=None)
    assert changed == plain.replace(steps=7) != plain
    with pytest.raises(ValueError, match="unknown setting 'step'"):
        gl.preset("25gmm", "TB", "quick", step=3)
    # as they are: here None switches off, where as a change it means the preset's own
    off = gl.preset("25gmm", "TB", "quick", {"coarse_steps": None}, hidden=None)
    assert off.coarse_steps is None and off.hidden == 64
    assert gl.preset("25gmm", "TB", "quick", coarse_steps=None).coarse_steps == 20


def test_the_table_of_settings_names_what_was_chosen():
    lines = gl.Config(lr=1e-3, hidden=32).markdown(always=["steps"]).splitlines()
    named = [line.split("`")[1:4:2] for line in lines[2:]]
    assert sorted(named) == [["hidden", "32"], ["lr", "0.001"], ["steps", "100"]]
    assert all(gl.Config.describe()[line.split("`")[1]] in line for line in lines[2:])
