"""CLIP's encoders against float64 formulas; PyTorch's answers to them are in golden_test.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf, expit

from purify.core.errors import UserError
from purify.models.clip.clip import CLIPTextModel, CLIPVisionModelWithProjection
from purify.models.clip.clip_config import CLIPTextConfig, CLIPVisionConfig
from purify.models.files.weights import export_tensors

SMALL = {'hidden_size': 8, 'intermediate_size': 12, 'num_hidden_layers': 2}
SMALL |= {'num_attention_heads': 2}
# a row and a column of pixels are left over
VISION = SMALL | {'image_size': 7, 'patch_size': 3, 'projection_dim': 5}
TEXT = SMALL | {
    'vocab_size': 11,
    'max_position_embeddings': 6,
    'bos_token_id': 9,
    'eos_token_id': 10,
}
ACTIVATIONS = {
    'quick_gelu': lambda x: x * expit(1.702 * x),
    'gelu': lambda x: x / 2 * (1 + erf(x / np.sqrt(2))),
}
IMAGES = np.random.default_rng(1).normal(size=(2, 7, 7, 3)).astype(np.float32)


def filled(cls: Any, config: dict[str, Any], **kwargs: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The network and its tensors, all of them random (norms and biases too)."""
    network = nnx.eval_shape(lambda: cls.from_config(config, rngs=nnx.Rngs(0), **kwargs))
    rng = np.random.default_rng(0)
    state = nnx.state(network, nnx.Param)
    nnx.update(
        network, jax.tree.map(lambda x: jnp.asarray(0.6 * rng.normal(size=x.shape), x.dtype), state)
    )
    return network, {name: x.astype(np.float64) for name, x in export_tensors(network).items()}


def linear(x, p, name):
    return x @ p[f'{name}.weight'].T + p[f'{name}.bias']


def norm(x, p, name):
    x = x - x.mean(-1, keepdims=True)
    return (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p[f'{name}.weight'] + p[f'{name}.bias']
    )


def attention(x, p, name, causal):
    """One token, one head at a time."""
    q, k, v = (linear(x, p, f'{name}.{letter}_proj').reshape(len(x), 2, 4) for letter in 'qkv')
    out = np.zeros_like(q)
    for token in range(len(x)):
        seen = token + 1 if causal else len(x)
        for head in range(2):
            weights = np.exp(k[:seen, head] @ q[token, head] / 2)
            out[token, head] = weights @ v[:seen, head] / weights.sum()
    return linear(out.reshape(x.shape), p, f'{name}.out_proj')


def encode(x, p, part, act, causal):
    for layer in range(2):
        name = f'{part}.encoder.layers.{layer}'
        x = x + attention(norm(x, p, f'{name}.layer_norm1'), p, f'{name}.self_attn', causal)
        x = x + linear(
            ACTIVATIONS[act](linear(norm(x, p, f'{name}.layer_norm2'), p, f'{name}.mlp.fc1')),
            p,
            f'{name}.mlp.fc2',
        )
    return x


def vision_states(image, p, act):
    kernel = p['vision_model.embeddings.patch_embedding.weight'].transpose(2, 3, 1, 0)  # OIHW
    tokens = [p['vision_model.embeddings.class_embedding']]
    tokens += [
        np.einsum('hwc,hwco->o', image[y : y + 3, x : x + 3], kernel)
        for y in (0, 3)
        for x in (0, 3)
    ]
    places = p['vision_model.embeddings.position_embedding.weight']
    x = norm(np.stack(tokens) + places, p, 'vision_model.pre_layrnorm')
    return encode(x, p, 'vision_model', act, causal=False)


def text_states(ids, p, act):
    x = p['text_model.embeddings.token_embedding.weight'][ids]
    x = x + p['text_model.embeddings.position_embedding.weight'][: len(ids)]
    return norm(encode(x, p, 'text_model', act, causal=True), p, 'text_model.final_layer_norm')


@pytest.mark.long
@pytest.mark.parametrize('act', ACTIVATIONS)
def test_vision_by_hand(act):
    network, p = filled(CLIPVisionModelWithProjection, VISION | {'hidden_act': act})
    embeds, states = network(jnp.asarray(IMAGES))
    wanted = np.stack([vision_states(image, p, act) for image in IMAGES])
    projected = norm(wanted, p, 'vision_model.post_layernorm') @ p['visual_projection.weight'].T
    np.testing.assert_allclose(states, wanted, atol=1e-4)
    np.testing.assert_allclose(embeds, projected[:, 0], atol=1e-4)
    np.testing.assert_allclose(network.project(states), projected, atol=1e-4)
    assert embeds.dtype == states.dtype == jnp.float32


@pytest.mark.long
@pytest.mark.parametrize('act', ACTIVATIONS)
def test_text_by_hand(act):
    network, p = filled(CLIPTextModel, TEXT | {'hidden_act': act})
    ids = np.array([[9, 1, 2, 10, 10], [9, 10, 3, 4, 5], [9, 8, 7, 6, 5]])
    states, pooled = network(jnp.asarray(ids))
    wanted = np.stack([text_states(row, p, act) for row in ids])
    np.testing.assert_allclose(states, wanted, atol=1e-4)
    # first end; first token where there is none
    np.testing.assert_allclose(pooled, wanted[np.arange(3), [3, 1, 0]], atol=1e-4)


@pytest.mark.long
def test_the_wrong_end_of_old_configs_pools_at_the_largest_id():
    network, _ = filled(CLIPTextModel, TEXT | {'eos_token_id': 2})
    states, pooled = network(jnp.array([[9, 2, 1, 10, 10], [9, 10, 2, 4, 4], [9, 2, 1, 0, 0]]))
    np.testing.assert_array_equal(pooled, states[np.arange(3), [3, 1, 0]])


@pytest.mark.long
def test_bfloat16_is_near_float32_and_no_more():
    cases = (
        (CLIPVisionModelWithProjection, VISION, IMAGES),
        (CLIPTextModel, TEXT, np.array([[9, 1, 2, 10, 10]] * 3)),
    )
    for cls, config, x in cases:
        exact, half = (
            nnx.jit(filled(cls, config, dtype=dtype)[0])(jnp.asarray(x))
            for dtype in (None, jnp.bfloat16)
        )
        for a, b in zip(exact, half, strict=True):
            error = float(jnp.linalg.norm(a - b) / jnp.linalg.norm(a))
            assert 1e-4 < error < 0.03
            assert b.dtype == jnp.float32


def read(kind, config):
    return kind(**kind.known(config))


def test_sparse_and_nested_configs_take_the_defaults_of_transformers():
    whole = {'model_type': 'clip', 'vision_config': {'patch_size': 14}, 'text_config': None}
    whole |= {'logit_scale_init_value': 2.6}
    written = {'architectures': ['x'], 'torch_dtype': 'float32', 'dropout': 0.0, 'max_length': 20}
    written |= {'gradient_checkpointing': False}
    vision, text = (read(kind, whole).as_json() for kind in (CLIPVisionConfig, CLIPTextConfig))
    names = ('hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads')
    names += ('projection_dim', 'hidden_act')
    assert [vision[name] for name in names] == [768, 3072, 12, 12, 512, 'quick_gelu']
    assert [text[name] for name in names] == [512, 2048, 12, 8, 512, 'quick_gelu']
    assert (vision['image_size'], vision['patch_size'], vision['num_channels']) == (224, 14, 3)
    wanted = (49408, 77, 49407)
    assert (text['vocab_size'], text['max_position_embeddings'], text['eos_token_id']) == wanted
    assert read(CLIPTextConfig, text | written).as_json() == text  # what it writes it reads


def test_a_part_that_is_written_twice():
    """openai/clip-vit-large-patch14 holds text_config and text_config_dict."""
    whole = {
        'text_config': {'hidden_size': 768, 'vocab_size': 50},
        'text_config_dict': {'hidden_size': 768, 'num_attention_heads': 12},
    }
    found = read(CLIPTextConfig, whole)
    assert (found.hidden_size, found.vocab_size, found.num_attention_heads) == (768, 50, 12)
    whole['text_config_dict']['vocab_size'] = 51
    said = 'vocab_size is 50 in text_config and 51 in text_config_dict'
    with pytest.raises(UserError, match=said):
        read(CLIPTextConfig, whole)


def test_a_network_tells_its_config():
    for cls, config, kind in (
        (CLIPVisionModelWithProjection, VISION, 'clip_vision_model'),
        (CLIPTextModel, TEXT, 'clip_text_model'),
    ):
        told = filled(cls, config | {'hidden_act': 'gelu'})[0].config
        assert told.items() >= (config | {'hidden_act': 'gelu', 'model_type': kind}).items()
        assert told['architectures'] == [cls.__name__]


@pytest.mark.parametrize(
    ('cls', 'change', 'words'),
    [
        (CLIPTextModel, {'hidden_act': 'relu'}, "hidden_act = 'relu'.*quick_gelu"),
        (CLIPTextModel, {'num_attention_heads': 3}, 'num_attention_heads = 3 does not divide'),
        (CLIPTextModel, {'eos_token_id': [1, 2]}, 'eos_token_id'),
        (CLIPTextModel, {'vocab_size': 0}, 'vocab_size = 0'),
        (CLIPTextModel, {'classifier_dropout': 0.1}, 'classifier_dropout'),
        (CLIPTextModel, {'layer_norm_eps': 'x'}, "layer_norm_eps = 'x'"),
        (CLIPTextModel, {'num_hidden_layers': True}, 'num_hidden_layers = True'),
        (
            CLIPTextModel,
            {'num_hidden_layers': 10**9},
            'num_hidden_layers = 1000000000 must be a positive integer up to 1000',
        ),
        (
            CLIPTextModel,
            {'vocab_size': 10**9},
            'vocab_size = 1000000000 must be a positive integer up to 1048576',
        ),
        (CLIPTextModel, {'layer_norm_eps': 10**400}, 'layer_norm_eps'),
        (CLIPTextModel, {'text_config': ['x']}, 'text_config'),
        (CLIPVisionModelWithProjection, {'patch_size': 8}, 'patch_size = 8'),
        (CLIPVisionModelWithProjection, {'image_size': [7, 7]}, 'image_size'),
        (CLIPVisionModelWithProjection, {'vocab_size': 11}, 'vocab_size'),
    ],
)
def test_configs_that_are_not_supported_are_named(cls, change, words):
    config = (TEXT if cls is CLIPTextModel else VISION) | change
    with pytest.raises(UserError, match=words):
        cls.from_config(config, rngs=nnx.Rngs(0))


def test_inputs_of_the_wrong_shape_are_named():
    vision, text = filled(CLIPVisionModelWithProjection, VISION)[0], filled(CLIPTextModel, TEXT)[0]
    for shape in ((1, 8, 7, 3), (1, 7, 7, 1), (7, 7, 3)):
        with pytest.raises(UserError, match='image_size = 7'):
            vision(jnp.zeros(shape))
    with pytest.raises(UserError, match='max_position_embeddings = 6'):
        text(jnp.zeros((1, 7), jnp.int32))
    for ids in (jnp.zeros((1, 5)), jnp.zeros(5, jnp.int32), jnp.zeros((1, 0), jnp.int32)):
        with pytest.raises(UserError, match='token ids'):
            text(ids)
