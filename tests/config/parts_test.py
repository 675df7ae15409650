import pytest

from purify.config import parts


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('digits', {'name': 'digits'}),
        ('arrays:/data/x:y', {'name': 'arrays', 'path': '/data/x:y'}),
        ('imagefolder:pictures', {'name': 'imagefolder', 'path': 'pictures'}),
        ('tfds:cifar10', {'name': 'tfds:cifar10', 'data_dir': ''}),
    ],
)
def test_a_source_by_name(name, expected):
    source = parts.source(name, size_px=8, split_seed=3).to_dict()
    own = {key: value for key, value in source.items() if key in ('name', 'path', 'data_dir')}
    assert own == expected
    assert (source['size_px'], source['split_seed'], source['channels']) == (8, 3, 3)


def test_no_attack_has_no_rate():
    assert parts.attack('none', rate=0.1).rate == 0.0
    assert parts.attack('patch', rate=0.1, size_px=5).to_dict().items() >= {'rate': 0.1, 'size_px': 5}.items()


@pytest.mark.parametrize(
    ('make', 'expected'),
    [
        (lambda: parts.attack('badnets', rate=0.1), r"attack='badnets': choose from adaptive_blend, .*none, patch"),
        (lambda: parts.optim('lion'), r"optim='lion': choose from adam, adamw, lars, sgd"),
    ],
)
def test_unknown_names_are_answered_with_the_choices(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()


def test_settings_belong_to_their_optimiser_and_schedule():
    assert 'momentum' not in parts.optim('adam')
    assert parts.optim('sgd', schedule='step', lr=0.1).to_dict().items() >= {'momentum': 0.9, 'factor': 0.1, 'lr': 0.1}.items()
    assert 'factor' not in parts.optim('sgd')
