"""Methods by name: names are forgiving, values are not."""

import pytest

from sdeadapt.methods import METHODS, SGD, Adam, RMSprop, method


@pytest.mark.parametrize("name", ["rmsprop", "RMSprop", "rms-prop", "RMS_Prop"])
def test_hyphens_underscores_and_case_do_not_matter(name):
    assert method(name, lr=0.1) == RMSprop(0.1)


def test_options_are_values_or_text():
    assert method("adam", lr="1e-2", BETA1=".8", bias_correction="False", denominator="old") == Adam(
        0.01, 0.8, denominator="old", bias_correction=False
    )
    assert method("adam", **{"lr": 1, "bias-correction": True}) == Adam(1.0)

    def schedule(t):
        return 0.5

    assert method("sgd", lr=0.1, schedule=schedule) == SGD(0.1, schedule)


def test_every_method_can_be_built_by_name():
    for name, cls in METHODS.items():
        assert type(method(name, lr=0.1)) is cls
        assert name == cls.__name__.lower()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rmspop", {"lr": 0.1}, "`method` must be one of .*got 'rmspop'. Did you mean 'rmsprop'?"),
        ("adam", {"lr": 0.1, "beta3": 0.9}, "`option of Adam` must be one of .*Did you mean 'beta[12]'?"),
        ("adam", {"beta1": 0.9}, "Adam needs `lr`; got beta1"),
        ("sgd", {}, "SGD needs `lr`; got no options"),
        ("sgd", {"lr": "fast"}, "`lr` must be of type float; got 'fast'"),
        ("sgd", {"lr": True}, "`lr` must be of type float; got True"),
        ("sgd", {"lr": "-1"}, "`lr` must be finite and positive; got -1.0"),
        ("adam", {"lr": 0.1, "bias_correction": "maybe"}, "`bias_correction` must be of type bool; got 'maybe'"),
        ("adam", {"lr": 0.1, "denominator": 2}, "`denominator` must be of type str; got 2"),
        ("adam", {"lr": 0.1, "schedule": "cosine"}, "`schedule` must be of type .*got 'cosine'"),
        ("adam", {"lr": 0.1, "one_minus_beta1": 0.1}, "`option of Adam` must be one of"),
    ],
)
def test_errors_name_the_rule_the_value_and_the_nearest(name, options, message):
    with pytest.raises(ValueError, match=message):
        method(name, **options)
