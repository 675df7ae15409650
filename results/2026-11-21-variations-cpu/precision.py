"""bf16 against f32, whole chains and networks, random weights."""
import sys, json
import numpy as np, jax, jax.numpy as jnp
from purify.models.shapes import random_pipeline
from purify.defenses.variation_models import VARIATION_MODELS
shapes, steps = sys.argv[1], int(sys.argv[2])
for kind in ('sd_variation','versatile'):
    out={}
    for dtype in ('float32','bfloat16'):
        prior=VARIATION_MODELS[kind].from_pipeline(random_pipeline(kind, shapes, seed=0, dtype=dtype), dtype=dtype)
        rng=np.random.default_rng(0)
        px=rng.normal(size=(2,224,224,3)).astype(np.float32); z=rng.normal(size=(2,16,16,4)).astype(np.float32)
        out[dtype]=np.asarray(prior.generate(px,z,steps=steps,guidance=7.5))
    d=np.abs(out['float32']-out['bfloat16'])
    print(json.dumps({'kind':kind,'shapes':shapes,'steps':steps,'mean_difference_of_255':float(d.mean()*255),'max':float(d.max()*255),'share_above_8_of_255':float((d>8/255).mean()),'std_of_images':float(out['float32'].std()*255)}),flush=True)
